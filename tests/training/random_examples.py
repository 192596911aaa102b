"""Examples over random clips, for models with random weights."""

from __future__ import annotations

import torch

from tests.models.tiny_models import tokenizer
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import Prompt
from videoreasoner.prompts import Prompts
from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example
from videoreasoner.video.patches import Patches

ENCODER = PromptEncoder(tokenizer(), Prompts(instruction=""))
PAD = tokenizer().pad_token_id
DURATION_S = 40.0


def row(number: int = 0, **fields) -> Row:
    known = {
        "id": f"row-{number}",
        "video": "a.mp4",
        "question": f"What is it, {number * 'really, '}that flashes?",
        "options": ["red", "blue"],
        "answer": "B",
        "event": [8.0, 16.0],
        "key_elements": ["red circle"],
    }
    return Row.model_validate({**known, **fields})


def random_example(
    number: int = 0,
    grid: tuple[int, int, int] = (4, 4, 6),
    tasks: tuple[Task, ...] = (Task.EVENT, Task.ANSWER),
    tokens_per_second: float | None = None,
    **fields,
) -> Example:
    generator = torch.Generator().manual_seed(number)
    times = [0.7 * i**1.5 for i in range(grid[0])]
    clip = ClipTokens(grid[1] // 2, grid[2] // 2, temporal_indices(times, tokens_per_second))
    asked = row(number, **fields)
    return Example(
        "rows.jsonl",
        asked,
        "videos/a.mp4",
        DURATION_S,
        Prompt(
            ENCODER.trunk([clip]),
            ENCODER.question(asked.question, asked.options or ()),
            {task: ENCODER.prefix(task) for task in tasks},
        ),
        Patches(torch.randn(grid[0] * grid[1] * grid[2], 3 * 2 * 14 * 14, generator=generator), grid),
    )
