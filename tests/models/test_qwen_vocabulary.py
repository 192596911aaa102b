"""How prompts, prefixes and completions are split into tokens with the vocabulary of Qwen2-VL."""

import functools
import random
import unicodedata
from itertools import combinations

import pytest

from tests.models.qwen_vocabulary import SIZE, SPECIAL, qwen_tokenizer
from videoreasoner.models.grammar import event_grammar
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import EVENT_END, EVENT_START, EVENT_TOKENS, LETTERS, Task, parse_event

PROMPTS = {
    "default": Prompts(),
    "published": Prompts.preset("published"),
    "line breaks": Prompts(prefixes=dict.fromkeys(Task, "Answer:\n")),
    "no prefix": Prompts(prefixes=dict.fromkeys(Task, "")),
    "two spaces": Prompts(prefixes=dict.fromkeys(Task, "It is  ")),
}
WORDS = [
    "red", "Red", "A", "B.", "12", "3.5", "40 %", "1,200", "don't", "'s", "...", "(", "naïve", "é", "e\u0301", "\u0301",
    "的", "視頻", "видео", "🎬", "👩‍👩‍👧", "\u200b", "\u00a0", "\t", "\n", "\r\n", " ", "  ", "_", "<|im_end|>",
    "<|video_pad|>", "<|event_start|>", "</think>", "[0.12, 0.47]", "http://x.y/z?a=1", "ﬁ", "Ω", "\u2028", "½",
]  # fmt: skip


@functools.cache
def tokenizer():
    return qwen_tokenizer()


@functools.cache
def encoder(name="default"):
    return PromptEncoder(tokenizer(), PROMPTS[name])


def random_text(rng):
    """Words, spaces, digits and any other character, most of them apart by a space."""
    parts = []
    for _ in range(rng.randrange(8)):
        if rng.random() < 0.7:
            parts.append(rng.choice(WORDS))
        else:
            parts.append(
                "".join(chr(rng.choice([rng.randrange(1, 0xD7FF), rng.randrange(1, 0x250)])) for _ in range(3))
            )
    return rng.choice(["", " ", " "]).join(parts)


def ids(text):
    """Of the whole text at once; none is special."""
    return tokenizer()(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_ids_are_those_of_the_published_tokenizer():
    made = tokenizer()
    assert made.convert_tokens_to_ids([*SPECIAL, *EVENT_TOKENS]) == list(range(SIZE, SIZE + 16))
    # From the documentation of Qwen2-VL and the configurations of its checkpoints.
    assert made.convert_tokens_to_ids("<|im_end|>") == made.eos_token_id == 151645
    assert made.convert_tokens_to_ids("<|video_pad|>") == 151656
    assert ids("hello world 123") == [14990, 1879, 220, 16, 17, 18]


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("name", PROMPTS)
def test_prefix_and_completion_have_the_ids_of_the_joined_text(name, task):
    made, rng = encoder(name), random.Random(f"{name} {task}")
    for _ in range(300):
        text = random_text(rng)
        if task is Task.EVENT:
            text = text.replace(EVENT_START, "").replace(EVENT_END, "")
        joined = made.prompts.prefix(task) + made.prompts.completion(task, text)
        assert [*made.prefix(task), *made.completion(task, text)] == ids(joined), joined
        assert tokenizer().decode(ids(joined)) == unicodedata.normalize("NFC", joined)


@pytest.mark.parametrize("name", ["default", "published"])
def test_no_token_stands_for_a_space_alone(name):
    made, space = encoder(name), tokenizer().convert_tokens_to_ids("Ġ")
    event = f"{EVENT_START}[0.12, 0.47]{EVENT_END}"
    for task, text in [
        (Task.EVENT, event),
        (Task.KEY_ELEMENTS, "red hat, dog"),
        (Task.ANSWER, "red"),
        (Task.THINK, "a"),
    ]:
        whole = [*made.prefix(task), *made.completion(task, text)]
        # A number is written digit by digit, behind the token of a space.
        assert space not in whole[: whole.index(made.ids[EVENT_START]) + 1 if task is Task.EVENT else None], task
    assert tokenizer().convert_ids_to_tokens(made.completion(Task.ANSWER, "red")) == ["Ġred"]
    assert tokenizer().convert_ids_to_tokens(made.completion(Task.EVENT, event))[0] == EVENT_START


def test_a_letter_is_one_token():
    made = encoder()
    letters = [made.completion(Task.ANSWER, letter) for letter in made.prompts.option_texts(["x"] * 26)]
    assert [tokenizer().convert_ids_to_tokens(ids) for ids in letters] == [[f"Ġ{letter}"] for letter in LETTERS]


def test_checkpoints_that_keep_their_spaces_have_the_ids_that_they_were_trained_with():
    made = PromptEncoder(tokenizer(), Prompts.preset("published").model_copy(update={"prefix_keeps_space": True}))
    assert tokenizer().convert_ids_to_tokens([*made.prefix(Task.ANSWER), *made.completion(Task.ANSWER, "red")]) == [
        "The", "Ġanswer", "Ġis", ":", "Ġ", "red",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["default", "published"])
def test_a_chat_in_pieces_has_the_ids_of_the_whole_chat(name):
    made, rng = encoder(name), random.Random(name)
    clip = ClipTokens(1, 2, (0, 1))
    for _ in range(100):
        question, options = random_text(rng).replace("<|", "") or "?", [f"{i} x" for i in range(rng.randrange(2, 5))]
        pieces = [
            *made.trunk([clip]).input_ids.tolist(), *made.question(question, options), *made.prefix(Task.ANSWER),
            *made.completion(Task.ANSWER, "B"), made.end_id,
        ]  # fmt: skip
        whole = (
            f"<|im_start|>system\n{made.prompts.system}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            f"{'<|video_pad|>' * len(clip)}<|vision_end|>{made.prompts.user_text(question, options)}<|im_end|>\n"
            "<|im_start|>assistant\nThe answer is: B<|im_end|>"
        )
        assert pieces == tokenizer()(whole, add_special_tokens=False)["input_ids"]


def test_text_never_becomes_a_special_token():
    made, rng, special = encoder(), random.Random(0), set(tokenizer().get_added_vocab().values())
    for _ in range(1000):
        text = "".join(rng.choice([*SPECIAL, *EVENT_TOKENS, "a", " ", "\n", "|>", "<|"]) for _ in range(6))
        assert special.isdisjoint(made.text(text))
        assert special.isdisjoint(made.completion(Task.ANSWER, text))


def test_the_event_grammar_holds_every_interval_and_nothing_else():
    made = encoder()
    trie, rng = event_grammar(made), random.Random(1)
    shares = [f"{i / 100:.2f}" for i in range(101)]
    for start, end in rng.sample(list(combinations(shares, 2)), 300):
        written = [*made.prefix(Task.EVENT), *made.completion(Task.EVENT, f"{EVENT_START}[{start}, {end}]{EVENT_END}")]
        joined = f"{made.prompts.prefix(Task.EVENT)}{EVENT_START}[{start}, {end}]{EVENT_END}"
        assert written == tokenizer()(joined, add_special_tokens=False)["input_ids"]
    for _ in range(300):
        written = []
        while allowed := trie.allowed(written):
            written.append(rng.choice(allowed))
        assert written[-1] == made.end_id
        span = parse_event(made.decode(written), 100.0)
        assert span is not None
        assert 0 <= span.start_s < span.end_s <= 100


@pytest.mark.parametrize("task", Task)
def test_decoding_gives_back_what_was_encoded(task):
    made, rng = encoder(), random.Random(2)
    for _ in range(200):
        text = random_text(rng)
        assert made.decode([*made.completion(task, text), made.end_id]) == unicodedata.normalize("NFC", text).strip()
