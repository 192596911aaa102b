"""Processes that answer the questions of a benchmark, each with a model of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

from videoreasoner.benchmarks.candidate import Candidate
from videoreasoner.errors import EvaluationError, VideoReasonerError
from videoreasoner.inference.batch import answer_records
from videoreasoner.rows import Row
from videoreasoner.utils.jsonl import Record
from videoreasoner.utils.processes import end_with_parent


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs in order to answer."""

    candidate: Candidate
    mode: str
    video_root: Path


def answer_videos(config: WorkerConfig, videos: Sequence[Sequence[Row]], workers: int) -> Iterator[Record]:
    """Answer questions that are grouped by video; see `answer_records`.

    Nothing is loaded when there are no questions. One worker answers in this process and in order; several answer in
    processes of their own, which end when the iterator is closed, and their records come as they are ready.

    Raises:
        VideoReasonerError: the candidate cannot be loaded.
        EvaluationError: a worker died.
    """
    if not videos:
        return
    if workers > 1:
        yield from _answer_in_processes(config, videos, workers)
        return
    reasoner = config.candidate.load()
    for rows in videos:
        yield from answer_records(reasoner, rows, config.mode, config.video_root)


def _answer_in_processes(config: WorkerConfig, videos: Sequence[Sequence[Row]], workers: int) -> Iterator[Record]:
    waiting = deque(videos)
    busy: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(min(workers, len(videos))):
            connection, process = _start_worker(config)
            busy[connection] = process
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
                    raise EvaluationError(
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


def _start_worker(config: WorkerConfig) -> tuple[Connection, SpawnProcess]:
    # Spawned, because a process with torch's threads in it cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with theirs:
        process = context.Process(target=_work, args=(theirs, config), daemon=True)
        process.start()
    return ours, process


def _how_it_ended(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _work(connection: Connection, config: WorkerConfig) -> None:
    """Run a worker. For each video it sends its records and then None; or the error that ends the run."""
    # A worker whose parent was killed must not write beside the next run.
    end_with_parent()
    # An interrupt from the keyboard is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reasoner = config.candidate.load()
        while True:
            for record in answer_records(reasoner, connection.recv(), config.mode, config.video_root):
                connection.send(record)
            connection.send(None)
    except VideoReasonerError as error:
        connection.send(error)
    except EOFError:
        return
