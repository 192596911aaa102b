"""The numbers of docs/tiny-model.md: the shipped checkpoints on held-out videos, through `videoreasoner eval`.

    python -m bench.tiny_model --out out/tiny-model [--videos 500] [--model tiny] [--workers 2]

Videos of held-out combinations, from a seed that nothing was tuned on; one plain and one detail question about each, in
both modes; then without the text-image encoder, and the base model, which has never seen the tasks. The same
command continues a killed run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from videoreasoner.benchmarks.compare import compare
from videoreasoner.benchmarks.runner import BenchmarkRun, load_run
from videoreasoner.utils.intervals import Estimate

# Not the default of `eval`, which is used during development.
SEED = 20_261_125


def evaluate(options: argparse.Namespace, name: str, *arguments: str) -> BenchmarkRun:
    out = options.out / name
    command = [
        *("eval", "synthetic", "--videos", str(options.videos), "--seed", str(options.seed)),
        *(
            "--videos-dir",
            str(options.out / "videos"),
            "--workers",
            str(options.workers),
            "--out",
            str(out),
            *arguments,
        ),
    ]
    print("videoreasoner", *command, flush=True)
    subprocess.run([sys.executable, "-m", "videoreasoner", *command], check=True, stdout=subprocess.DEVNULL)
    return load_run(out)


def table(direct: BenchmarkRun, focus: BenchmarkRun, event_alone: BenchmarkRun, base: BenchmarkRun) -> dict[str, str]:
    """What each line of the table in docs/tiny-model.md is called, and what it says."""

    def of(run: BenchmarkRun, metric: str, key: str = "all", value: str = "all") -> Estimate:
        return run.metrics[key][value][metric]

    lines: dict[str, str] = {}
    for split in ("plain", "detail"):
        lines[f"{split}, `direct`"] = of(direct, "answer", "split", split).percent()
        lines[f"{split}, `focus`"] = of(focus, "answer", "split", split).percent()
        [paired] = [d.paired for d in compare(direct, focus) if (d.value, d.metric) == (split, "answer")]
        lines[f"{split}, `focus` - `direct`, paired"] = f"{paired.points()} points"
    lines["detail, `focus` on the located event alone"] = of(event_alone, "answer").percent()
    for mode, run in (("direct", direct), ("focus", focus)):
        seen = of(run, "evidence_seen", "split", "detail")
        lines[f"what a detail question asks for is in a sampled frame, `{mode}`"] = seen.percent()
    lines["event mIoU"] = of(focus, "event_iou").share()
    lines["event mIoU of the middle 30 %"] = of(focus, "event_iou_middle").share()
    for threshold in (0.3, 0.5, 0.7):
        lines[f"event R@{threshold}"] = of(focus, f"event_r@{threshold}").percent()
    for count in sorted(focus.metrics.get("events", {})):
        lines[f"event R@0.5, videos with {count} event(s)"] = of(focus, "event_r@0.5", "events", count).percent()
    for name, run in (("base model", base), ("model", focus)):
        lines[f"event parsed, {name}"] = of(run, "event_parsed").percent()
        lines[f"written answer parsed, {name}"] = of(run, "answer_parsed").percent()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--base", default="tiny-base", help="parse rates are measured for it too")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    model = ("--model", options.model)
    direct = evaluate(options, "direct", *model, "--mode", "direct")
    focus = evaluate(options, "focus", *model)
    event_alone = evaluate(options, "event-alone", *model, "--split", "detail", "--encoder", "none")
    base = evaluate(options, "base", "--model", options.base, "--split", "plain", "--encoder", "none")
    print()
    for name, text in table(direct, focus, event_alone, base).items():
        print(f"| {name} | {text} |")


if __name__ == "__main__":
    main()
