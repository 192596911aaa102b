"""What `skip_flat_groups` saves and what it leaves out, on the same completions in one process.

    python -m bench.flat_groups --model out/cold-start/tiny --out out/bench-flat-groups

Trains a cold-started tiny model with recipes/grpo/tiny.yaml for some steps, with the setting off or (`--skip`) on. Then
each further batch of rows is one step with it off and one with it on, from the same weights: the completions are the
same, and the gradients are compared. Times are CPU seconds of this process; the setting that goes first changes with
every batch. The rollout is the same work for both and is a part of the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

ROWS = 16
QUESTIONS = 4


def prepared(model: str, out: Path, steps: int, batches: int, skips: bool) -> Any:
    """A trainer after some steps, and rows behind those for the comparison."""
    import torch

    from videoreasoner.synthetic.videos import VideoSettings, make_videos
    from videoreasoner.synthetic.world import WorldSettings
    from videoreasoner.training.grpo.recipe import GrpoRecipe
    from videoreasoner.training.grpo.setup import prepare_grpo
    from videoreasoner.training.recipe import load_recipe

    torch.set_num_threads(1)
    world = WorldSettings(events=(1, 2), event_share=(0.05, 0.2))
    videos = -(-(steps + batches) * ROWS // QUESTIONS)
    settings = VideoSettings(size=48, seed=63, world=world)
    make_videos(out / "videos", videos, settings, ("plain",), QUESTIONS)
    changes: dict[str, Any] = {
        "model_name_or_path": model, "data": [{"path": str(out / "videos" / "plain.jsonl")}],
        "video_root": str(out / "videos"), "eval_data": [], "output_dir": str(out / "run"), "max_steps": steps,
        "save_steps": steps, "frame_cache_dir": None, "skip_flat_groups": skips,
    }  # fmt: skip
    sets = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    trainer = prepare_grpo(load_recipe(Path("recipes/grpo/tiny.yaml"), GrpoRecipe, sets), overwrite=True)
    trainer.train()
    return trainer


def step(trainer: Any, recipe: Any, batch: Any) -> tuple[float, Any, dict[str, float]]:
    """CPU seconds of a step up to its gradient, the gradient, and the means of its metrics."""
    import torch

    trainer.recipe = recipe
    trainer.metrics.sums.clear()
    trainer.metrics.counts.clear()
    trainer.model.zero_grad()
    started = time.process_time()
    [loss] = trainer.step_losses([batch])
    if loss is not None:
        loss(trainer.model).backward()
    seconds = time.process_time() - started
    gradient = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    counts = trainer.metrics.counts
    return seconds, torch.cat(gradient), {n: v / counts[n] for n, v in trainer.metrics.sums.items() if counts.get(n)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench-flat-groups"))
    parser.add_argument("--model", default="tiny", help="checkpoint to start from")
    parser.add_argument("--steps", type=int, default=60, help="steps of training before the comparison")
    parser.add_argument("--batches", type=int, default=12, help="steps that are compared, of 16 rows each")
    parser.add_argument("--skip", action="store_true", help="leave flat groups out of those steps of training")
    arguments = parser.parse_args()
    from videoreasoner.training.data.dataset import ExampleBatch

    trainer = prepared(arguments.model, arguments.out, arguments.steps, arguments.batches, arguments.skip)
    recipes = {skips: trainer.recipe.model_copy(update={"skip_flat_groups": skips}) for skips in (False, True)}
    seen: list[dict[str, float]] = []
    for number in range(arguments.batches + 1):
        rows = range(max(0, number - 1) * ROWS, max(1, number) * ROWS)
        batch = ExampleBatch.collate([trainer.run.dataset[len(trainer.run.dataset) - 1 - row] for row in rows])
        order = (False, True) if number % 2 else (True, False)
        found = {skips: step(trainer, recipes[skips], batch) for skips in order}
        # The first batch warms up.
        if not number:
            continue
        (kept_s, kept, whole), (skipped_s, skipped, part) = found[False], found[True]
        share = part["kl_share"]
        seen.append({
            "seconds": kept_s, "seconds, skipped": skipped_s, "flat groups": whole["zero_variance_groups"],
            "completions learned from, skipped": share, "kl": whole["kl"], "kl, skipped": part["kl"],
            "gradient difference": float((kept - skipped).norm() / kept.norm()),
        })  # fmt: skip
        print({name: round(value, 4) for name, value in seen[-1].items()}, flush=True)
    for name in seen[0]:
        values = [line[name] for line in seen]
        print(f"{name:36} median {statistics.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
