"""GRPO from Python: a model, rewards and rows instead of a recipe file.

from videoreasoner.training import GrpoTrainer
GrpoTrainer("tiny", rewards=["event_iou", my_reward], rows="rows.jsonl", output_dir="out/mine").train()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from videoreasoner.errors import RowError, SettingError
from videoreasoner.rows import Row
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.setup import train_grpo
from videoreasoner.training.recipe import parse_recipe
from videoreasoner.utils.files import replacing
from videoreasoner.utils.validation import explain_one

Reward = str | Callable[..., Any]
"""A name as in a recipe, or a function; docs/grpo.md says what it gets and returns."""


class GrpoTrainer:
    """Trains a model with GRPO on rows, by rewards.

    Args:
        model: a shipped model, a checkpoint folder or a Hugging Face id.
        rewards: a name or a function, or several, each with weight 1; or a mapping of them to their weights.
        rows: a JSON-lines file; or rows, which are written to `rows-HASH.jsonl` in `output_dir`.
        output_dir: see docs/training.md; the same call resumes a run that was killed.
        fields: any other key of a GRPO recipe, such as `max_steps=100`.

    Attributes:
        recipe: what the run is.

    Raises:
        SettingError: a key is unknown, a value makes no sense, or two functions have the same name.
        RowError: there are no rows, or one is not valid.
    """

    def __init__(
        self,
        model: str | Path,
        rewards: Reward | Sequence[Reward] | Mapping[Reward, float],
        rows: str | Path | Iterable[Row | Mapping[str, Any]],
        output_dir: str | Path,
        **fields: Any,
    ) -> None:
        if isinstance(rewards, str) or callable(rewards):
            rewards = [rewards]
        weights = dict(rewards) if isinstance(rewards, Mapping) else dict.fromkeys(rewards, 1.0)
        names = [reward if isinstance(reward, str) else _name(reward) for reward in weights]
        if len(set(names)) < len(names):
            raise SettingError(f"rewards: two have the same name ({', '.join(names)}); rename one")
        self._functions = {
            name: reward for name, reward in zip(names, weights, strict=True) if not isinstance(reward, str)
        }
        self._lines: str | None = None
        if isinstance(rows, str | Path):
            path = str(rows)
        else:
            path, self._lines = _lines(rows, Path(output_dir))
        content: dict[str, Any] = {"model_name_or_path": str(model), "output_dir": str(output_dir)}
        content |= {"data": [{"path": path}], "rewards": dict(zip(names, weights.values(), strict=True))}
        self.recipe = parse_recipe({**content, **fields}, GrpoRecipe)

    def train(self, overwrite: bool = False) -> Path:
        """Run it, from where an earlier start of the same run stopped. Returns the folder with the trained model.

        Raises:
            VideoReasonerError: it cannot be run here, or the run cannot continue; the message says why.
        """
        if self._lines is not None:
            path = Path(str(self.recipe.data[0].path))
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(self._lines, encoding="utf-8")
        return train_grpo(self.recipe, overwrite, self._functions)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _lines(rows: Iterable[Row | Mapping[str, Any]], folder: Path) -> tuple[str, str]:
    """The file that rows are written to, and its content. The name follows from the content."""
    checked = []
    for number, row in enumerate(rows):
        try:
            checked.append(row if isinstance(row, Row) else Row.model_validate(dict(row)))
        except ValidationError as error:
            raise RowError(f"rows: number {number}: {explain_one(error.errors()[0])}") from error
    if not checked:
        raise RowError("rows: there are none; give at least one")
    text = "".join(row.to_json_line() + "\n" for row in checked)
    return str(folder / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"), text
