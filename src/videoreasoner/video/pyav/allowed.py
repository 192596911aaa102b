"""What FFmpeg may do with a source: which protocols, which formats, and how large a picture may be.

FFmpeg understands much more than videos. It follows playlists, draws text as pictures, joins files that a file lists,
and listens on ports. None of this is needed to read a video, so only what is listed here is left to it.
"""

from __future__ import annotations

import os
import re

from videoreasoner.errors import SettingError, VideoError

# Demuxers that read one file each. Absent on purpose: hls, dash, concat, imf, mlv, vobsub and sdp, which open other
# files or addresses; tty, ansi, bin and xbin, which draw text; lavfi and devices, which read no file at all.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,nut,rm,wtv,dv,gxf,ivf,yuv4mpegpipe,swf,nsv,kux,dhav,pva,"
    "flic,h261,h263,h264,hevc,vvc,av1,obu,m4v,mpegvideo,mjpeg,mjpeg_2000,mpjpeg,vc1,vc1test,dirac,dnxhd,cavsvideo,"
    "avs2,avs3"
)
_PICTURES = (
    "image2,gif,apng,jpegxl_anim,ico,bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gem_pipe,gif_pipe,hdr_pipe,j2k_pipe,"
    "jpeg_pipe,jpegls_pipe,jpegxl_pipe,jpegxs_pipe,pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,phm_pipe,"
    "png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,webp_pipe,xbm_pipe,xpm_pipe,xwd_pipe"
)
_LOCAL = "file"
# tls and tcp carry https and http; httpproxy is how https passes a proxy.
_REMOTE = "http,https,httpproxy,tls,tcp"

MAX_PIXELS_VARIABLE = "VIDEOREASONER_MAX_PIXELS_PER_FRAME"
# 8192x8192: twice 8K UHD (7680x4320). As RGB, such a picture takes 201 MB.
_MAX_PIXELS = 2**26
# FFmpeg cannot count further.
_MOST_MAX_PIXELS = 2**31 - 1
# FFmpeg rounds sides up, by less than 128 pixels, before it compares. Up to sides of 65,536 pixels that is this many.
_ROUNDING = 2 * 128 * 2**16

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://", re.ASCII)
# FFmpeg also takes names without slashes for protocols, such as "concat:a|b" and "subfile,,start,0,end,9,,:a".
_PREFIX = re.compile(r"([a-z][a-z0-9+.\-]+)(?:,.*)?:", re.ASCII)


def ffmpeg_options(is_local: bool) -> dict[str, str]:
    """Options for opening a source: protocols, formats, and the size of pictures.

    Raises:
        SettingError: as `max_pixels`.
    """
    return {
        "protocol_whitelist": _LOCAL if is_local else _REMOTE,
        "format_whitelist": f"{_CONTAINERS},{_PICTURES}",
        # A name with "%03d" or "*" is the name of one file.
        "pattern_type": "none",
        "max_pixels": str(min(max_pixels() + _ROUNDING, _MOST_MAX_PIXELS)),
    }


def max_pixels() -> int:
    """How many pixels a picture may have: `VIDEOREASONER_MAX_PIXELS_PER_FRAME`, or 8192x8192.

    Raises:
        SettingError: the variable is no whole number from 1 on, or one that FFmpeg cannot count to.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return _MAX_PIXELS
    # FFmpeg refuses a number with more digits, and Python one with thousands of them.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= _MOST_MAX_PIXELS):
        raise SettingError(f"{MAX_PIXELS_VARIABLE} is {text[:40]!r}; give a whole number from 1 to {_MOST_MAX_PIXELS}.")
    return int(text)


def check_size(source: str, width: int, height: int) -> None:
    """Refuse pictures with more than `max_pixels()`.

    Raises:
        VideoError: they are too large.
    """
    if width * height > max_pixels():
        raise VideoError(
            f"{source}: its pictures have {width}x{height} pixels, and at most {max_pixels()} are read; scale it down, "
            f"or set {MAX_PIXELS_VARIABLE} to more if you trust the file."
        )


def no_size(source: str) -> VideoError:
    """The error for a video without a frame and without a size: FFmpeg reports no size that is over its limit."""
    return VideoError(
        f"{source}: no frame can be decoded: its pictures have more than {max_pixels()} pixels, or a damaged size; "
        f"scale it down, get an undamaged copy, or set {MAX_PIXELS_VARIABLE} to more if you trust the file."
    )


def scheme_of(source: str) -> str | None:
    """The scheme of an address such as "http://host/a", in lower case; None for a path."""
    found = _SCHEME.match(source)
    return found[1].lower() if found else None


def check_address(source: str) -> None:
    """Refuse addresses that are not read.

    Raises:
        VideoError: the source is an address, and not one of http, https or file.
    """
    scheme = scheme_of(source)
    if scheme is None:
        return
    if scheme not in ("http", "https", "file"):
        raise VideoError(f"{source!r}: {scheme}:// is not read; save the video to a file, or give its http(s) address.")
    if scheme == "file" and re.split("[/?#]", source[len("file://") :])[0] not in ("", "localhost"):
        raise VideoError(f"{source}: it names a file on another computer; write file:// and a path that begins with /.")
    # They would become lines of the request.
    if scheme != "file" and any(ord(letter) < 32 or ord(letter) == 127 for letter in source):
        raise VideoError(f"{source!r}: an address holds no control characters; write them as %0A and so on.")


def protocol_of(path: str) -> str | None:
    """The protocol that FFmpeg would see in a path that is given to it as it is, such as "concat"; None without one."""
    found = _PREFIX.match(path)
    return found[1] if found else None


def what_it_is(head: bytes) -> str | None:
    """In words what a file is that is refused, and what to do; None for one that is not recognised.

    Args:
        head: its first bytes; 4096 are enough.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"#EXTM3U", b"ffconcat", b"[playlist]", b"[Reference]")) or b"<MPD" in text or b"<smil" in text:
        return "it is a playlist, which names other files, and those are not opened; give the video file itself."
    # Bytes below 32 other than white space and escape occur in no text.
    if text and not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return "it is text, not a video; check that the path or the download is right."
    return None
