"""A run's questions in parts: a few videos each, answered by any worker in any order, resumable at any moment.

How the questions are divided follows from the questions alone, so a run may go on with another number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from videoreasoner.benchmarks.benchmark import Candidate
from videoreasoner.errors import EvaluationError, VideoReasonerError
from videoreasoner.inference.batch import answer_rows
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row, write_rows
from videoreasoner.utils.processes import end_with_parent

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """A file of rows and the file of their answers, in the format of `answer_rows`."""

    rows: Path
    answers: Path
    count: int

    def records(self) -> Iterator[dict[str, Any]]:
        """What there is already; a line that a kill cut short is left out."""
        if not self.answers.exists():
            return
        # All but what follows the last line end.
        for line in self.answers.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)

    def answered(self) -> int:
        return sum("error" not in record for record in self.records())


@dataclass(frozen=True)
class Errand:
    """What a worker needs to know to answer parts."""

    candidate: Candidate
    mode: str
    video_root: Path

    def answer(self, reasoner: Reasoner, part: Part, progress: Progress) -> None:
        root = self.video_root
        answer_rows(reasoner, part.rows, part.answers, mode=self.mode, video_root=root, progress=progress)


def divide(rows: Sequence[Row], folder: Path, videos_a_part: int) -> list[Part]:
    """Write the questions as parts; those about one video stay together, whatever their order."""
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row.video, []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    # By name, so that the order of the questions makes no difference.
    names = sorted(videos)
    for number, first in enumerate(range(0, len(names), videos_a_part)):
        members = [row for name in names[first : first + videos_a_part] for row in videos[name]]
        part = Part(folder / f"{number:05d}.rows.jsonl", folder / f"{number:05d}.jsonl", len(members))
        write_rows(part.rows, members)
        parts.append(part)
    return parts


def answer_parts(errand: Errand, parts: Sequence[Part], workers: int, progress: Progress) -> bool:
    """Answer what is left of the parts. Nothing is loaded when nothing is left.

    Returns:
        Whether there was anything left.

    Raises:
        VideoReasonerError: the candidate cannot be loaded.
        EvaluationError: a worker died.
    """
    answered = [part.answered() for part in parts]
    waiting = [part for part, done in zip(parts, answered, strict=True) if done < part.count]
    tally = _Tally(dict(zip(parts, answered, strict=True)), progress)
    tally.report()
    if not waiting:
        return False
    if workers == 1:
        reasoner = errand.candidate.load()
        for part in waiting:
            errand.answer(reasoner, part, tally.of(part))
        return True
    crew = [_Worker(errand) for _ in range(min(workers, len(waiting)))]
    try:
        _hand_out(crew, waiting, tally)
    except BaseException:
        for worker in crew:
            worker.kill()
        raise
    return True


class _Tally:
    """Rows done over all parts, from what each part reports."""

    def __init__(self, done: dict[Part, int], progress: Progress) -> None:
        self._done, self._progress = done, progress
        self._total = sum(part.count for part in done)

    def report(self) -> None:
        self._progress(sum(self._done.values()), self._total)

    def of(self, part: Part) -> Progress:
        def report(done: int, total: int) -> None:
            self._done[part] = done
            self.report()

        return report


class _Worker:
    """A process that answers one part after another."""

    def __init__(self, errand: Errand) -> None:
        # Spawned, because a process with torch's threads in it cannot be forked safely.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with theirs:
            self.process = context.Process(target=_serve, args=(theirs, errand), daemon=True)
            self.process.start()
        self.part: Part | None = None

    def give(self, part: Part) -> None:
        self.part = part
        self.connection.send(part)

    def dismiss(self) -> None:
        """End a worker that has nothing to do: it finds its connection closed."""
        self.connection.close()
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def how_it_died(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _hand_out(crew: Sequence[_Worker], parts: Sequence[Part], tally: _Tally) -> None:
    left = list(reversed(parts))
    for worker in crew:
        worker.give(left.pop())
    busy: dict[Any, _Worker] = {worker.connection: worker for worker in crew}
    while busy:
        for connection in wait(list(busy)):
            worker = busy[connection]
            assert worker.part is not None
            try:
                message = worker.connection.recv()
                if message is None and left:
                    worker.give(left.pop())
                    continue
            except (EOFError, OSError) as error:
                raise EvaluationError(
                    f"a worker {worker.how_it_died()}; answers so far are kept, so start the command again, with fewer "
                    "--workers if memory ran out"
                ) from error
            if isinstance(message, Exception):
                raise message
            if message is None:
                busy.pop(connection).dismiss()
            else:
                tally.of(worker.part)(*message)


def _serve(connection: Connection, errand: Errand) -> None:
    """A worker's life. Sends (rows done, rows) of the part, None at its end, or the error that ends the run."""
    # One whose parent was killed must not go on writing beside the run that takes up its work.
    end_with_parent()
    # An interrupt from the keyboard is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reasoner = errand.candidate.load()
        while True:
            part = connection.recv()
            errand.answer(reasoner, part, lambda done, total: connection.send((done, total)))
            connection.send(None)
    except VideoReasonerError as error:
        connection.send(error)
    except EOFError:
        return
