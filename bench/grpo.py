"""One step of multi-task GRPO: this trainer, its own repeated path, and TRL, at equal shapes, in one run.

    python -m bench.grpo --out out/bench-grpo --trl-python TRL/bin/python

Each variant runs in its own process and trains the same random Qwen2-VL for a few steps on one query a step with two
tasks, fp32 on the CPU, one thread unless told otherwise. The first step warms up; times are medians of the others.
TRL's GRPOTrainer knows no video, so it gets half as many images, which makes as many visual tokens; it needs an
environment of its own with trl==1.16.0, and is left out without --trl-python.

The table also times the work that every step needs (`bound`): one prefill of the trunk, one forward and backward pass
over it, and one forward pass of the reference. "Beyond states" is peak memory without libraries, weights (the
reference's too), gradients and the optimizer's moments: those are the same in every variant.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

QUESTIONS = ("When does it happen?", "What color is it?")


@dataclass(frozen=True)
class Case:
    """What is timed: variant (tree, repeated, trl), frames and their side in pixels, completions a task and tokens of a
    completion, steps. `micro` is of TRL alone: completions in a forward and backward pass; None is a whole group.
    `rank` is that of low-rank adapters on the language model, with the vision tower frozen; 0 trains all weights."""

    variant: str
    frames: int = 64
    side: int = 112
    generations: int = 8
    completion: int = 24
    steps: int = 4
    threads: int = 1
    micro: int | None = None
    rank: int = 0


def uneven(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs within every group, so that no variant has less to learn."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def run_ours(case: Case, checkpoint: Path, work: Path) -> dict[str, float]:
    """Steps of the real trainer on a real video, from its own metrics.jsonl."""
    import torch
    from transformers.trainer_utils import SaveStrategy

    from videoreasoner.synthetic.videos import VideoSettings, make_videos
    from videoreasoner.training.grpo.recipe import GrpoRecipe
    from videoreasoner.training.grpo.setup import prepare_grpo
    from videoreasoner.training.recipe import parse_recipe

    torch.set_num_threads(case.threads)
    videos = work / f"videos-{case.side}"
    make_videos(videos, 1, VideoSettings(duration_s=64.0, fps=4.0, size=case.side), splits=("plain",))
    recipe = parse_recipe(
        {
            "model_name_or_path": str(checkpoint),
            "output_dir": str(work / f"{case.variant}-{case.frames}-{case.side}-{case.generations}-{case.completion}"),
            "data": [{"path": str(videos / "plain.jsonl")}],
            "video_root": str(videos),
            "frame_cache_dir": str(work / "cache"),
            "settings": {"frame_budget": case.frames, "min_pixels": case.side**2, "max_pixels": case.side**2},
            "max_steps": case.steps,
            "save_steps": 1000,
            "num_generations": case.generations,
            "max_completion_length": case.completion,
            "rewards": {f"{Path(__file__).resolve()}:uneven": 1.0},
            "shared_prompt": case.variant == "tree",
            "gradient_checkpointing": False,
            "dataloader_num_workers": 0,
            "recorded_rollouts": 0,
            "lora": {"r": case.rank, "lora_alpha": 2 * case.rank, "lora_dropout": 0} if case.rank else None,
        },
        GrpoRecipe,
    )
    libraries = _resident_gb()
    trainer = prepare_grpo(recipe, overwrite=True)
    # Only steps are timed.
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.add_callback(_steps_callback(times := []))
    trainer.train()
    lines = [line for line in trainer.state.log_history if "time/update" in line][1:]
    names = ("rollout", "reference", "update")
    parts = {name: statistics.median(line[f"time/{name}"] for line in lines) for name in names}
    peak = _peak_gb()
    bound = _bound(trainer, case) if case.variant == "tree" and not case.rank else {}
    states = libraries + _states_gb(trainer.model, case)
    return {**parts, "step": statistics.median(times[1:]), "peak_gb": peak, "states_gb": states, **bound}


def _bound(trainer: Any, case: Case) -> dict[str, float]:
    """Seconds of trunk prefill, trunk forward and backward, and reference forward, the vision tower in each."""
    import torch

    from videoreasoner.models.prompt_tree import PromptTree, collate
    from videoreasoner.models.tree_batch import encode_clip
    from videoreasoner.models.tree_decoder import TreeDecoder

    example = trainer.run.dataset[0]
    trunk, patches = example.prompt.trunk, example.patches
    tree = PromptTree(trunk)
    tree.add(example.prompt.question)
    pixels = {"pixel_values_videos": patches.pixel_values, "video_grid_thw": torch.tensor([patches.grid])}
    inputs = collate([tree.pack()], 0)
    # The whole trunk is causal: without a mask it runs on the fastest kernel there is.
    inputs.pop("attention_mask")
    model = trainer.model

    def forward(which: Any) -> Any:
        return which(**inputs, **pixels, use_cache=False, logits_to_keep=1).logits

    def prefill() -> None:
        with torch.inference_mode():
            TreeDecoder(model.eval(), [trunk], [encode_clip(model, patches)], (), ())

    def update() -> None:
        forward(model.train()).sum().backward()
        model.zero_grad()

    def reference() -> None:
        with torch.inference_mode():
            forward(trainer.reference)

    parts = [statistics.median(_seconds(part) for _ in range(3)) for part in (prefill, update, reference)]
    return {"bound": sum(parts)}


def _seconds(part: Any) -> float:
    started = time.perf_counter()
    part()
    return time.perf_counter() - started


def run_trl(case: Case, checkpoint: Path, work: Path) -> dict[str, float]:
    """TRL's GRPOTrainer with the frames as images. All completions are sampled together, whatever `micro` is."""
    import numpy as np
    import torch
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(case.threads)
    micro = case.micro or case.generations
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (case.side, case.side, 3), dtype=np.uint8))
        for _ in range(case.frames // 2)
    ]
    processor = AutoProcessor.from_pretrained(checkpoint, min_pixels=case.side**2, max_pixels=case.side**2)
    processor.tokenizer.padding_side = "left"
    processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    libraries = _resident_gb()
    # Random weights write placeholders of images, which breaks TRL's update. Ours are never sampled either.
    model = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    config = model.config
    placeholders = (
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    )
    never = [*placeholders, *range(len(processor.tokenizer), _rows(model))]
    rows = [{"prompt": [{"role": "user", "content": text}], "images": images} for text in QUESTIONS]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=uneven,
        args=GRPOConfig(
            output_dir=str(work / "trl"),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=len(QUESTIONS) * case.generations // micro,
            num_generations=case.generations,
            max_completion_length=case.completion,
            beta=0.04,
            generation_kwargs={"suppress_tokens": never},
            max_steps=case.steps,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows * case.steps),
        processing_class=processor,
        peft_config=_adapters(case.rank) if case.rank else None,
    )
    trainer.add_callback(_steps_callback(times := []))
    trainer.train()
    states = libraries + _states_gb(trainer.model, case)
    return {"step": statistics.median(times[1:]), "peak_gb": _peak_gb(), "states_gb": states}


def _adapters(rank: int) -> Any:
    """Where ours are: `Lora.target_modules`."""
    from peft import LoraConfig

    layers = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=layers, task_type="CAUSAL_LM")


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type']=='image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _rows(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _steps_callback(times: list[float]) -> Any:
    """Seconds of each step, from its beginning (data and rollouts included) to its end."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            times.append(now - self.last)
            self.last = now

    return Clock()


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _resident_gb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9


def _states_gb(model: Any, case: Case) -> float:
    """Float32 weights, those of a reference of its own, gradients, and both moments of AdamW."""
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 4 * (weights * (1 if case.rank else 2) + 3 * trained) / 1e9


def child(text: str) -> None:
    """One case, in this process; the last line of its output holds the measurements as JSON."""
    content = json.loads(text)
    checkpoint, work = Path(content.pop("checkpoint")), Path(content.pop("work"))
    case = Case(**content)
    metrics = (run_trl if case.variant == "trl" else run_ours)(case, checkpoint, work)
    print(json.dumps(metrics))


def measure(case: Case, checkpoint: Path, work: Path, python: str, given_back: bool) -> dict[str, Any]:
    """The measurements of one case, or why there are none.

    Args:
        given_back: the C library returns the memory of every larger tensor when it is freed, so that only memory in use
            is measured. Steps take longer then.
    """
    content = json.dumps({**asdict(case), "checkpoint": str(checkpoint.resolve()), "work": str(work.resolve())})
    done = subprocess.run(
        [python, "-m", "bench.grpo", "--child", content],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(case.threads),
            "HF_HUB_OFFLINE": "1",
            **({"MALLOC_MMAP_THRESHOLD_": "131072"} if given_back else {}),
        },
    )
    if done.returncode:
        return {**asdict(case), "failed": done.stderr.strip().splitlines()[-1:]}
    metrics = json.loads(done.stdout.strip().splitlines()[-1])
    return {**asdict(case), **metrics, "beyond_gb": metrics["peak_gb"] - metrics["states_gb"]}


def cases() -> list[Case]:
    """G at 64 frames; numbers of frames; where sharing pays least; and a prompt as long as published ones are."""
    every = [Case("tree", generations=g) for g in (2, 4, 8, 16)]
    every += [Case("tree", frames=frames) for frames in (16, 128)]
    every += [Case("tree", completion=128), Case("tree", frames=4, generations=2)]
    every += [Case("tree", side=side, generations=g) for side in (168, 224) for g in (2, 8, 16)]
    # Peers where they end within minutes: they need as much time and memory a completion as the tree for a query.
    compared = [Case("tree", generations=g) for g in (2, 8)] + [Case("tree", frames=16)]
    compared += [Case("tree", frames=16, completion=128), Case("tree", frames=4, generations=2)]
    every.append(compared[-2])
    every += [replace(case, variant=variant, steps=3) for case in compared for variant in ("repeated", "trl")]
    # With adapters, states are small: memory is what the pass holds, of a task's group or of both as on the tree.
    adapted = [Case("tree", rank=64, steps=3), Case("trl", rank=64, steps=3, micro=16)]
    every += [*adapted, Case("trl", rank=64, steps=3), *(replace(case, side=140) for case in adapted)]
    every.append(Case("trl", steps=2, micro=16))
    # A whole group at once would need some 22 GB, and some 40 GB with nearly as many visual tokens as published runs.
    return [*every, Case("trl", frames=128, steps=2, micro=4), Case("trl", side=224, steps=2, micro=2)]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, one line a case, with the tree's advantage over the same case in the other variants."""
    tree = {_shape(r): r for r in results if r["variant"] == "tree" and "failed" not in r}
    lines = [
        "| variant | frames | side | G | tokens | rollout s | reference s | update s | step s | peak GB "
        "| beyond states GB "
        "| step / tree | peak / tree | beyond / tree | step / bound |",
        f"|{'---|' * 15}",
    ]
    for result in results:
        variant = f"{result['variant']}, {result['micro']} at a time" if result["micro"] else result["variant"]
        variant += f", LoRA {result['rank']}" if result["rank"] else ""
        shape = " | ".join(str(result[name]) for name in ("frames", "side", "generations", "completion"))
        head = f"| {variant} | {shape} |"
        if "failed" in result:
            lines.append(f"{head} failed: {' '.join(result['failed'])} |")
            continue
        own = tree.get(_shape(result))
        metrics = ("rollout", "reference", "update", "step", "peak_gb", "beyond_gb")
        parts = [f"{result[n]:.2f}" if n in result else "-" for n in metrics]
        ratios = [f"{result[n] / own[n]:.1f}" if own else "-" for n in ("step", "peak_gb", "beyond_gb")]
        bound = f"{result['step'] / result['bound']:.2f}" if "bound" in result else "-"
        lines.append(f"{head} {' | '.join(parts + ratios + [bound])} |")
    return "\n".join(lines)


def _shape(result: dict[str, Any]) -> tuple[int, ...]:
    return result["frames"], result["side"], result["generations"], result["completion"], result["rank"]


def with_images(checkpoint: Path) -> Path:
    """Name the placeholder of images in a checkpoint that was made for video alone."""
    from transformers import AutoTokenizer

    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["image_token_id"] = AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids("<|image_pad|>")
    path.write_text(json.dumps(config, indent=2) + "\n")
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench-grpo"))
    parser.add_argument("--trl-python", help="a Python that has trl==1.16.0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="frames,side,G,tokens of one case, such as 64,112,8,24; ,RANK for one with LoRA")
    parser.add_argument("--variants", default="tree,repeated,trl", help="some of these, with commas between")
    parser.add_argument("--memory", action="store_true", help="measure memory in use; times are then not to be used")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    from bench.shapes import SHAPES, save_random_checkpoint

    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = with_images(save_random_checkpoint(arguments.out, SHAPES["small"]))
    results = []
    for case in cases():
        shape = f"{case.frames},{case.side},{case.generations},{case.completion}{f',{case.rank}' if case.rank else ''}"
        if arguments.only not in (None, shape):
            continue
        if case.variant not in arguments.variants.split(",") or (case.variant == "trl" and not arguments.trl_python):
            continue
        python = arguments.trl_python if case.variant == "trl" else sys.executable
        case = replace(case, threads=arguments.threads)
        results.append(measure(case, checkpoint, arguments.out, python, arguments.memory))
        print(results[-1], file=sys.stderr, flush=True)
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
