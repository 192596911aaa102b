"""The finished model on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoreasoner.errors import SettingError, TrainingError
from videoreasoner.training.recipe import Recipe


def hub_name(recipe: Recipe) -> str:
    """The repository that the model goes to; by default one of the token's owner, named like the folder."""
    return recipe.hub_model_id or Path(recipe.output_dir).resolve().name


def check_hub(recipe: Recipe) -> None:
    """Refuse what would only fail after the training. The network is not asked.

    Raises:
        SettingError: the repository's name is not valid, or there is no token.
    """
    if not recipe.push_to_hub:
        return
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_name(recipe))
    except HFValidationError as error:
        raise SettingError(f"hub_model_id: {' '.join(str(error).split())}") from error
    if get_token() is None:
        raise SettingError(
            "push_to_hub: there is no token of the Hugging Face hub here; run `hf auth login`, set HF_TOKEN, or set "
            "push_to_hub=false"
        )


def push_model(recipe: Recipe, folder: Path, files: Sequence[str]) -> str:
    """Upload a model; the repository is made if it does not exist.

    Args:
        folder: the output folder of the run.
        files: what to upload, relative to the folder. Nothing else in it is uploaded.

    Returns:
        The address of the repository.

    Raises:
        TrainingError: it cannot be uploaded; the message says how to do it later.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Its base class is that of every error of the HTTP library that this version of the hub's client uses.
    network_error: Any = HfHubHTTPError.__mro__[1]
    api, name = HfApi(), hub_name(recipe)
    try:
        repository = api.create_repo(name, private=recipe.hub_private_repo, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="The model, trained by VideoReasoner",
        )
    # A RuntimeError is how hf_xet, which sends large files, reports a failed transfer.
    except (OSError, network_error, HFValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrainingError(
            f"push_to_hub {name}: the upload failed ({reason}). The model is complete in {folder}. Start the same "
            f"command again to upload it, or: hf upload {name} {folder} . --exclude 'checkpoint-*/*' --exclude "
            "'*.jsonl' --exclude run.json --exclude .lock"
        ) from error
    return str(repository)
