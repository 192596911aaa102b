"""A small byte-level tokenizer with the rules of Qwen2, learned from sentences about synthetic videos."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from videoreasoner.prompts import Prompts
from videoreasoner.synthetic.questions import caption, make_question
from videoreasoner.synthetic.world import WorldSettings, random_world
from videoreasoner.tasks import Task

_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

# Fixed here, so that other defaults of the videos or another task do not change the shipped vocabulary.
_EVENTS = (2, 3), (0.10, 0.28)
_TASKS = (Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER)


def sentences(prompts: Prompts, videos: int = 400, seed: int = 0) -> list[str]:
    """What the tiny model reads and writes: prompts, questions with and without options, captions."""
    rng = np.random.default_rng(seed)
    prefixes = [prompts.prefixes[task] for task in _TASKS]
    lines = [prompts.system, *prefixes, "system\n", "user\n", "assistant\n"] * 50
    for video in range(videos):
        world = random_world(rng, WorldSettings(*_EVENTS, detail="digit" if video % 4 == 0 else "color"))
        lines.append(caption(world))
        for event in world.events:
            for split in ("plain", "detail"):
                question = make_question(rng, world, event, split)
                lines.append(prompts.user_text(question.text, question.options))
                lines.append(" " + ", ".join(question.key_elements))
                lines.append(" " + question.answer)
    return lines


def learn_tokenizer(prompts: Prompts, vocab_size: int = 512) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer whose merges fit the synthetic world; any other text falls back to bytes."""
    plain = Qwen2Tokenizer()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(
        sentences(prompts),
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(_SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    # transformers declares the merges as lines of text, and takes pairs as well.
    merges: Any = [tuple(pair) for pair in learned["merges"]]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=_SPECIAL,
    )
