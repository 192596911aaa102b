from __future__ import annotations

import pytest

from experiments.tiny.model import PROMPTS
from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder


@pytest.fixture(scope="session")
def encoder() -> PromptEncoder:
    """The prompt encoder of the model in training, with the event tokens."""
    tokenizer = learn_tokenizer(PROMPTS)
    extend_tokenizer(tokenizer)
    return PromptEncoder(tokenizer, PROMPTS)
