"""What the order of rows costs `ask --batch`: 50 questions about 5 videos, one `ask` after another,
and as a batch that is sorted by video or interleaved.

python -m bench.batch --out out/bench-batch
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from videoreasoner.inference.batch import answer_rows
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.utils.jsonl import read_records

VIDEOS, QUESTIONS = 5, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    made = make_videos(out, VIDEOS, VideoSettings(seed=3), splits=["detail"])
    orders = {
        "sorted": [(row, number) for row in made for number in range(QUESTIONS)],
        "interleaved": [(row, number) for number in range(QUESTIONS) for row in made],
    }
    reasoner = Reasoner.from_pretrained("tiny", device="cpu")
    start = time.monotonic()
    frames = sum(
        reasoner.ask(row.video_path(out), f"{row.question} ({n})").usage.frames_decoded
        for row, n in orders["interleaved"]
    )
    _print("one by one", frames, time.monotonic() - start)
    for name, order in orders.items():
        rows = [Row(id=f"{row.id}-{n}", video=row.video, question=f"{row.question} ({n})") for row, n in order]
        answers = out / f"{name}.jsonl"
        answers.unlink(missing_ok=True)
        start = time.monotonic()
        answer_rows(reasoner, rows, answers, video_root=out)
        seconds = time.monotonic() - start
        frames = sum(record["usage"]["frames_decoded"] for record in read_records(answers))
        _print(name, frames, seconds)


def _print(name: str, frames: int, seconds: float) -> None:
    print(json.dumps({"order": name, "frames_decoded": frames, "seconds": round(seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
