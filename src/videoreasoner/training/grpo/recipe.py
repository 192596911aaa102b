"""Recipes of multi-task GRPO: what every training needs, and what decides the sampling, the rewards and the objective.

Names are TRL's where TRL has them. The defaults are the published settings (see docs/grpo.md for the source of each).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from videoreasoner.tasks import Task
from videoreasoner.training.grpo.losses import Normalisation
from videoreasoner.training.grpo.rewards import reference_fields
from videoreasoner.training.recipe import Positive, Recipe


class GrpoRecipe(Recipe):
    """Reinforcement of locating and answering (paper, section "Multi-task GRPO")."""

    tasks: list[Task] = Field([Task.EVENT, Task.ANSWER], min_length=1, description="what is sampled for each row")
    learning_rate: float = Field(2e-6, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(5.0, ge=0, description="gradients are scaled down to this norm; 0: never")

    num_generations: int = Field(8, description="G: completions for each task of a row")
    rollout_batch_size: Positive = Field(16, description="rows on a device whose completions are decoded together")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of the log-probabilities")
    top_p: float = Field(0.95, gt=0, le=1, description="share of the probability that is sampled from")
    max_completion_length: Positive = Field(768, description="most tokens of a completion")
    mask_truncated_completions: bool = Field(False, description="do not learn from completions cut off at the limit")

    rewards: dict[str, float] = Field(
        default_factory=lambda: {"event_iou": 1.0, "event_format": 1.0, "accuracy": 1.0},
        min_length=1,
        description="weight of each reward; beside the shipped ones: package.module.function or file.py:function",
    )
    reward_encoder: str | None = Field(
        None, description="text-image encoder of key_element_retrieval; by default the model's own"
    )

    beta: float = Field(0.04, ge=0, description="weight of the divergence from the reference; 0: no reference")
    skip_flat_groups: bool = Field(
        False, description="leave groups of equal rewards out of reference and update, with their divergence: cheaper"
    )
    ref_model: str | None = Field(None, description="the reference; by default the model that training starts from")
    epsilon: float = Field(0.2, gt=0, description="how far below 1 the ratio still counts")
    epsilon_high: float | None = Field(None, gt=0, description="how far above 1; by default epsilon")
    num_iterations: Positive = Field(1, description="updates on each batch of rollouts")
    loss_type: Normalisation = Field("grpo", description="how tokens are averaged")
    scale_rewards: Literal["group", "none"] = Field("group", description="divide advantages by the group's deviation")

    log_completions: bool = Field(False, description="print a table of rollouts at every logged step")
    num_completions_to_print: Positive = Field(8, description="rollouts in that table")
    recorded_rollouts: int = Field(2, ge=0, description="best and worst rollouts a step that rollouts.jsonl keeps")
    alarm_steps: Positive = Field(20, description="steps after which a reward that was always 0 is reported")

    @property
    def row_fields(self) -> dict[Task, frozenset[Task]]:
        """For each task, the row fields that its rewards read; a row needs at least one to be asked the task."""
        return {task: reference_fields(self.rewards, task) for task in self.tasks}

    @field_validator("num_generations")
    @classmethod
    def _a_group(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"{value} completion in a group has nothing to be compared with, so nothing would be learned; "
                "give at least 2"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> GrpoRecipe:
        if self.lora is not None and self.lora.lora_dropout > 0:
            raise ValueError(
                f"lora.lora_dropout is {self.lora.lora_dropout:g}: the update would see another policy than the one "
                "that was sampled; set it to 0"
            )
        if self.lora is not None and self.ref_model is not None:
            raise ValueError("ref_model: with lora the reference is the model without its adapters; take the line out")
        for name in ("save_steps", "max_steps"):
            value = getattr(self, name)
            if value > 0 and value % self.num_iterations:
                raise ValueError(
                    f"{name} is {value}, no multiple of num_iterations ({self.num_iterations}): the run would stop "
                    "between two updates on a batch, and could not continue; give a multiple"
                )
        if self.beta == 0 and self.ref_model is not None:
            raise ValueError("ref_model: beta is 0, so nothing reads a reference; take the line out or give a beta")
        return self
