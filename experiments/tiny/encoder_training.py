"""Making the tiny text-image encoder: a real CLIP, trained on single frames of synthetic videos.

Many captions are true of a frame and many frames of a caption, so both directions of CLIP's loss take every true
pair as a target, in equal shares.
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

IMAGE_SIZE = 32
_RENDER_SIZE = 64
_MEAN = _STD = (0.3, 0.3, 0.3)

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


def true_captions(world: World, time: float) -> set[str]:
    """Every caption that is true of the video at a share of its length."""
    for event in world.events:
        if event.start <= time < event.end:
            detailed = event.detail_start <= time < event.detail_end
            color = event.detail if detailed and world.detail_kind == "color" else event.color
            captions = {f"{color} {event.shape}", event.shape, f"{color} object"}
            if detailed:
                mark = "black dot" if world.detail_kind == "color" else "digit"
                captions |= {mark, f"{event.shape} with a {mark}"}
            return captions
    return {"nothing"}


def frames_and_truth(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], Tensor]:
    """uint8[count, H, W, 3] frames, a third of them inside a detail, and bool[count, captions]."""
    images, truth = [], torch.zeros(count, len(CAPTIONS), dtype=torch.bool)
    for i in range(count):
        world = random_world(
            rng, WorldSettings((2, 3), (0.10, 0.28), detail="digit" if rng.random() < 0.3 else "color")
        )
        event = world.events[int(rng.integers(len(world.events)))]
        kind = rng.random()
        if kind < 0.35:
            time = rng.uniform(event.detail_start, event.detail_end)
        elif kind < 0.9:
            time = rng.uniform(event.start, event.end)
        else:
            time = rng.random()
        images.append(render(world, np.array([time]), _RENDER_SIZE)[0])
        for caption in true_captions(world, float(time)):
            truth[i, CAPTIONS.index(caption)] = True
    return np.stack(images), truth


def _pixel_values(images: NDArray[np.uint8]) -> Tensor:
    frames = torch.from_numpy(images).permute(0, 3, 1, 2)
    small = functional.interpolate(frames, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
    return (small.float() / 255 - mean) / std


def new_encoder(seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A random tiny CLIP and its tokenizer, which ends every text with the token that CLIP pools at."""
    words = learn_tokenizer(Prompts()).backend_tokenizer
    end = words.token_to_id("<|endoftext|>")
    words.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|endoftext|>",
        pad_token="<|im_end|>",
        model_max_length=32,
    )
    tower = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": 512,
            "max_position_embeddings": 32,
            "eos_token_id": end,
            "bos_token_id": end,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=64,
    )
    torch.manual_seed(seed)
    return CLIPModel(config), tokenizer


def train_encoder(
    out: Path,
    *,
    steps: int = 1500,
    batch_size: int = 96,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> None:
    """Train from nothing and write a CLIP folder that transformers loads."""
    model, tokenizer = new_encoder(seed)
    text = tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    model.train()
    for step in range(1, steps + 1):
        images, truth = frames_and_truth(np.random.default_rng([seed, step]), batch_size)
        output = model(
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            pixel_values=_pixel_values(images),
        )
        logits = output.logits_per_image
        loss = _spread_loss(logits, truth) + _spread_loss(logits.T, truth.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            best = truth.gather(1, logits.argmax(1, keepdim=True)).float().mean()
            report(f"step {step}/{steps}  loss {loss.item():.3f}  best caption true: {best:.3f}")
    model.eval()
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
        "image_mean": list(_MEAN),
        "image_std": list(_STD),
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def _spread_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of each row against equal shares over its true columns; rows without any do not count."""
    counts = truth.sum(1)
    rows = counts > 0
    targets = truth[rows].float() / counts[rows, None]
    return functional.cross_entropy(logits[rows], targets)
