"""The cold-start step: one tree a row against one row a task, and memory against the dry run's estimate.

    python bench/train_tree.py [--repeats 5] [--threads 1] [--frames 16 32 64]

Random Qwen2-VL of about 28 M parameters, videos of the synthetic world, three tasks a row, float32. The two ways take
turns in one process, so that other load meets both; the figures are medians. Memory is the peak of a process of its own
over what it held before the model was made, in three variants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.settings import Settings
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.tasks import Task
from videoreasoner.training.cold_start import target_nats
from videoreasoner.training.data.dataset import Collator, Example, Lessons
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.training.planning.memory import GB, Hardware, StepShape, count_parameters, estimate
from videoreasoner.training.recipe import ColdStartRecipe, Source
from videoreasoner.video.patches import PatchSettings


def new_model(tokenizer: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 16384,
            "hidden_size": 384,
            "intermediate_size": 1152,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 6, "embed_dim": 256, "hidden_size": 384, "num_heads": 4, "mlp_ratio": 4},
        video_token_id=ids("<|video_pad|>"),
        image_token_id=ids("<|image_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        attn_implementation=IMPLEMENTATION,
    )
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(config).train()


def lessons_and_row(folder: Path, frames: int, side: int) -> tuple[Lessons, Example]:
    tokenizer = learn_tokenizer(Prompts())
    extend_tokenizer(tokenizer)
    pixels = side * side
    settings = Settings(frame_budget=frames, min_pixels=pixels, max_pixels=pixels)
    reader = ClipReader(settings, PatchSettings(min_pixels=pixels, max_pixels=pixels))
    lessons = Lessons(PromptEncoder(tokenizer, settings.prompts), reader, list(Task), 16384, 512, None)
    [row] = make_videos(folder, 1, VideoSettings(60.0, 10, 128), splits=["plain"])
    return lessons, lessons.example("bench", row, row.video_path(folder))


def step_s(model: Any, batch: dict[str, Any]) -> float:
    started = time.perf_counter()
    target_nats(model, batch).mean().backward()
    model.zero_grad()
    return time.perf_counter() - started


def compare(folder: Path, frames: int, repeats: int) -> None:
    lessons, example = lessons_and_row(folder / str(frames), frames, 112)
    apart = replace(lessons, shared_prompt=False)
    other = apart.example("bench", example.row, example.row.video_path(folder / str(frames)))
    collate = Collator(lessons.encoder, lessons.reader)
    batches = {"tree": collate([example]), "apart": collate([other])}
    model = new_model(lessons.encoder.tokenizer)
    seconds: dict[str, list[float]] = {"tree": [], "apart": []}
    for _ in range(repeats + 1):
        for name, batch in batches.items():
            seconds[name].append(step_s(model, batch))
    tree, rows = (statistics.median(seconds[name][1:]) for name in ("tree", "apart"))
    tokens = len(example.lesson.trees[0])
    print(
        f"{frames:4d} frames, {tokens:5d} tokens a tree, {sum(map(len, other.lesson.trees)):5d} apart: "
        f"tree {tree:.2f} s/row, apart {rows:.2f} s/row: {rows / tree:.2f}x",
        flush=True,
    )


def peak_gb(folder: Path, rows: int, recomputes: bool, answer: Any) -> None:
    """In a process of its own: two optimizer steps, and what they held at most."""
    torch.set_num_threads(1)
    lessons, example = lessons_and_row(folder, 64, 168)
    batch = Collator(lessons.encoder, lessons.reader)([example] * rows)
    target_nats(new_model(lessons.encoder.tokenizer), {**batch, **_nothing(batch)}).sum()
    before = _status("VmRSS")
    model = new_model(lessons.encoder.tokenizer)
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        target_nats(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = _status("VmHWM") - before
    targets = sum(len(example.lesson.trees[0].tree.tokens[target.node]) for target in example.lesson.targets)
    step = StepShape(rows, len(example.lesson.trees[0]), len(example.tokens), targets)
    recipe = ColdStartRecipe(
        model_name_or_path="none", output_dir="none", data=[Source(path="none")], gradient_checkpointing=recomputes
    )
    said = sum(estimate(model, recipe, Hardware(), step).values()) / GB
    answer.put((count_parameters(model), found, said))


def _nothing(batch: dict[str, Any]) -> dict[str, Any]:
    """A first, short forward pass: it makes the libraries take what they hold on to."""
    short = {name: batch[name][:, :8] for name in ("input_ids", "mm_token_type_ids")}
    return {
        **{name: value[:1] for name, value in short.items()},
        "position_ids": batch["position_ids"][:, :1, :8],
        "attention_mask": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
        "pixel_values_videos": None,
        "video_grid_thw": None,
        "rows": torch.zeros(1, dtype=torch.long),
        "predictors": torch.zeros(1, dtype=torch.long),
        "labels": batch["labels"][:1],
    }


def _status(name: str) -> float:
    """Of this process, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024 / GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, nargs="*", default=[16, 32, 64])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        for frames in options.frames:
            compare(Path(name), frames, options.repeats)
        # Every larger tensor in a mapping of its own, given back when it goes: what is measured is what is in use, and
        # not how the C library keeps free memory.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
        context = multiprocessing.get_context("spawn")
        for number, (rows, recomputes) in enumerate([(1, False), (1, True), (3, True)]):
            answer = context.Queue()
            process = context.Process(target=peak_gb, args=(Path(name) / f"m{number}", rows, recomputes, answer))
            process.start()
            parameters, found, said = answer.get()
            process.join()
            kept = "activations computed again" if recomputes else "activations kept"
            print(
                f"{parameters / 1e6:.0f} M parameters, {rows} row(s), {kept}: "
                f"{found:.2f} GB, estimated {said:.2f} GB ({said / found - 1:+.0%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
