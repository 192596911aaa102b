"""The two event tokens: where they go in a vocabulary, and what they start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from videoreasoner.tasks import EVENT_END, EVENT_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# New rows start at the mean of words that say what they mean, so that they begin inside the model's own geometry.
_DESCRIPTIONS = {EVENT_START: "start of the event from", EVENT_END: "end of the event to"}


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add the event tokens that the tokenizer does not know yet, and return them. Idempotent."""
    known = tokenizer.get_vocab()
    unknown = [token for token in _DESCRIPTIONS if token not in known]
    if unknown:
        tokenizer.add_special_tokens({"additional_special_tokens": unknown}, replace_extra_special_tokens=False)
    return unknown


def add_event_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Make sure that tokenizer and model know both event tokens. Idempotent.

    Qwen-VL embeddings are padded beyond the tokenizer, so the rows usually exist; where they do
    not, the embedding is resized. Returns the tokens that the tokenizer or the model did not know
    (none for a checkpoint trained by this package).
    """
    unknown = extend_tokenizer(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    known = tokenizer.get_vocab()
    ids = {token: known[token] for token in _DESCRIPTIONS}
    # A tokenizer that knows the tokens may come with a model that does not.
    missing = [token for token, row in ids.items() if token in unknown or row >= rows]
    if not missing:
        return []
    if max(ids.values()) >= rows:
        model.resize_token_embeddings(max(ids.values()) + 1, mean_resizing=False)
    matrices = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not matrices[0]:
        matrices.append(output.weight)
    with torch.no_grad():
        for token in missing:
            words = tokenizer(_DESCRIPTIONS[token], add_special_tokens=False)["input_ids"]
            for weight in matrices:
                weight[ids[token]] = weight[words].mean(dim=0)
    return missing
