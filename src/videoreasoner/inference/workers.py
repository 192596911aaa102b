"""Processes that answer questions, each with a model of its own, and with a GPU of its own where there are several."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol, cast

import torch

from videoreasoner.errors import SettingError, VideoReasonerError, WorkerError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.inference.records import answer_records
from videoreasoner.rows import Row
from videoreasoner.utils.jsonl import Record
from videoreasoner.utils.processes import end_with_parent


class Source(Protocol):
    """Where a worker gets its model from, such as a `LocalCandidate`. It can be pickled."""

    def load(self) -> Reasoner: ...


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs in order to answer."""

    source: Source
    mode: str
    video_root: Path | None


def check_workers(workers: int) -> None:
    """Refuse a number of workers below 1.

    Raises:
        SettingError
    """
    if workers < 1:
        raise SettingError(f"--workers must be 1 or more, not {workers}")


def answer_videos(config: WorkerConfig, videos: Sequence[Sequence[Row]], workers: int) -> Iterator[Record]:
    """Answer questions that are grouped by video; see `answer_records`.

    Nothing is loaded when there are no questions. One worker answers in this process and in order. Several answer in
    processes of their own, one video at a time, and their records come as they are ready. The processes end when the
    iterator is closed.

    Raises:
        VideoReasonerError: the model cannot be loaded.
        WorkerError: a worker died.
    """
    if not videos:
        return
    if workers > 1:
        yield from _answer_in_processes(config, videos, workers)
        return
    reasoner = config.source.load()
    for rows in videos:
        yield from answer_records(reasoner, rows, config.mode, config.video_root)


def _answer_in_processes(config: WorkerConfig, videos: Sequence[Sequence[Row]], workers: int) -> Iterator[Record]:
    waiting = deque(videos)
    busy: dict[Connection, SpawnProcess] = {}
    try:
        for number in range(min(workers, len(videos))):
            connection, process = _start_worker(config, number)
            busy[connection] = process
            # A worker may end before it has read many rows; what it said, or how it ended, is read below.
            with suppress(OSError):
                connection.send(waiting.popleft())
        while busy:
            for ready in wait(list(busy)):
                connection = cast(Connection, ready)
                try:
                    message = connection.recv()
                    if message is None and waiting:
                        connection.send(waiting.popleft())
                        continue
                except (EOFError, OSError) as error:
                    raise WorkerError(
                        f"a worker {_how_it_ended(busy[connection])}; the answers so far are kept, so start the "
                        "command again, with fewer --workers if memory ran out"
                    ) from error
                if isinstance(message, Exception):
                    raise message
                if message is not None:
                    yield message
                    continue
                # A worker ends when its connection is closed.
                connection.close()
                busy.pop(connection).join()
    finally:
        for process in busy.values():
            process.kill()
            process.join()


def _start_worker(config: WorkerConfig, number: int) -> tuple[Connection, SpawnProcess]:
    # Spawned, because a process with torch's threads in it cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with theirs, _interrupts_held_back():
        process = context.Process(target=_work, args=(theirs, config, number), daemon=True)
        process.start()
    return ours, process


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """An interrupt from the keyboard is for this process, which ends its workers. They inherit the blocked signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def take_gpu(number: int) -> None:
    """Make one GPU the current one of this process: worker i takes number i modulo the number of GPUs.

    The device "cuda", which "auto" means where there is a GPU, is the current one. A device such as "cuda:3" is not.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _work(connection: Connection, config: WorkerConfig, number: int) -> None:
    """Run a worker. For each video it sends its records and then None; or the error that ends the run."""
    # A worker whose parent was killed must not write beside the next run.
    end_with_parent()
    try:
        take_gpu(number)
        reasoner = config.source.load()
        while True:
            for record in answer_records(reasoner, connection.recv(), config.mode, config.video_root):
                connection.send(record)
            connection.send(None)
    except VideoReasonerError as error:
        connection.send(error)
    except EOFError:
        return
