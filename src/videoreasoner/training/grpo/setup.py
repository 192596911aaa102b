"""From a GRPO recipe to a trainer: rewards, reference, and the run itself."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from videoreasoner.errors import SettingError
from videoreasoner.models.checkpoint import Checkpoint, find_folder, load_checkpoint
from videoreasoner.retrieval.encoder import load_encoder
from videoreasoner.settings import Settings
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.retrieval_reward import KeyElementRetrieval
from videoreasoner.training.grpo.rewards import KEY_ELEMENT_RETRIEVAL, SHIPPED, RewardFunction, Rewards, load_rewards
from videoreasoner.training.grpo.trainer import GrpoTrainer
from videoreasoner.training.runtime.arguments import has_split_weights
from videoreasoner.training.runtime.setup import prepare, train
from videoreasoner.utils.terminal import say
from videoreasoner.video.isolated.file import GuardedVideoFile


def prepare_grpo(
    recipe: GrpoRecipe, overwrite: bool = False, functions: Mapping[str, RewardFunction] | None = None
) -> GrpoTrainer:
    """A trainer for a recipe, ready to train.

    Args:
        functions: rewards that the recipe names and that are no part of it, by name.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    rewards = rewards_of(recipe, functions)
    run = prepare(recipe, overwrite, None, recipe.num_iterations, reward_sources(rewards))
    # Where weights are split, the trainer splits the reference, too. No device has to hold all of it.
    device = torch.device("cpu") if has_split_weights(run.args) else run.args.device
    return GrpoTrainer(run, recipe, rewards, load_reference(recipe, run.checkpoint, device))


def reward_sources(rewards: Rewards) -> dict[str, str]:
    """The digest of the source of each reward of the user's own, so that a changed one is not taken for the same.

    What a function calls or holds is not compared. Where its source cannot be read, as in an interactive session,
    a line on stderr says that a change would go unnoticed.
    """
    sources = {}
    for name, function in rewards.functions.items():
        # A function of a file may have the name of a shipped one.
        if function is SHIPPED.get(name) or isinstance(function, KeyElementRetrieval):
            continue
        # An object that can be called has its source in its class.
        written: Any = function if inspect.isroutine(function) else type(function)
        try:
            sources[name] = hashlib.sha256(inspect.getsource(written).encode()).hexdigest()
        except (OSError, TypeError):
            sources[name] = "not known"
            say(f"reward {name}: its source cannot be read, so a resumed run cannot tell a change", to_stderr=True)
    return sources


def rewards_of(recipe: GrpoRecipe, functions: Mapping[str, RewardFunction] | None = None) -> Rewards:
    """The rewards that a recipe names.

    Args:
        functions: see `prepare_grpo`.

    Raises:
        SettingError: one cannot be loaded, a function has the name of a shipped one, a task is concerned by none, or
            retrieval has no encoder.
        CheckpointError: the encoder cannot be loaded.
    """
    more: dict[str, RewardFunction] = dict(functions or {})
    taken = sorted(more.keys() & {*SHIPPED, KEY_ELEMENT_RETRIEVAL})
    if taken:
        raise SettingError(f"rewards: {taken[0]} is the name of a shipped reward; rename the function")
    if KEY_ELEMENT_RETRIEVAL in recipe.rewards:
        settings = Settings.load(find_folder(recipe.model_name_or_path, weights=False)).changed(**recipe.settings)
        name = recipe.reward_encoder or settings.encoder
        if name in (None, "none"):
            raise SettingError(
                f"rewards: {KEY_ELEMENT_RETRIEVAL} needs a text-image encoder, and {recipe.model_name_or_path} names "
                "none; set reward_encoder"
            )
        # The process group does not exist yet. Launchers state which GPU this process uses.
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        is_asked_for = recipe.reward_encoder is not None or "encoder" in recipe.settings
        encoder = load_encoder(name, device, is_asked_for=is_asked_for)
        more[KEY_ELEMENT_RETRIEVAL] = KeyElementRetrieval(
            encoder, settings, partial(GuardedVideoFile, time_limit_s=recipe.decode_time_limit_s)
        )
    rewards = load_rewards(recipe.rewards, more)
    rewards.check_tasks(recipe.tasks)
    return rewards


def load_reference(recipe: GrpoRecipe, checkpoint: Checkpoint, device: torch.device) -> Any:
    """The frozen reference model: the weights that training starts from, or those that the recipe names.

    None without a divergence term, and with adapters: then the model without them is the reference. It is loaded
    again and not copied, because a resumed run has other weights.

    Raises:
        CheckpointError: it cannot be loaded.
        SettingError: it has another vocabulary.
    """
    if recipe.beta == 0 or recipe.lora is not None:
        return None
    name = recipe.ref_model or recipe.model_name_or_path
    reference = load_checkpoint(name, str(device), getattr(torch, recipe.dtype))
    ours, theirs = (c.encoder.tokenizer.get_vocab() for c in (checkpoint, reference))
    rows = [c.model.get_output_embeddings().weight.shape[0] for c in (checkpoint, reference)]
    if ours != theirs or rows[0] != rows[1]:
        differing = len(ours.items() ^ theirs.items())
        raise SettingError(
            f"ref_model {name}: its vocabulary is not the model's ({differing} entries differ, {rows[1]} rows against "
            f"{rows[0]}), so log-probabilities cannot be compared; name a model of the same tokenizer"
        )
    return reference.model.requires_grad_(False)


def train_grpo(
    recipe: GrpoRecipe, overwrite: bool = False, functions: Mapping[str, RewardFunction] | None = None
) -> Path:
    """Run a recipe, from where an earlier start of the same run stopped.

    Args:
        functions: see `prepare_grpo`.

    Returns:
        The output folder, which then holds the trained model.

    Raises:
        VideoReasonerError: the recipe cannot be run here, or the run cannot continue; the message says why.
    """
    return train(prepare_grpo(recipe, overwrite, functions))
