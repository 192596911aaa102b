import pytest
import torch

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, tokenizer
from videoreasoner.models.event_tokens import add_event_tokens, extend_tokenizer
from videoreasoner.tasks import EVENT_END, EVENT_START, EVENT_TOKENS

DESCRIPTIONS = {EVENT_START: "start of the event from", EVENT_END: "end of the event to"}
# The learned tokenizer has 512 tokens: none, one or both of the new ones fit.
ROOM = pytest.mark.parametrize("rows", [512, 513, 514, 576])


def matrices(model):
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


@ROOM
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("make", [random_qwen2_vl, random_qwen2_5_vl])
def test_new_rows_are_the_mean_of_words_and_the_others_stay(make, rows, tied):
    model, words = make(vocab_size=rows, tied=tied), tokenizer(event_tokens=False)
    before = [weight.detach().clone() for weight in matrices(model)]
    assert add_event_tokens(model, words) == list(EVENT_TOKENS)
    ids = words.convert_tokens_to_ids(list(EVENT_TOKENS))
    assert ids == [512, 513]
    assert words.convert_ids_to_tokens(512) in words.all_special_tokens
    assert (matrices(model)[0] is matrices(model)[1]) == tied
    for weight, old in zip(matrices(model), before, strict=True):
        assert len(weight) == max(rows, 514)
        assert torch.equal(weight[:512], old[:512])
        assert torch.equal(weight[514:], old[514:])
        for token, row in zip(EVENT_TOKENS, ids, strict=True):
            spelled = words(DESCRIPTIONS[token])["input_ids"]
            assert torch.equal(weight[row], old[spelled].mean(dim=0))
    logits = model(input_ids=torch.tensor([ids])).logits
    assert logits.shape[-1] == max(rows, 514)


@ROOM
def test_a_second_time_changes_nothing(rows):
    model, words = random_qwen2_vl(vocab_size=rows, tied=False), tokenizer(event_tokens=False)
    add_event_tokens(model, words)
    with torch.no_grad():
        for weight in matrices(model):
            weight[512:] += 1.0
    before = [weight.detach().clone() for weight in matrices(model)]
    assert add_event_tokens(model, words) == []
    assert len(words) == 514
    for weight, old in zip(matrices(model), before, strict=True):
        assert torch.equal(weight, old)


def test_other_special_tokens_stay_special():
    words = tokenizer(event_tokens=False)
    before = set(words.all_special_tokens)
    add_event_tokens(random_qwen2_vl(), words)
    assert set(words.all_special_tokens) == before | set(EVENT_TOKENS)


def test_a_tokenizer_is_extended_once():
    words = tokenizer(event_tokens=False)
    assert extend_tokenizer(words) == list(EVENT_TOKENS)
    assert extend_tokenizer(words) == []
    assert len(words) == 514


def test_one_token_alone_is_completed():
    model, words = random_qwen2_vl(), tokenizer(event_tokens=False)
    words.add_special_tokens({"additional_special_tokens": [EVENT_START]}, replace_extra_special_tokens=False)
    trained = model.get_input_embeddings().weight[512].detach().clone()
    assert add_event_tokens(model, words) == [EVENT_END]
    assert torch.equal(model.get_input_embeddings().weight[512], trained)


def test_a_model_without_rows_for_a_tokenizer_that_knows_the_tokens():
    model, words = random_qwen2_vl(vocab_size=513), tokenizer()
    trained = model.get_input_embeddings().weight[512].detach().clone()
    assert add_event_tokens(model, words) == [EVENT_END]
    weight = model.get_input_embeddings().weight
    assert len(weight) == 514
    assert torch.equal(weight[512], trained)
    spelled = words(DESCRIPTIONS[EVENT_END])["input_ids"]
    assert torch.equal(weight[513], weight[spelled].mean(dim=0))
