"""Videos that their server gives as a whole only: they are fetched once, into a temporary file without a name."""

from __future__ import annotations

import os
from http.client import HTTPException, HTTPResponse
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import quote
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from videoreasoner.errors import VideoError

# Most seconds without a byte from the server.
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**20
# Their parts are fetched from addresses beside theirs, so a copy of them alone is of no use.
_PLAYLISTS = (b"#EXTM3U", b"<MPD")


def fetch_whole(source: str, limit_mb: float) -> IO[bytes] | None:
    """Fetch a video from a server that does not give parts of a file (HTTP Range), which decoding needs.

    Args:
        source: a path or an address.
        limit_mb: most megabytes (2**20 bytes) to fetch.

    Returns:
        A temporary file, which is gone as soon as it is closed or its process ends. None if FFmpeg should open the
        source itself: it is on this machine, its server gives parts, it is a playlist, or it cannot be reached.

    Raises:
        VideoError: it is larger than the limit, did not arrive in full, or does not fit on the disk.
    """
    if not source.lower().startswith(("http://", "https://")):
        return None
    try:
        response = _opener().open(
            Request(quote(source, safe="%/:=&?~#+!$,;'@()*[]"), headers={"Range": "bytes=0-0"}), timeout=_TIMEOUT_S
        )
    except (OSError, HTTPException, ValueError):
        # FFmpeg says what is wrong.
        return None
    with response:
        if response.status != 200:
            return None
        return _saved(source, response, limit_mb)


def _opener() -> OpenerDirector:
    """What opens web addresses, and none of the other kinds that urllib knows."""
    opener = OpenerDirector()
    for handler in (
        *(ProxyHandler, UnknownHandler, HTTPHandler, HTTPSHandler),
        *(HTTPDefaultErrorHandler, HTTPRedirectHandler, HTTPErrorProcessor),
    ):
        opener.add_handler(handler())
    return opener


def _saved(source: str, response: HTTPResponse, limit_mb: float) -> IO[bytes] | None:
    stated = response.length
    # The caller closes it.
    file = TemporaryFile(prefix="videoreasoner-")  # noqa: SIM115
    try:
        done = 0
        while chunk := _received(source, response):
            if not done and any(sign in chunk[:1000] for sign in _PLAYLISTS):
                file.close()
                return None
            done += len(chunk)
            if max(done, stated or 0) > limit_mb * 2**20:
                raise VideoError(
                    f"{source}: its server gives it as a whole only, and it has more than {limit_mb:g} MB; save it to "
                    "disk first, or raise VIDEOREASONER_DOWNLOAD_LIMIT_MB."
                )
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise VideoError(
                    f"{source}: its download does not fit into a temporary file ({os.strerror(error.errno or 0)}); "
                    "make room, or set TMPDIR to a folder with more room."
                ) from error
        if stated is not None and done < stated:
            raise VideoError(
                f"{source}: its server sent {done} of {stated} bytes; try again, or save it to disk first."
            )
    except BaseException:
        file.close()
        raise
    return file


def _received(source: str, response: HTTPResponse) -> bytes:
    """The next bytes; none at the end."""
    try:
        return response.read1(_CHUNK_BYTES)
    except TimeoutError as error:
        raise VideoError(f"{source}: its server sent nothing for {_TIMEOUT_S:g} s; try again.") from error
    except (OSError, HTTPException) as error:
        raise VideoError(f"{source}: its server broke off ({error}); try again.") from error
