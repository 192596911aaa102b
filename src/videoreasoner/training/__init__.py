"""Training: the cold start and multi-task GRPO.

from videoreasoner.training import ColdStartRecipe, train_cold_start
train_cold_start(ColdStartRecipe(model_name_or_path="tiny-base", output_dir="out", data=[{"path": "rows.jsonl"}]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoreasoner.training.cold_start import train_cold_start as train_cold_start
    from videoreasoner.training.grpo.recipe import GrpoRecipe as GrpoRecipe
    from videoreasoner.training.grpo.setup import train_grpo as train_grpo
    from videoreasoner.training.recipe import ColdStartRecipe as ColdStartRecipe
    from videoreasoner.training.recipe import load_recipe as load_recipe
    from videoreasoner.training.trainers import GrpoTrainer as GrpoTrainer

# Public name -> the module that defines it, imported on first use: a recipe needs no torch.
_MODULES = {
    "ColdStartRecipe": "recipe",
    "GrpoRecipe": "grpo.recipe",
    "GrpoTrainer": "trainers",
    "load_recipe": "recipe",
    "train_cold_start": "cold_start",
    "train_grpo": "grpo.setup",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
