"""The figures of docs/tiny-model.md: the shipped checkpoints on held-out films, through the command line.

    python bench/tiny_model.py --out out/tiny-model [--films 500] [--model tiny]

Makes 500 films (held-out combinations, a seed that nothing was tuned on), asks one plain and one detail question
about each in both modes, and prints a table with 95 % intervals. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from videoreasoner.metrics import Estimate, estimate, recall_at
from videoreasoner.spans import Span, best_iou
from videoreasoner.synthetic.film import FilmSettings, film_world
from videoreasoner.tasks import parse_event

SEED = 20261123
SPLITS = ("plain", "detail")
MODES = ("direct", "focus")


def run(*arguments: str) -> None:
    print("videoreasoner", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "videoreasoner.cli.main", *arguments], check=True)


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(record: dict[str, Any]) -> float:
    return float(record["choice"] == record["row"]["answer"])


def event_iou(record: dict[str, Any]) -> float:
    found = record["event"]
    span = None if found is None else Span(found["start_s"], found["end_s"])
    return best_iou(span, [Span(*record["row"]["event"])])


def covers_detail(record: dict[str, Any]) -> float:
    """Whether a frame of the final pass falls into the time when what is asked can be seen."""
    start, end = record["row"]["visible_s"]
    return float(any(start <= frame["time_s"] < end for frame in record["frames"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--base", default="tiny-base", help="parse rates are measured for it too")
    options = parser.parse_args()
    films, out = options.out / "films", options.out
    run(
        *("synthetic", "make", str(films), "--films", str(options.films)),
        *("--subset", "held_out", "--seed", str(options.seed)),
    )
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for split in SPLITS:
        for mode in MODES:
            path = out / f"{Path(options.model).name}-{split}-{mode}.jsonl"
            rows = str(films / f"{split}.jsonl")
            run(
                *("ask", "--batch", rows, "--video-root", str(films), "--out", str(path)),
                *("--mode", mode, "--model", options.model),
            )
            records[split, mode] = answers(path)
    table: dict[str, Estimate] = {}
    for split in SPLITS:
        direct, focus = records[split, "direct"], records[split, "focus"]
        assert [r["id"] for r in direct] == [r["id"] for r in focus]
        table[f"{split}, direct"] = estimate([right(r) for r in direct])
        table[f"{split}, focus"] = estimate([right(r) for r in focus])
        table[f"{split}, focus - direct (paired)"] = estimate(
            [right(f) - right(d) for f, d in zip(focus, direct, strict=True)]
        )
    path = out / f"{Path(options.model).name}-detail-focus-no-encoder.jsonl"
    run(
        *("ask", "--batch", str(films / "detail.jsonl"), "--video-root", str(films), "--out", str(path)),
        *("--mode", "focus", "--model", options.model, "--encoder", "none"),
    )
    table["detail, focus on the event alone"] = estimate([right(r) for r in answers(path)])
    for mode in MODES:
        table[f"detail, {mode}: what is asked is in a sampled frame"] = estimate(
            [covers_detail(r) for r in records["detail", mode]]
        )
    ious = [event_iou(r) for split in SPLITS for r in records[split, "focus"]]
    table["event mIoU"] = estimate(ious)
    # What no looking at all would give: the same middle stretch for every film.
    fixed = [
        best_iou(Span(0.35 * r["duration_s"], 0.65 * r["duration_s"]), [Span(*r["row"]["event"])])
        for split in SPLITS
        for r in records[split, "focus"]
    ]
    table["event mIoU of a fixed interval"] = estimate(fixed)
    for threshold in (0.3, 0.5, 0.7):
        table[f"event R@{threshold}"] = estimate(recall_at(ious, threshold))
    settings = FilmSettings(seed=options.seed, subset="held_out")
    counts = [len(film_world(settings, number).events) for number in range(options.films)] * len(SPLITS)
    for count in sorted(set(counts)):
        of_count = [value for value, events in zip(ious, counts, strict=True) if events == count]
        table[f"event R@0.5, films with {count} event(s)"] = estimate(recall_at(of_count, 0.5))
    for model in (options.base, options.model):
        path = out / f"{Path(model).name}-free-event.jsonl"
        run(
            *("ask", "--batch", str(films / "plain.jsonl"), "--video-root", str(films), "--out", str(path)),
            *("--free-event", "--model", model, "--encoder", "none"),
        )
        parsed = [float(parse_event(r["completions"]["event"], r["duration_s"]) is not None) for r in answers(path)]
        table[f"event parsed without the grammar, {Path(model).name}"] = estimate(parsed)
    print()
    for name, value in table.items():
        print(f"| {name} | {value.share() if 'mIoU' in name else value.percent()} | {value.count} |")


if __name__ == "__main__":
    main()
