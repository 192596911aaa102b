"""The cold-start step: one tree a row against one row a task, and memory against the dry run's estimate.

    python -m bench.train_tree [--repeats 5] [--threads 1] [--frames 16 32 64]

Random Qwen2-VL of about 28 M parameters, videos of the synthetic world, three tasks a row, float32. The two ways take
turns in one process, so that other load affects both; times are medians. Memory is the peak of a separate process above
what it held before the model was made, in three variants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.prompts import Prompts
from videoreasoner.settings import Settings
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.tasks import Task
from videoreasoner.training.cold_start import target_batch
from videoreasoner.training.data.examples import Example, ExampleMaker
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


def maker_and_example(folder: Path, frames: int, side: int) -> tuple[ExampleMaker, Example]:
    tokenizer = learn_tokenizer(Prompts())
    extend_tokenizer(tokenizer)
    pixels = side * side
    settings = Settings(frame_budget=frames, min_pixels=pixels, max_pixels=pixels)
    reader = ClipReader(settings, PatchSettings(min_pixels=pixels, max_pixels=pixels))
    tasks = {task: frozenset({task}) for task in Task}
    maker = ExampleMaker(PromptEncoder(tokenizer, settings.prompts), reader, tasks, 16384, 512, None)
    [row] = make_videos(folder, 1, VideoSettings(60.0, 10, 128), splits=["plain"])
    return maker, maker.example("bench", row, row.video_path(folder))


def loss_of(model: Any, examples: Sequence[Example], pad_id: int, shared_prompt: bool = True) -> torch.Tensor:
    batch = target_batch(examples, pad_id, shared_prompt)
    return -token_log_probs(model, batch, batch.clip_inputs([example.patches for example in examples])).mean()


def step_s(model: Any, example: Example, pad_id: int, shared_prompt: bool) -> float:
    started = time.perf_counter()
    loss_of(model, [example], pad_id, shared_prompt).backward()
    model.zero_grad()
    return time.perf_counter() - started


def compare(folder: Path, frames: int, repeats: int) -> None:
    maker, example = maker_and_example(folder / str(frames), frames, 112)
    pad_id = maker.encoder.pad_id
    model = new_model(maker.encoder.tokenizer)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats + 1):
        for shared_prompt, measured in seconds.items():
            measured.append(step_s(model, example, pad_id, shared_prompt))
    tree, rows = (statistics.median(seconds[shared_prompt][1:]) for shared_prompt in (True, False))
    apart = target_batch([example], pad_id, shared_prompt=False)
    print(
        f"{frames:4d} frames, {example.tokens:5d} tokens a tree, {apart.tokens:5d} apart: "
        f"tree {tree:.2f} s/row, apart {rows:.2f} s/row: {rows / tree:.2f}x",
        flush=True,
    )


def peak_gb(folder: Path, rows: int, recomputes: bool, answer: Any) -> None:
    """In a process of its own: two optimizer steps, and what they held at most."""
    torch.set_num_threads(1)
    maker, example = maker_and_example(folder, 64, 168)
    pad_id = maker.encoder.pad_id
    # A first, short pass makes the libraries take the memory that they keep.
    loss_of(new_model(maker.encoder.tokenizer), [maker.dummy()], pad_id)
    before = _status("VmRSS")
    model = new_model(maker.encoder.tokenizer)
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        loss_of(model, [example] * rows, pad_id).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = _status("VmHWM") - before
    targets = sum(map(len, example.targets.values()))
    step = StepShape(rows, example.tokens, int(example.prompt.trunk.visual.sum()), targets)
    recipe = ColdStartRecipe(
        model_name_or_path="none", output_dir="none", data=[Source(path="none")], gradient_checkpointing=recomputes
    )
    said = sum(estimate(model, recipe, Hardware(), step).values()) / GB
    answer.put((count_parameters(model), found, said))


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
        # The C library then returns the memory of every larger tensor when it is freed, so that only memory in use is
        # measured.
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
