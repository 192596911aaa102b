import functools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.models.tiny_models import tokenizer
from videoreasoner.errors import CheckpointError
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.spans import Span
from videoreasoner.tasks import EVENT_END, EVENT_START, EVENT_TOKENS, Task, event_text


@functools.cache
def shared_tokenizer():
    return tokenizer()


def encoder(prompts=None):
    return PromptEncoder(shared_tokenizer(), prompts or Prompts())


SPECIAL = sorted(shared_tokenizer().get_added_vocab())
SPECIAL_IDS = set(shared_tokenizer().get_added_vocab().values())
# Halves of surrogate pairs are text too: JSON can hold them.
ANY_CHARACTER = st.text(st.characters(), max_size=8) | st.text(st.characters(categories=["Cs"]), max_size=2)
HOSTILE = st.lists(ANY_CHARACTER | st.sampled_from(SPECIAL), max_size=6).map("".join)
BENIGN = st.text(st.characters(codec="latin-1", exclude_characters="<|>"), max_size=20)
CLIP = ClipTokens(1, 2, (0, 1))


def test_the_tokenizer_has_special_tokens_to_mistake_text_for():
    assert {"<|video_pad|>", "<|im_end|>", *EVENT_TOKENS} <= set(SPECIAL)
    assert all(len(shared_tokenizer()(token)["input_ids"]) == 1 for token in SPECIAL)


@settings(max_examples=300, deadline=None)
@given(HOSTILE)
def test_text_never_becomes_a_special_token(text):
    assert SPECIAL_IDS.isdisjoint(encoder().text(text))


@given(BENIGN | st.sampled_from(SPECIAL))
def test_text_survives(text):
    assert shared_tokenizer().decode(encoder().text(text)) == text


def test_half_a_surrogate_pair_becomes_a_replacement_character():
    decode = shared_tokenizer().decode
    assert decode(encoder().text("a\ud800b")) == "a\ufffdb"
    assert decode(encoder().text("\ud83d\ude00")) == "\U0001f600"


@settings(max_examples=60, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=3), st.integers(0, 3))
def test_hostile_prompts_leave_the_layout_alone(system, prefix, question, options, clips):
    prompts = Prompts(system=system, prefixes=dict.fromkeys(Task, prefix), instruction=prefix)
    made = encoder(prompts)
    ids = made.ids
    trunk = made.trunk([CLIP] * clips)
    special = [i for i in trunk.input_ids.tolist() if i in SPECIAL_IDS]
    visual = [ids["<|vision_start|>"], *[ids["<|video_pad|>"]] * len(CLIP), ids["<|vision_end|>"]]
    turns = [ids["<|im_start|>"], ids["<|im_end|>"], ids["<|im_start|>"]]
    assert special == turns + visual * clips
    assert int(trunk.visual.sum()) == clips * len(CLIP)
    special = [i for i in made.question(question, options) if i in SPECIAL_IDS]
    assert special == [ids["<|im_end|>"], ids["<|im_start|>"]]
    assert SPECIAL_IDS.isdisjoint(made.prefix(Task.ANSWER))


@settings(max_examples=60, deadline=None)
@given(BENIGN, BENIGN, st.lists(BENIGN, max_size=3), st.integers(1, 3))
def test_pieces_equal_the_whole_chat_tokenised_at_once(system, question, options, clips):
    made = encoder(Prompts(system=system))
    video = f"<|vision_start|>{'<|video_pad|>' * len(CLIP)}<|vision_end|>" * clips
    whole = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{video}"
        f"{made.prompts.user_text(question, options)}<|im_end|>\n<|im_start|>assistant\n"
    )
    pieces = [*made.trunk([CLIP] * clips).input_ids.tolist(), *made.question(question, options)]
    assert pieces == shared_tokenizer()(whole, add_special_tokens=False)["input_ids"]


@given(st.floats(0, 0.9), st.floats(0, 0.1), BENIGN, BENIGN)
def test_targets_keep_event_tokens_and_nothing_else(start, length, before, after):
    made = encoder()
    text = f"{before}{event_text(Span(start, start + length), 1.0)}{after}<|im_end|>"
    target = made.target(text)
    expected = [made.ids[EVENT_START], made.ids[EVENT_END]]
    assert [i for i in target if i in SPECIAL_IDS] == expected
    assert shared_tokenizer().decode(target) == text


@given(HOSTILE)
def test_targets_hold_as_many_event_tokens_as_their_text(text):
    made = encoder()
    target = made.target(text)
    for token in EVENT_TOKENS:
        assert target.count(made.ids[token]) == text.count(token)
    assert SPECIAL_IDS.intersection(target) <= {made.ids[token] for token in EVENT_TOKENS}


@pytest.mark.parametrize("prefix", ["The answer is: ", "The answer is:", "The answer is:\n"])
@pytest.mark.parametrize("keeps", [False, True])
def test_prefix_and_completion_have_one_space_between_them(prefix, keeps):
    made = encoder(Prompts(prefixes=dict.fromkeys(Task, prefix), prefix_keeps_space=keeps))
    for task in Task:
        whole = (*made.prefix(task), *made.completion(task, "red circle"))
        separator = "" if prefix[-1].isspace() else " "
        assert shared_tokenizer().decode(whole) == f"{prefix}{separator}red circle"


@given(HOSTILE, st.sampled_from([task for task in Task if task is not Task.EVENT]))
def test_only_an_event_holds_event_tokens(text, task):
    assert SPECIAL_IDS.isdisjoint(encoder().completion(task, text))


@given(BENIGN)
def test_decoding_a_completion_drops_the_end_and_the_spaces(text):
    made = encoder()
    assert made.decode([*made.completion(Task.ANSWER, text), made.end_id]) == text.strip()


def test_decoding_keeps_event_tokens():
    made = encoder()
    text = event_text(Span(1.0, 2.0), 10.0)
    assert made.decode(made.completion(Task.EVENT, text)) == text


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(CheckpointError) as refused:
        PromptEncoder(tokenizer(event_tokens=False), Prompts())
    assert all(token in str(refused.value) for token in EVENT_TOKENS)
    assert "<|im_start|>" not in str(refused.value)


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|image_pad|>", "<|im_end|>", EVENT_START])
def test_a_tokenizer_that_would_take_text_for_a_special_token_is_refused(token, tmp_path):
    tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    [entry] = [entry for entry in content["added_tokens"] if entry["content"] == token]
    entry["special"] = False
    path.write_text(json.dumps(content))
    named = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for kind in ("additional_special_tokens", "extra_special_tokens", "eos_token"):
        if kind in named:
            named[kind] = [t for t in named[kind] if t != token] if isinstance(named[kind], list) else "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.convert_tokens_to_ids(token) in loaded(token, split_special_tokens=True)["input_ids"]
    with pytest.raises(CheckpointError, match=f"does not mark {re.escape(token)} as special"):
        PromptEncoder(loaded, Prompts())
