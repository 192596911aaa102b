"""Make docs/grpo.png: what three seeds of recipes/grpo/tiny.yaml did while they ran.

python docs/make_curves.py out/grpo/tiny-0 out/grpo/tiny-1 out/grpo/tiny-2    # from runs: writes docs/grpo.json, too
python docs/make_curves.py                                                   # from docs/grpo.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

DATA, PICTURE = Path(__file__).parent / "grpo.json", Path(__file__).parent / "grpo.png"
CURVES = {
    "reward/event_iou": "reward: IoU of the event",
    "reward/accuracy": "reward: accuracy of the answer",
    "kl": "KL divergence from the start",
    "zero_variance_groups": "groups whose rewards are all equal",
}
# Okabe and Ito's colours.
COLORS = ("#0072B2", "#D55E00", "#009E73")
# Steps that a point is the mean of: 160 questions, as videos differ a lot.
STEPS_A_POINT = 10


def read(folder: Path) -> dict[str, list[float]]:
    """The curves of one run, a mean for every `STEPS_A_POINT` steps."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "reward" in line]
    whole = len(steps) - len(steps) % STEPS_A_POINT
    found = {name: np.array([step[name] for step in steps[:whole]]) for name in CURVES}
    return {name: np.round(v.reshape(-1, STEPS_A_POINT).mean(axis=1), 4).tolist() for name, v in found.items()}


def draw(runs: dict[str, dict[str, list[float]]]) -> None:
    figure = Figure(figsize=(10, 5.6), dpi=90, layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
        for (run, curves), color in zip(runs.items(), COLORS, strict=True):
            steps = (np.arange(len(curves[name])) + 0.5) * STEPS_A_POINT
            axis.plot(steps, curves[name], color=color, linewidth=1.4, label=run)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    figure.savefig(PICTURE, metadata={"Software": None})


def main(folders: list[str]) -> None:
    if folders:
        runs = {f"seed {number}": read(Path(folder)) for number, folder in enumerate(folders)}
        lines = [f" {json.dumps(name)}: {json.dumps(curves)}" for name, curves in runs.items()]
        DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    draw(json.loads(DATA.read_text(encoding="utf-8")))
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
