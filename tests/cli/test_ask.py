"""`videoreasoner ask`: what each flag changes, and that bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.cli.calling import Loading, Result, Run, in_a_process, one_line
from tests.fake_engine import SETTINGS
from tests.video.videos import Recipe
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import Mode, Query
from videoreasoner.inference.session import VideoSession


def test_ask_prints_an_answer_with_its_evidence(run: Run, video_file: Path) -> None:
    result = run("ask", video_file, "What color is it?", "-o", "red", "--option", "blue", "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    labels = [line.split()[0] for line in result.out.splitlines()]
    assert labels[0] == "Answer"
    assert {"Event", "Frames", "Time", "event", "frames"} <= set(labels)


def test_ask_json_in_a_process_of_its_own_keeps_stderr_empty(video_file: Path, tmp_path: Path) -> None:
    """Also where a name or a text holds bytes that are no text, and libraries may warn."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/f\xff.mp4")
    os.symlink(video_file, odd)
    result = in_a_process("ask", odd, "What \udcff?", "-o", "r\udcff", "-o", "blue", "--json")
    assert (result.code, result.err) == (0, "")
    record = result.json
    assert record["video"] == odd
    assert record["choice"] in ("A", "B")
    assert record["text"] == record["options"]["AB".index(record["choice"])]
    assert {"event", "key_elements", "keyframes", "key_spans", "frames", "timing", "usage", "notes"} <= set(record)


# The fake engine always writes the event [0.25, 0.50], and its key element is at 10.5 s.


def _dense(result: Result) -> list[float]:
    return [frame["time_s"] for frame in result.json["frames"] if frame["dense"]]


def test_flags_of_sampling_change_the_frames(run: Run, video_file: Path, loading: Loading) -> None:
    def ask(*flags: str) -> Result:
        result = run("ask", video_file, "What?", "--json", *flags)
        assert (result.code, result.err) == (0, "")
        return result

    plain = ask()
    assert plain.json["key_spans"] == [{"start_s": 3.0, "end_s": 6.0}, {"start_s": 10.0, "end_s": 11.0}]
    assert len(plain.json["frames"]) == SETTINGS.frame_budget
    assert len(ask("--frame-budget", "10").json["frames"]) == 10
    assert _dense(ask("--dense-share", "0")) == []
    assert len(_dense(ask("--dense-share", "1"))) > len(_dense(plain))
    slow = _dense(ask("--dense-rate-fps", "1.5", "--frame-budget", "40"))
    assert 0 < len(slow) < len(_dense(ask("--dense-rate-fps", "5", "--frame-budget", "40")))
    assert len(ask("--sparse-rate-fps", "0.5", "--mode", "direct").json["frames"]) == 6
    assert ask("--keyframe-width-s", "2").json["key_spans"][1] == {"start_s": 9.5, "end_s": 11.5}
    assert ask("--encoder", "none").json["keyframes"] == []


def test_flags_of_loading_reach_the_loader(run: Run, video_file: Path, loading: Loading) -> None:
    assert run("ask", video_file, "What?").code == 0
    assert list(loading.given.values()) == [None, "auto", True, 300.0]
    flags = ("--model", "m", "--device", "cpu", "--encoder", "e", "--free-event", "--video-time-limit", "7")
    result = run("ask", video_file, "What?", "--json", *flags)
    assert result.json["model"] == "m"
    assert loading.models == ["tiny", "m"]
    assert list(loading.given.values()) == ["e", "cpu", False, 7.0]


def test_from_and_to_limit_where_it_looks(run: Run, video_file: Path, loading: Loading) -> None:
    result = run("ask", video_file, "What?", "--json", "--from", "1", "--to", "2.5")
    assert result.code == 0, result.err
    answer = result.json
    assert answer["range"] == {"start_s": 1.0, "end_s": 2.5}
    assert all(1.0 <= frame["time_s"] < 2.5 for frame in answer["frames"])
    refused = run("ask", video_file, "What?", "--from", "99")
    assert refused.code == 2
    assert "there is nothing from 99 s" in refused.err
    refused = run("ask", "--batch", "rows.jsonl", "--out", "a.jsonl", "--to", "3")
    assert refused.code == 2
    assert "--from and --to go with one VIDEO" in refused.err


def test_mode_direct_locates_nothing(run: Run, video_file: Path, loading: Loading) -> None:
    record = run("ask", video_file, "What?", "--mode", "direct", "--json").json
    assert (record["mode"], record["event"], record["keyframes"]) == ("direct", None, [])
    assert run("ask", video_file, "What?", "--json").json["mode"] == "focus"


def test_mode_think_prints_what_was_reasoned(run: Run, video_file: Path, loading: Loading) -> None:
    record = run("ask", video_file, "What?", "--mode", "think", "--json").json
    assert (record["mode"], record["event"], record["confidence"]) == ("think", None, None)
    lines = run("ask", video_file, "What?", "--mode", "think").out.splitlines()
    assert lines[:2] == ["Answer        an answer", "Reasoning     it seems so"]
    assert not any(line.startswith("Reasoning") for line in run("ask", video_file, "What?").out.splitlines())


def test_the_real_loader_takes_every_flag(run: Run, video_file: Path) -> None:
    numbers = {"--frame-budget": 6, "--sparse-rate-fps": 1, "--dense-rate-fps": 2, "--keyframe-width-s": 1}
    flags = [f"{name}={value}" for name, value in {**numbers, "--dense-share": 0.5}.items()]
    result = run("ask", video_file, "What?", "--json", *flags, "--encoder", "none", "--free-event", "--device", "cpu")
    assert result.code == 0
    assert len(result.json["frames"]) <= 6
    assert result.json["keyframes"] == []


def test_report_writes_a_page_and_says_where(run: Run, video_file: Path, loading: Loading, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ask = ("ask", video_file, "What?", "-o", "red", "-o", "blue", "--report", page)
    result = run(*ask)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].split() == ["Report", str(page)]
    assert "true answer" not in page.read_text()
    result = run(*ask, "--true-answer", "red", "--true-event", "3", "6", "--json")
    assert (result.code, result.err) == (0, "")
    # With --json, stdout is JSON and nothing else.
    assert result.json["choice"] == "B"
    compared = page.read_text()
    assert "The true answer is A." in compared
    assert "overlap by 1.00" in compared
    open_question = run("ask", video_file, "What?", "--report", page, "--true-answer", "it is <b>red</b>")
    assert open_question.code == 0
    assert "it is &lt;b&gt;red&lt;/b&gt;" in page.read_text()


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_loaded(
    run: Run, video_file: Path, loading: Loading, tmp_path: Path
) -> None:
    content = video_file.read_bytes()
    ask = ("ask", video_file, "What?", "-o", "red", "-o", "blue")
    for page, word in ((tmp_path, "folder"), (tmp_path / "no" / "page.html", "folder"), (video_file, "the video")):
        one_line(run(*ask, "--report", page), str(page), word)
    one_line(run("ask", video_file.as_uri(), "What?", "--report", video_file), str(video_file), "the video")
    for flags, word in (
        (("--true-answer", "red"), "--report"),
        (("--true-event", "1", "2"), "--report"),
        (("--report", tmp_path / "p", "--true-answer", "green"), "'green'"),
        (("--report", tmp_path / "p", "--true-event", "2", "1"), "ends before it starts"),
        (("--report", tmp_path / "p", "--true-event", "2"), "--true-event"),
    ):
        one_line(run(*ask, *flags), word)
    rows = tmp_path / "rows.jsonl"
    one_line(run("ask", "--batch", rows, "--out", tmp_path / "o", "--report", tmp_path / "p"), "--report", "--batch")
    assert loading.models == []
    assert video_file.read_bytes() == content


def test_batch_answers_rows_and_continues(run: Run, video_file: Path, loading: Loading, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    content = [{"id": str(n), "video": video_file.name, "question": "What?", "options": ["a", "b"]} for n in range(3)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in content))
    arguments = ("ask", "--batch", rows, "--out", out, "--video-root", video_file.parent, "--mode", "direct")
    first = run(*arguments)
    assert first.code == 0
    # No terminal, so no bar: at most a line a second, and the last one.
    last = first.err.splitlines()[-1]
    assert last.startswith("answering: 3 of 3 (100 %), ")
    assert last.endswith("0:00 left")
    assert "3 answered, 0 had an answer already, 0 failed" in first.out
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["id"] for record in records] == ["0", "1", "2"]
    assert {record["mode"] for record in records} == {"direct"}
    again = run(*arguments)
    assert (again.code, again.err) == (0, "")
    assert "0 answered, 3 had an answer already" in again.out
    assert loading.models == ["tiny"], "loaded although every row was answered"


def test_a_batch_with_failures_says_how_many(run: Run, video_file: Path, loading: Loading, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    content = [{"id": n, "video": v, "question": "What?"} for n, v in (("a", str(video_file)), ("b", "missing.mp4"))]
    rows.write_text("".join(json.dumps(row) + "\n" for row in content))
    result = run("ask", "--batch", rows, "--out", out)
    assert result.code == 2
    assert "1 row" in result.err.splitlines()[-1]
    assert str(out) in result.err.splitlines()[-1]
    assert result.out.splitlines()[-1].endswith("1 answered, 0 had an answer already, 1 failed")
    [reason] = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert reason.startswith("warning: b: missing.mp4")


def test_rows_from_stdin_and_answers_to_stdout(video_file: Path, tmp_path: Path) -> None:
    rows = [{"id": n, "video": str(video_file), "question": "What?", "options": ["a", "b"]} for n in (2, 1)]
    done = subprocess.run(
        [sys.executable, "-m", "videoreasoner", "ask", "--batch", "-", "--out", "-", "--mode", "direct"],
        input=json.dumps(rows), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [2, 1]
    assert done.stderr.splitlines()[-1] == "-: 2 answered, 0 had an answer already, 0 failed"
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_is_stopped_says_how_to_go_on(
    run: Run, video_file: Path, loading: Loading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    content = [{"id": n, "video": str(video_file), "question": f"Question {n}?"} for n in range(4)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in content))
    answer = VideoSession.answer

    def stop(session: VideoSession, query: Query, mode: Mode) -> Answer:
        if query.text == "Question 3?":
            raise KeyboardInterrupt
        return answer(session, query, mode)

    monkeypatch.setattr(VideoSession, "answer", stop)
    arguments = ("ask", "--batch", rows, "--out", out, "--mode", "direct")
    stopped = run(*arguments, "-q")
    assert stopped == Result(130, "", "stopped after 3 of 4 rows; run the same command to go on\n")
    monkeypatch.setattr(VideoSession, "answer", answer)
    again = run(*arguments, "-q")
    assert (again.code, again.err) == (0, "")
    assert "1 answered, 3 had an answer already" in again.out


def test_variables_of_the_environment_stand_for_flags(
    run: Run, video_file: Path, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOREASONER_MODEL", "another")
    monkeypatch.setenv("VIDEOREASONER_DEVICE", "cpu")
    monkeypatch.setenv("VIDEOREASONER_VIDEO_TIME_LIMIT", "9")
    assert run("ask", video_file, "What?").code == 0
    assert run("ask", video_file, "What?", "--model", "given").code == 0
    assert loading.models == ["another", "given"]
    assert (loading.given["device"], loading.given["video_time_limit_s"]) == ("cpu", 9.0)


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, 16_000, 1_000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1_000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _without_index(path: Path) -> None:
    made = Recipe("whole.mp4").make(path.parent)
    path.write_bytes(made.read_bytes()[:4_000])


BAD_FILES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a video\n" * 100),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)),
    "without its index": _without_index,
    "audio only": _audio,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_video(run: Run, tmp_path: Path, name: str, loading: Loading) -> None:
    path = tmp_path / "video.mp4"
    BAD_FILES[name](path)
    one_line(run("ask", path, "What?"), str(path))
    assert loading.models == []


def test_an_absurd_aspect_ratio(run: Run, tmp_path: Path) -> None:
    path = Recipe("ribbon.mp4", count=4, size=(402, 2)).make(tmp_path)
    one_line(run("ask", path, "What?"), str(path), "402x2")


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def test_videos_that_can_be_looked_at_are_answered(run: Run, tmp_path: Path, loading: Loading) -> None:
    """One frame, one pixel and an unknown duration are odd, and no obstacle; what is cut off is said in a note."""
    for recipe in (
        Recipe("one.mp4", count=1),
        Recipe("pixel.mkv", codec="ffv1", count=12, size=(1, 1), pixel_format="yuv444p"),
        Recipe("unknown.mkv", muxer_options={"live": "1"}),
        Recipe("raw.h264"),
    ):
        result = run("ask", recipe.make(tmp_path), "What?", "-o", "red", "-o", "blue", "--encoder", "none")
        assert (result.code, result.err) == (0, "")
    whole = Recipe("cut.mp4", options={"g": "5"}, muxer_options={"movflags": "faststart"}).make(tmp_path)
    result = run("ask", _cut(whole), "What?", "--json", "--encoder", "none")
    assert (result.code, result.err) == (0, "")
    assert result.json["notes"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["", "-o", "a", "-o", "b"], "question is empty"),
        (["x" * 100_000], "100,000"),
        (["What?", "-o", "red"], "1 option"),
        (["What?", *(f"-ooption {i}" for i in range(30))], "30 option"),
        (["What?", "-o", "red", "-o", "Red"], "'Red'"),
        (["What?", "-o", "red", "-o", " "], "empty"),
        (["What?", "--mode", "slow"], "'slow'"),
        (["What?", "--no-such-flag"], "--no-such-flag"),
        (["What?", "a third word"], "third"),
        (["What?", "--frame-budget", "many"], "--frame-budget"),
        (["What?", "--frame-budget", "1"], "frame_budget"),
        (["What?", "--set", "max_pixel=1"], "did you mean max_pixels?"),
        (["What?", "--set", "max_pixels=few"], "max_pixels"),
        (["What?", "--dense-share", "1.5"], "dense_share"),
        (["What?", "--dense-share", "nan"], "dense_share"),
        (["What?", "--dense-rate-fps", "0"], "dense_rate_fps"),
        (["What?", "--sparse-rate-fps", "inf"], "sparse_rate_fps"),
        (["What?", "--keyframe-width-s", "-1"], "keyframe_width_s"),
        (["What?", "--device", "nonsense"], "'nonsense'"),
        (["What?", "--device", "cuda:99"], "'cuda:99'"),
        (["What?", "--encoder", "./nowhere"], "./nowhere"),
        (["What?", "--encoder", ""], "encoder is empty"),
        (["What?", "--model", "./nowhere"], "./nowhere"),
        (["What?", "--model", ""], "model or encoder is empty"),
        (["What?", "--out", "x.jsonl"], "--batch"),
        (["What?", "--video-root", "x"], "--batch"),
        (["What?", "--batch", "x.jsonl"], "leave out VIDEO"),
        (["What?", "--workers", "2"], "--batch"),
        ([], "QUESTION"),
    ],
)
def test_bad_arguments_of_ask(run: Run, video_file: Path, arguments: list[str], word: str) -> None:
    one_line(run("ask", video_file, *arguments), word)


def test_bad_arguments_of_batch(run: Run, video_file: Path, tmp_path: Path, loading: Loading) -> None:
    rows = tmp_path / "rows.jsonl"
    row = json.dumps({"id": "a", "video": str(video_file), "question": "What?"}) + "\n"
    rows.write_text(row)
    one_line(run("ask", "--batch", tmp_path / "none.jsonl", "--out", tmp_path / "o"), "none.jsonl")
    one_line(run("ask", "--batch", tmp_path, "--out", tmp_path / "o"), "folder")
    one_line(run("ask", "--batch", rows), "--batch needs --out")
    one_line(run("ask", "--batch", rows, "--out", tmp_path / "o", "--workers", "0"), "--workers")
    one_line(run("ask", "--batch", rows, "--out", tmp_path / "o", "--json"), "--json")
    assert loading.models == []
    one_line(run("ask", "--batch", rows, "--out", rows), "rows.jsonl")
    one_line(run("ask", "--batch", rows, "--out", tmp_path), str(tmp_path))
    assert rows.read_text() == row
    rows.write_text(row * 2)
    one_line(run("ask", "--batch", rows, "--out", tmp_path / "o"), "'a' is there twice")


@pytest.mark.parametrize("content", [{}, {"config.json": b'{"model_type": "llava"}'}, {"config.json": b"{"}])
def test_a_folder_that_is_no_checkpoint(run: Run, video_file: Path, tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    one_line(run("ask", video_file, "What?", "--model", tmp_path), str(tmp_path))


def test_pickled_weights_are_refused(run: Run, video_file: Path, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"model_type": "qwen2_vl", "vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(parts))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    one_line(run("ask", video_file, "What?", "--model", tmp_path), str(tmp_path), "pickled")
