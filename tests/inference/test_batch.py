from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_engine import SETTINGS, FakeEngine, FakeSession
from tests.paths import ROOT
from tests.video.videos import Recipe
from videoreasoner.engines.engine import Reply
from videoreasoner.errors import MissingExtraError, RowError, SettingError, VideoError
from videoreasoner.inference.batch import BatchResult, answer_rows
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.inference.query import LETTERS_NOTE, MAX_QUESTION_CHARACTERS
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.tasks import Task
from videoreasoner.utils.files import locked
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import FramePlan


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Recipe("video.mp4", count=10).make(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def folder(video_file: Path, tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(video_file, tmp_path / name)
    return tmp_path


def _row(number: int, video: str = "a.mp4", **fields: Any) -> dict[str, Any]:
    return {"id": f"row-{number}", "video": video, "question": f"Question {number}?", **fields}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def _untimed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "timing"} for record in records]


class Run:
    """One call, with an engine of its own that counts."""

    def __init__(
        self,
        folder: Path,
        rows: list[Any] | Path,
        mode: str = "direct",
        name: str = "fake",
        engine: FakeEngine | None = None,
    ) -> None:
        self.engine = engine or FakeEngine(name=name)
        self.out = folder / "answers.jsonl"
        self.progress: list[tuple[int, int]] = []
        path = rows if isinstance(rows, Path) else _write(folder / "rows.jsonl", rows)
        self.result = answer_rows(
            Reasoner(self.engine),
            path,
            self.out,
            mode=mode,
            video_root=folder,
            progress=lambda done, total: self.progress.append((done, total)),
        )
        self.records = _records(self.out)

    @property
    def asked(self) -> list[str]:
        return [call.question for call in self.engine.calls]


ROWS = [_row(0), _row(1, options=["red", "blue"], answer="B", extra=[1]), _row(2, "b.mp4"), _row(3)]


def test_every_row_is_answered_in_order_with_its_row(folder: Path) -> None:
    run = Run(folder, ROWS)
    assert run.result == BatchResult(answered=4, resumed=0, failed=0)
    assert [record["id"] for record in run.records] == [row["id"] for row in ROWS]
    assert [record["row"] for record in run.records] == ROWS
    assert run.records[1]["choice"] in ("A", "B")
    assert {(record["mode"], record["model"]) for record in run.records} == {("direct", "fake")}
    assert run.progress == [(n, 4) for n in range(5)]


def test_letters_that_options_bring_along_are_noted(folder: Path) -> None:
    options = (["A. red", "B. blue"], ["red", "blue"])
    lettered, plain = Run(folder, [_row(number, options=of) for number, of in enumerate(options)]).records
    assert lettered["notes"] == [LETTERS_NOTE, *plain["notes"]]
    assert LETTERS_NOTE not in plain["notes"]


@pytest.mark.parametrize("seed", range(3))
def test_each_video_is_opened_once_whatever_the_order_of_the_rows(folder: Path, seed: int) -> None:
    rows = [_row(n, "ab"[n % 2] + ".mp4", options=["red", "blue"]) for n in range(8)]
    expected = {r["id"]: {**r, "usage": None} for r in _untimed(Run(folder, rows).records)}
    random.Random(seed).shuffle(rows)
    (folder / "answers.jsonl").unlink()
    run = Run(folder, rows)
    assert run.engine.opened == 2
    assert [{**record, "usage": None} for record in _untimed(run.records)] == [expected[row["id"]] for row in rows]


def _answered_by(folder: Path, workers: int) -> list[dict[str, Any]]:
    out = folder / f"answers-{workers}.jsonl"
    settings = {"frame_budget": 8}
    model = LocalCandidate("tiny", "cpu", 1, settings, constrain_event=True)
    result = answer_rows(model, folder / "rows.jsonl", out, video_root=folder, workers=workers)
    assert result == BatchResult(answered=5, resumed=0, failed=1)
    return [{**record, "usage": None} for record in _untimed(_records(out))]


def test_any_number_of_workers_gives_the_same_answers_in_the_order_of_the_rows(folder: Path) -> None:
    rows = [_row(n, "ab"[n % 2] + ".mp4", **({"options": ["red", "blue"]} if n else {})) for n in range(5)]
    _write(folder / "rows.jsonl", [*rows[:3], "not json\n", *rows[3:]])
    one = _answered_by(folder, 1)
    assert [record["id"] for record in one] == ["row-0", "row-1", "row-2", None, "row-3", "row-4"]
    assert _answered_by(folder, 3) == one
    # A loaded reasoner answers in the same way, so it can continue what workers began.
    tiny = Reasoner.from_pretrained("tiny", device="cpu", frame_budget=8)
    again = answer_rows(tiny, folder / "rows.jsonl", folder / "answers-3.jsonl", video_root=folder)
    assert again == BatchResult(answered=0, resumed=5, failed=1)
    with pytest.raises(SettingError, match="LocalCandidate"):
        answer_rows(tiny, folder / "rows.jsonl", folder / "answers-3.jsonl", video_root=folder, workers=2)
    with pytest.raises(SettingError, match="--workers must be 1 or more"):
        answer_rows(tiny, folder / "rows.jsonl", folder / "answers-3.jsonl", workers=0)


def test_a_stream_gets_the_records_in_the_order_of_the_rows(folder: Path) -> None:
    rows = [_row(n, "ab"[n % 2] + ".mp4", options=["red", "blue"]) for n in range(6)]
    path, stream = _write(folder / "rows.jsonl", [*rows, "not json\n"]), io.BytesIO()
    result = answer_rows(Reasoner(FakeEngine()), path, stream, mode="direct", video_root=folder)
    assert result == BatchResult(answered=6, resumed=0, failed=1)
    assert list(result.reasons.values()) == [[None]]
    in_a_file = Run(folder, path).records
    assert _untimed([json.loads(line) for line in stream.getvalue().splitlines()]) == _untimed(in_a_file)


def test_ids_that_are_numbers_stay_numbers(folder: Path) -> None:
    rows = [{**_row(n), "id": n} for n in range(2)]
    assert [record["id"] for record in Run(folder, rows).records] == [0, 1]
    assert Run(folder, rows).result.resumed == 2
    with pytest.raises(RowError, match="'1' is there twice"):
        Run(folder, [*rows, {**_row(2), "id": "1"}])


@pytest.mark.parametrize("lost", [1, 30, 10_000])
def test_a_killed_run_continues_where_it_stopped(folder: Path, lost: int) -> None:
    whole = Run(folder, ROWS)
    content = whole.out.read_bytes()
    kept = content[:-lost]
    whole.out.write_bytes(kept)
    again = Run(folder, ROWS)
    assert _untimed(again.records) == _untimed(whole.records)
    # A record that lacks nothing but its line end is whole.
    missing = {1: 0, 30: 1, 10_000: 4}[lost]
    assert again.result == BatchResult(answered=missing, resumed=4 - missing, failed=0)
    assert sorted(again.asked) == [row["question"] for row in ROWS[4 - missing :]]
    assert again.progress[0] == (4 - missing, 4)


def test_a_kill_at_any_byte_loses_at_most_one_record(folder: Path) -> None:
    rows = [_row(0, question="Où?"), _row(1, question="Où\u2028 là\x85?")]
    whole = Run(folder, rows)
    content = whole.out.read_bytes()
    assert content.count(b"\n") == 2
    places = {*range(12), *range(content.index("ù".encode()) - 1, content.index("ù".encode()) + 3)}
    for cut in sorted(places | {content.index(b"\n") + n for n in range(-1, 12)} | {len(content) - 1, len(content)}):
        whole.out.write_bytes(content[:cut])
        assert _untimed(Run(folder, rows).records) == _untimed(whole.records)


def test_only_missing_rows_are_asked_again(folder: Path) -> None:
    whole = Run(folder, ROWS)
    _write(whole.out, [record for n, record in enumerate(whole.records) if n not in (0, 2)])
    again = Run(folder, ROWS)
    assert again.asked == ["Question 0?", "Question 2?"]
    assert _untimed(again.records) == _untimed(whole.records)


def test_a_finished_run_asks_nothing_and_leaves_the_file_alone(folder: Path) -> None:
    whole = Run(folder, ROWS)
    before = whole.out.read_bytes()
    again = Run(folder, ROWS)
    assert again.result == BatchResult(answered=0, resumed=4, failed=0)
    assert again.engine.opened == 0
    assert again.out.read_bytes() == before


def test_bad_rows_become_error_records_in_their_place_and_the_rest_is_answered(folder: Path) -> None:
    rows: list[Any] = [
        _row(0),
        "not json\n",
        _row(1, options=["one"]),
        _row(2, question="x" * (MAX_QUESTION_CHARACTERS + 1)),
        _row(3),
        _row(4, "missing.mp4"),
        _row(5, "rows.jsonl"),
        _row(6, "b.mp4"),
        _row(7, "a\0.mp4"),
    ]
    run = Run(folder, rows)
    ids = [record["id"] for record in run.records]
    assert ids == ["row-0", None, None, "row-2", "row-3", "row-4", "row-5", "row-6", "row-7"]
    errors = {n: record["error"] for n, record in enumerate(run.records) if "error" in record}
    assert set(errors) == {1, 2, 3, 5, 6, 8}
    assert "line 2" in errors[1]
    assert "line 3" in errors[2]
    assert "20,000" in errors[3]
    assert "missing.mp4" in errors[5]
    assert run.result == BatchResult(answered=3, resumed=0, failed=6)


def test_a_row_that_failed_is_asked_again_and_its_error_record_goes(folder: Path) -> None:
    (folder / "b.mp4").rename(folder / "later.mp4")
    rows = [_row(0), _row(1, "b.mp4"), _row(2, "b.mp4"), _row(3)]
    assert Run(folder, rows).result == BatchResult(answered=2, resumed=0, failed=2)
    (folder / "later.mp4").rename(folder / "b.mp4")
    again = Run(folder, rows)
    assert again.result == BatchResult(answered=2, resumed=2, failed=0)
    assert sorted(record["id"] for record in again.records) == [row["id"] for row in rows]


def test_a_question_that_cannot_be_asked_costs_its_neighbours_nothing(folder: Path) -> None:
    rows = [_row(0), _row(1, question="x" * (MAX_QUESTION_CHARACTERS + 1)), _row(2)]
    run = Run(folder, rows)
    assert run.engine.opened == 1
    assert ["error" in record for record in run.records] == [False, True, False]


class FailingSession(FakeSession):
    def complete(self, plan: FramePlan, question: str, options: Sequence[str], tasks: Sequence[Task]) -> Reply:
        reply = super().complete(plan, question, options, tasks)
        assert isinstance(self.engine, FailingEngine)
        if question in self.engine.failures:
            raise self.engine.failures[question]
        return reply


class FailingEngine(FakeEngine):
    """Fails at some questions."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__()
        self.failures = {f"Question {name[1:]}?": failure for name, failure in failures.items()}

    def open(self, video: VideoFile) -> FakeSession:
        super().open(video)
        return FailingSession(self, video)


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (MemoryError(), "out of memory"),
        (MissingExtraError("install it"), "install it"),
    ],
)
def test_a_failure_of_one_question_costs_its_neighbours_nothing(folder: Path, failure: Exception, word: str) -> None:
    rows = [_row(n) for n in range(4)]
    run = Run(folder, rows, engine=FailingEngine(_1=failure))
    assert run.result == BatchResult(answered=3, resumed=0, failed=1)
    assert [record["id"] for record in run.records] == [row["id"] for row in rows]
    assert word in run.records[1]["error"]
    # Nothing is asked twice; the video is opened once more.
    assert run.asked == [row["question"] for row in rows]
    assert run.engine.opened == 2
    assert Run(folder, rows).result == BatchResult(answered=1, resumed=3, failed=0)


def test_a_video_that_fails_midway_fails_its_rows_that_are_left_and_no_others(folder: Path) -> None:
    engine = FailingEngine(_1=VideoError("a.mp4 is stuck"))
    run = Run(folder, [_row(0), _row(1), _row(2), _row(3, "b.mp4")], engine=engine)
    assert ["error" in record for record in run.records] == [False, True, True, False]
    assert engine.opened == 2
    assert run.asked == ["Question 0?", "Question 1?", "Question 3?"]


def test_a_defect_of_ours_stops_the_run_and_loses_nothing(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="a defect"):
        Run(folder, ROWS, engine=FailingEngine(_2=RuntimeError("a defect")))
    assert [record["id"] for record in _records(folder / "answers.jsonl")] == ["row-0", "row-1", "row-3"]
    assert Run(folder, ROWS).result == BatchResult(answered=1, resumed=3, failed=0)


# Stands for a machine that goes down: answers, and kills its own process when it is asked a certain question.
_DOOMED = """
import os, signal, sys
from pathlib import Path
from tests.fake_engine import FakeEngine, FakeSession
from videoreasoner.inference.batch import answer_rows
from videoreasoner.inference.reasoner import Reasoner

class Session(FakeSession):
    def complete(self, plan, question, options, tasks):
        if question == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().complete(plan, question, options, tasks)

class Engine(FakeEngine):
    def open(self, video):
        return Session(self, video)

folder = Path(sys.argv[1])
answer_rows(Reasoner(Engine()), folder / "rows.jsonl", folder / "answers.jsonl", mode="direct", video_root=folder)
"""


def test_a_process_that_is_killed_loses_no_answer_and_gives_none_twice(folder: Path) -> None:
    _write(folder / "rows.jsonl", ROWS)
    for question, there in (("Question 1?", ["row-0"]), ("Question 2?", ["row-0", "row-1", "row-3"])):
        command = [sys.executable, "-c", _DOOMED, str(folder), question]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        # Each answer is in the file, whole, before the next question is asked.
        assert [record["id"] for record in _records(folder / "answers.jsonl")] == there
    last = Run(folder, ROWS)
    assert last.result == BatchResult(answered=1, resumed=3, failed=0)
    assert [record["row"] for record in last.records] == ROWS
    assert last.asked == ["Question 2?"]


def test_a_disk_that_is_full_is_named_and_what_was_written_is_kept(folder: Path) -> None:
    rows = _write(folder / "rows.jsonl", ROWS)
    out = folder / "answers.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, hard))
    try:
        with pytest.raises(SettingError, match=r"answers\.jsonl: cannot be written"):
            answer_rows(Reasoner(FakeEngine()), rows, out, mode="direct", video_root=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.stat().st_size == 2_500
    again = Run(folder, rows)
    assert again.result.failed == 0
    assert 0 < again.result.resumed < len(ROWS)
    assert [record["row"] for record in again.records] == ROWS


def test_half_a_surrogate_pair_is_no_obstacle(folder: Path) -> None:
    run = Run(folder, [_row(0, question="What is \ud800?"), _row(1, options=["\udc00", "blue"])])
    assert run.result.answered == 2
    assert run.records[0]["question"] == "What is \ud800?"
    assert Run(folder, folder / "rows.jsonl").result.resumed == 2


def test_two_rows_of_one_id_are_refused_before_anything_is_asked(folder: Path) -> None:
    with pytest.raises(RowError, match="'row-0' is there twice"):
        Run(folder, [_row(0), _row(1), _row(0)])
    assert not (folder / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"mode": "focus"}, r"\(mode direct, now focus\)"),
        ({"name": "another"}, r"\(model fake, now another\)"),
        ({"engine": FakeEngine(model_hash="two")}, r"\(model_hash one, now two\)"),
        ({"engine": FakeEngine(settings=SETTINGS.changed(frame_budget=8))}, r"\(frame_budget 16, now 8\)"),
    ],
)
def test_answers_given_in_another_way_are_not_mixed(folder: Path, other: dict[str, Any], difference: str) -> None:
    first = Run(folder, ROWS[:1])
    before = first.out.read_bytes()
    with pytest.raises(SettingError, match=rf"answers\.jsonl.*{difference}"):
        Run(folder, ROWS, **other)
    assert first.out.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"question": "Another?"}, "another question"),
        ({"options": ["red", "blue"], "answer": "red"}, "another answer, options"),
        ({"video": "b.mp4"}, "another video"),
    ],
)
def test_an_answer_to_another_row_of_that_id_is_not_taken(folder: Path, other: dict[str, Any], difference: str) -> None:
    first = Run(folder, ROWS[:1])
    before = first.out.read_bytes()
    with pytest.raises(SettingError, match=rf"'row-0', with {difference}; give --out"):
        Run(folder, [ROWS[0] | other, *ROWS[1:]])
    assert first.out.read_bytes() == before


def test_an_answer_about_a_video_of_that_name_elsewhere_is_not_taken(folder: Path) -> None:
    first = Run(folder, ROWS[:1])
    before = first.out.read_bytes()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "a.mp4", elsewhere)
    with pytest.raises(SettingError, match=r"'row-0' is about .*a\.mp4, and not .*elsewhere/a\.mp4; .*--video-root"):
        answer_rows(Reasoner(FakeEngine()), folder / "rows.jsonl", first.out, mode="direct", video_root=elsewhere)
    assert first.out.read_bytes() == before


def test_two_runs_do_not_write_into_one_file(folder: Path) -> None:
    busy = pytest.raises(SettingError, match=r"answers\.jsonl: another run")
    with locked(folder / ".answers.jsonl.lock", KeyError), busy:
        Run(folder, ROWS)
    assert Run(folder, ROWS).result.answered == 4
    assert not (folder / ".answers.jsonl.lock").exists()
    (folder / "link.jsonl").symlink_to("answers.jsonl")
    rows = _write(folder / "rows.jsonl", ROWS)
    with (
        locked(folder / ".answers.jsonl.lock", KeyError),
        pytest.raises(SettingError, match=r"link\.jsonl: another run"),
    ):
        answer_rows(Reasoner(FakeEngine()), rows, folder / "link.jsonl", mode="direct", video_root=folder)


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b"\xff\xfe",
        b'{"id": "row-0", "video": "a.mp4", "question": "What?"}',
        b'{"id": "row-0", "video": "a.mp4", "question": "What?"}\n',
        b'{"error": "of another kind"}\n',
        b"[]\n",
        b"3\n",
        b"\n",
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(folder: Path, content: bytes) -> None:
    out = folder / "answers.jsonl"
    out.write_bytes(content)
    with pytest.raises(SettingError, match=r"answers\.jsonl.*another name"):
        Run(folder, ROWS)
    assert out.read_bytes() == content


def test_rows_are_not_taken_for_answers(folder: Path) -> None:
    rows = _write(folder / "answers.jsonl", ROWS)
    before = rows.read_bytes()
    with pytest.raises(SettingError):
        Run(folder, rows)
    assert rows.read_bytes() == before


def test_the_answer_file_is_made_with_its_folders_or_refused(folder: Path) -> None:
    rows = _write(folder / "rows.jsonl", ROWS[:1])
    reasoner = Reasoner(FakeEngine())
    out = folder / "new" / "deep" / "answers.jsonl"
    assert answer_rows(reasoner, rows, out, mode="direct", video_root=folder).answered == 1
    os.mkfifo(folder / "pipe")
    for bad in (folder, rows / "answers.jsonl", folder / "pipe", Path("/dev/null"), Path("")):
        with pytest.raises(SettingError, match="--out"):
            answer_rows(reasoner, rows, bad, video_root=folder)


def test_an_unknown_mode_is_refused_as_a_whole(folder: Path) -> None:
    with pytest.raises(SettingError, match="slow"):
        Run(folder, ROWS, mode="slow")
    assert not (folder / "answers.jsonl").exists()


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_file_without_rows_is_refused(folder: Path, content: str | None) -> None:
    rows = folder / "none.jsonl"
    if content is not None:
        rows.write_text(content)
    with pytest.raises(RowError, match="none"):
        Run(folder, rows)


def test_rows_are_answered_as_they_would_be_alone(folder: Path) -> None:
    tiny = Reasoner.from_pretrained("tiny", device="cpu")
    rows = _write(folder / "rows.jsonl", [_row(0, options=["red", "blue"]), _row(1), _row(2, options=["a", "b"])])
    answer_rows(tiny, rows, folder / "answers.jsonl", video_root=folder)
    for record in _records(folder / "answers.jsonl"):
        alone = tiny.ask(record["video"], record["question"], record["options"])
        assert record["video"] == str(folder / "a.mp4")
        assert (record["text"], record["choice"]) == (alone.text, alone.choice)
        assert record["confidence"] == (alone.confidence and pytest.approx(alone.confidence, abs=1e-5))
