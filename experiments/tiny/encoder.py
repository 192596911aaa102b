"""Training of the tiny text-image encoder: a real CLIP for single frames of synthetic videos.

Several captions are true of a frame, and several frames match a caption. Both directions of CLIP's loss therefore
spread their target equally over all true pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import processors
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.prompts import Prompts
from videoreasoner.synthetic.world import COLORS, SHAPES, World, WorldSettings, random_world, render
from videoreasoner.tasks import Task

IMAGE_SIZE = 32
_RENDER_SIZE = 64
_MEAN = _STD = 0.3
_WARMUP = 50
_REPORT_EVERY = 250

CAPTIONS = (
    *(f"{color} {shape}" for color in COLORS for shape in SHAPES),
    *SHAPES,
    *(f"{color} object" for color in COLORS),
    *(f"{shape} with a black dot" for shape in SHAPES),
    *(f"{shape} with a digit" for shape in SHAPES),
    "black dot",
    "digit",
    "nothing",
)


def train_encoder(
    out: Path,
    steps: int = 1500,
    batch_size: int = 96,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> None:
    """Train an encoder from random weights and write it as a CLIP folder that transformers loads."""
    model, tokenizer = new_encoder(seed)
    text = tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    for step in range(1, steps + 1):
        images, truth = frames_and_truth(np.random.default_rng([seed, step]), batch_size)
        output = model(text["input_ids"], _pixel_values(images), text["attention_mask"])
        logits = output.logits_per_image
        loss = _spread_loss(logits, truth) + _spread_loss(logits.T, truth.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == steps:
            best = truth.gather(1, logits.argmax(1, keepdim=True)).float().mean()
            report(f"step {step}/{steps}  loss {loss.item():.3f}  best caption true: {best:.3f}")
    _save(model.eval(), tokenizer, out)


def true_captions(world: World, time: float) -> set[str]:
    """Every caption that is true of a video at a time, given as a share of its length."""
    for event in world.events:
        if event.start <= time < event.end:
            is_detail = event.detail_start <= time < event.detail_end
            color = event.detail if is_detail and world.detail_kind == "color" else event.color
            captions = {f"{color} {event.shape}", event.shape, f"{color} object"}
            if is_detail:
                mark = "black dot" if world.detail_kind == "color" else "digit"
                captions |= {mark, f"{event.shape} with a {mark}"}
            return captions
    return {"nothing"}


def frames_and_truth(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], Tensor]:
    """uint8[count, H, W, 3] frames, a third of them inside a detail, and bool[count, captions]."""
    images, truth = [], torch.zeros(count, len(CAPTIONS), dtype=torch.bool)
    for i in range(count):
        settings = WorldSettings((2, 3), (0.10, 0.28), detail="digit" if rng.random() < 0.3 else "color")
        world = random_world(rng, settings)
        event = world.events[int(rng.integers(len(world.events)))]
        kind = rng.random()
        if kind < 0.35:
            time = rng.uniform(event.detail_start, event.detail_end)
        elif kind < 0.9:
            time = rng.uniform(event.start, event.end)
        else:
            time = rng.random()
        images.append(render(world, np.array([time]), _RENDER_SIZE)[0])
        truth[i, [CAPTIONS.index(caption) for caption in true_captions(world, float(time))]] = True
    return np.stack(images), truth


# The vocabulary of the shipped encoder was learned from the default prompts of its time, which had these prefixes.
_PROMPTS = Prompts(
    prefixes={
        Task.EVENT: "I want to locate the key event in the video. ",
        Task.KEY_ELEMENTS: "I want to output the key elements: ",
        Task.ANSWER: "The answer is: ",
    }
)


def new_encoder(seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A tiny CLIP with random weights, and its tokenizer, which ends every text with the token that CLIP pools at."""
    words = learn_tokenizer(_PROMPTS).backend_tokenizer
    end = words.token_to_id("<|endoftext|>")
    words.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|im_end|>", model_max_length=32
    )
    tower = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config={**tower, **ids, "vocab_size": 512, "max_position_embeddings": 32},
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=64,
    )
    torch.manual_seed(seed)
    return CLIPModel(config), tokenizer


def _pixel_values(images: NDArray[np.uint8]) -> Tensor:
    frames = torch.from_numpy(images).permute(0, 3, 1, 2)
    small = functional.interpolate(frames, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    return (small.float() / 255 - _MEAN) / _STD


def _spread_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of each line against equal shares of its true columns; lines without any do not count."""
    counts = truth.sum(1)
    kept = counts > 0
    return functional.cross_entropy(logits[kept], truth[kept].float() / counts[kept, None])


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "image_mean": [_MEAN] * 3,
        "image_std": [_STD] * 3,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
