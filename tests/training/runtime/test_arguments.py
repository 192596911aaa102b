"""transformers' settings: what a recipe decides, and what is refused before a run instead of in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import recipe_content
from videoreasoner.errors import SettingError
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.arguments import check_launch, check_optimizer, has_fsdp, training_arguments


def recipe(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe(recipe_content(folder, folder / "rows.jsonl", **changes), ColdStartRecipe)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def test_fields_of_the_recipe_reach_transformers(tmp_path: Path) -> None:
    values = {"learning_rate": 3e-4, "max_steps": 7, "weight_decay": 0.1, "adam_beta2": 0.9, "seed": 5, "save_steps": 3}
    args = training_arguments(recipe(tmp_path, **values, gradient_checkpointing=True))
    assert {name: getattr(args, name) for name in values} == values
    assert args.gradient_checkpointing
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert not training_arguments(recipe(tmp_path, gradient_checkpointing=False)).gradient_checkpointing
    assert args.save_strategy == "steps"
    assert args.n_gpu <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"])
def test_options_of_checkpointing_have_either_name(tmp_path: Path, name: str) -> None:
    given = {"use_reentrant": True}
    args = training_arguments(recipe(tmp_path, gradient_checkpointing=True, trainer={name: given}))
    assert args.gradient_checkpointing_kwargs == given


def test_checkpointing_is_not_switched_at_two_places(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="set it as gradient_checkpointing in the recipe"):
        training_arguments(recipe(tmp_path, trainer={"activation_checkpointing": True}))


def test_other_fields_of_transformers_may_be_given(tmp_path: Path) -> None:
    trainer = {"use_cpu": True, "dataloader_pin_memory": False, "ddp_find_unused_parameters": True}
    args = training_arguments(recipe(tmp_path, trainer=trainer))
    assert {name: getattr(args, name) for name in trainer} == trainer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"label_smoothing_factor": 0.1}}, r"trainer\.label_smoothing_factor: would have no effect"),
        ({"trainer": {"eval_strategy": "steps"}}, r"trainer\.eval_strategy: would have no effect"),
        ({"trainer": {"max_grad_nrom": 1}}, r"there is no key trainer\.max_grad_nrom; did you mean"),
        ({"optim": "sideways"}, "optim: there is no 'sideways'; did you mean"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, r"lr_scheduler_type .*give what it needs as trainer\."),
        ({"report_to": "sideways"}, "report_to sideways: "),
    ],
)
def test_what_transformers_would_refuse_later_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        training_arguments(recipe(tmp_path, **changes))


def test_an_optimizer_that_cannot_train_the_model_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    check_optimizer(training_arguments(recipe(tmp_path)), model)
    with pytest.raises(SettingError, match="optim lomo: cannot be used here"):
        check_optimizer(training_arguments(recipe(tmp_path, optim="lomo")), model)


def test_a_launch_that_contradicts_the_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, half = recipe(tmp_path), recipe(tmp_path, dtype="bfloat16")
    args = training_arguments(plain)
    check_launch(plain, args)
    with pytest.raises(SettingError, match="lose most updates"):
        check_launch(half, args)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_launch(half, args)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(SettingError, match="set bf16=true"):
        check_launch(plain, args)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    assert not has_fsdp(args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert has_fsdp(args)
    check_launch(half, args)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(SettingError, match=r"set it to false .*accelerate/fsdp2"):
        check_launch(plain, args)
