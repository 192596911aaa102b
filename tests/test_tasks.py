import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from videoreasoner.spans import Span
from videoreasoner.tasks import (
    EVENT_END,
    EVENT_START,
    LETTERS,
    THINK_END,
    Task,
    event_text,
    key_elements_text,
    parse_choice,
    parse_event,
    parse_key_elements,
    parse_thought,
    stated_answer,
    thought_text,
    without_event_tokens,
    without_own_letters,
)

DURATIONS = st.floats(1e-3, 1e5)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def event(inside: str) -> str:
    return f"{EVENT_START}{inside}{EVENT_END}"


@given(SHARES, DURATIONS)
def test_events_survive_writing_and_reading(shares, duration_s):
    span = Span.from_ratios(*shares, duration_s)
    again = parse_event(event_text(span, duration_s), duration_s)
    assert again is not None
    # Two decimals; an event shorter than that becomes one hundredth of the video.
    short = f"{shares[0]:.2f}" == f"{shares[1]:.2f}"
    tolerance = (0.01 if short else 0.005) * duration_s * (1 + 1e-9)
    assert abs(again.start_s - span.start_s) <= tolerance
    assert abs(again.end_s - span.end_s) <= tolerance
    if short:
        assert again.start_s <= (span.start_s + span.end_s) / 2 + 1e-9 * duration_s
        assert again.end_s >= (span.start_s + span.end_s) / 2 - 1e-9 * duration_s


@given(st.integers(0, 100), st.integers(0, 100))
def test_whole_hundredths_are_written_as_they_are(first, second):
    if first < second:
        text = event_text(Span(float(first), float(second)), 100.0)
        assert text == event(f"[{first / 100:.2f}, {second / 100:.2f}]")


@given(st.floats(-2, 3), st.floats(0, 3))
def test_events_outside_the_video_are_still_readable(start, length):
    assert parse_event(event_text(Span(start, start + length), 1.0), 1.0) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (event("[0.12, 0.47]"), (1.2, 4.7)),
        (event("[0,1]"), (0.0, 10.0)),
        (event(" [ .5 ,1.00 ] "), (5.0, 10.0)),
        (f"It is here: {event('[0.1, 0.2]')}.", (1.0, 2.0)),
    ],
)
def test_events_are_read_with_spaces_and_words_around(text, expected):
    span = parse_event(text, 10.0)
    assert span is not None
    assert (span.start_s, span.end_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[0.12, 0.47]",
        event(""),
        event("0.12, 0.47"),
        event("[0.12 0.47]"),
        event("[0.12]"),
        event("[0.12, 0.47, 0.50]"),
        event("[0.47, 0.12]"),
        event("[0.3, 0.3]"),
        event("[0.3, 1.01]"),
        event("[-0.1, 0.3]"),
        event("[12, 47]"),
        event("[nan, 0.3]"),
        event("[0.1, inf]"),
        event("[1e-3, 0.5]"),
        event(f"[0.1, {'9' * 400}]"),
        f"{EVENT_START}[0.12, 0.47]",
        f"[0.12, 0.47]{EVENT_END}",
        event("[0.1, 0.2]") + event("[0.3, 0.4]"),
        event("[0.1, 0.2], [0.3, 0.4]"),
    ],
)
def test_malformed_events_are_none(text):
    assert parse_event(text, 10.0) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_read_or_refused(before, inside):
    span = parse_event(before + event(inside), 7.0)
    assert span is None or 0 <= span.start_s < span.end_s <= 7.0


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(WORDS, max_size=8))
def test_key_elements_survive_without_repetitions(elements):
    again = parse_key_elements(key_elements_text(elements))
    assert [e.casefold() for e in again] == list(dict.fromkeys(e.casefold() for e in elements))
    assert all(element in elements for element in again)


@given(st.text(max_size=60))
def test_reading_key_elements_twice_changes_nothing(text):
    elements = parse_key_elements(text)
    assert all(element.strip() == element != "" for element in elements)
    assert parse_key_elements(key_elements_text(elements)) == elements


def test_key_elements_of_a_sloppy_list():
    assert parse_key_elements(" red circle, digit;Digit\n, . ,the  door.") == [
        "red circle",
        "digit",
        "the  door",
    ]
    assert parse_key_elements(" \n") == []


OPTIONS = ["dog", "cat", "a red bird", "It sleeps."]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("B.", "B"),
        ("(b)", "B"),
        ("(B) cat", "B"),
        ("B) cat", "B"),
        ("C: whatever", "C"),
        ("B cat", "B"),
        ("B, because it is", "B"),
        ("cat", "B"),
        ("Cat.", "B"),
        ("it sleeps", "D"),
        ("It sleeps.", "D"),
        ("A RED BIRD", "C"),
        ("red bird", "C"),
        ("A cat", "B"),
        ("The dog.", "A"),
        ("E", None),
        ("", None),
        (" . ", None),
        ("Bird", None),
        ("I think B", None),
        ("?", None),
        ("A", "A"),
        ("a", "A"),
        ("A.", "A"),
        ("a)", "A"),
        ("(a)", "A"),
        ("(a) dog", "A"),
        ("A: the one that runs", "A"),
        ("a, because it runs", "A"),
        ("A - it runs", "A"),
        ("A\nIt runs.", "A"),
        ("A dog", "A"),
        ("b cat", "B"),
        ("B because it meows", "B"),
        ("A dog runs", None),
        ("a red one", None),
        ("A red one", None),
        ("(a red one)", None),
        ("b because it meows", None),
        ("A-frame", None),
        ("a.m. as it seems", None),
        ("A's dog", None),
    ],
)
def test_choices_by_letter_and_by_words(text, letter):
    assert parse_choice(text, OPTIONS) == letter


def test_an_option_that_starts_with_a_letter_is_read_as_words():
    assert parse_choice("A dog", ["cat", "A dog"]) == "B"
    assert parse_choice("A dog.", ["A cat", "A dog"]) == "B"


def test_i_is_a_pronoun_as_well_as_a_letter():
    many = [f"thing {i}" for i in range(12)]
    assert parse_choice("I think it is thing 3", many) is None
    assert [parse_choice(text, many) for text in ("I", "(i)", "I: as seen", "I thing 8", "i.e. thing 3")] == [
        "I", "I", "I", "I", None,
    ]  # fmt: skip


def test_the_exact_words_win_over_the_article():
    assert parse_choice("the dog", ["a dog", "the dog"]) == "B"


@given(st.lists(WORDS.filter(lambda w: len(w) > 1), min_size=1, max_size=26), st.data())
def test_every_letter_names_its_option(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    letter = LETTERS[index]
    for text in (letter, letter.lower(), f"{letter}.", f"({letter})", f"{letter}: {options[index]}"):
        assert parse_choice(text, options) == letter
    same = [o for o in options if o.casefold() == options[index].casefold()]
    if len(same) == 1:
        assert parse_choice(options[index], options) == letter


@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=30))
def test_any_answer_is_one_of_the_letters_or_none(text, options):
    assert parse_choice(text, options) in {None, *LETTERS[: len(options)]}


def test_without_options_there_is_no_choice():
    assert parse_choice("A", []) is None


SENTENCES = st.lists(WORDS.filter(lambda w: len(w) > 1), min_size=1, max_size=5).map(" ".join)


@given(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=26, unique_by=str.casefold), st.sampled_from("aA"))
def test_an_article_is_no_letter_and_the_words_behind_it_decide(words, options, article):
    meant = parse_choice(words, options)
    assert parse_choice(f"{article} {words}", options) == meant
    # The letter's own way to say so stays open.
    assert parse_choice(f"{article}. {words}", options) == "A"


@given(SENTENCES, st.integers(0, 25))
def test_a_letter_with_words_behind_it_counts_as_a_capital_alone(words, index):
    options = [f"option number {i}" for i in range(26)]
    letter = LETTERS[index]
    assert parse_choice(f"{letter.lower()} {words}", options) is None
    assert parse_choice(f"{letter} {words}", options) == (None if letter in "AI" else letter)
    assert parse_choice(f"{letter} {options[index]}", options) == letter


@given(st.text(max_size=60), st.text(max_size=20))
def test_thoughts_are_read_as_they_were_written(reasoning, answer):
    answer = answer.replace(THINK_END, "")
    # Those of Video-R1 would be taken off.
    assume("answer>" not in answer)
    text = thought_text(reasoning, answer)
    # Blanks around are the format's. The last mark counts, so that reasoning may even hold one.
    assert parse_thought(text) == ((reasoning.strip(), answer.strip()) if answer.strip() else None)
    assert stated_answer(Task.THINK, text) == (answer.strip() or None)
    assert stated_answer(Task.ANSWER, text) == text.strip()


@given(st.text(max_size=60))
def test_without_the_mark_there_is_no_thought(text):
    if THINK_END not in text:
        assert parse_thought(text) is None
        assert parse_thought(text + THINK_END) is None


@pytest.mark.parametrize("rest", ["<answer>B</answer>", " <answer> B </answer>\n", "<answer>B", "\n\nB"])
def test_the_tags_of_video_r1_are_taken_off(rest):
    assert parse_thought(f"It meows.\n</think>{rest}") == ("It meows.", "B")
    assert parse_thought("It meows.</think><answer> </answer>") is None


@pytest.mark.parametrize("form", ["{}. ", "({}) ", "{}) ", "{}: ", " {}.  "])
def test_letters_that_options_bring_along_are_left_out(form):
    options = ["tie shoes", "a red\nball", "3"]
    lettered = [form.format(letter) + option for letter, option in zip(LETTERS, options, strict=False)]
    assert without_own_letters(lettered) == options
    assert without_own_letters(without_own_letters(lettered)) == options


@pytest.mark.parametrize(
    "options",
    [
        ["A. red", "blue"],
        ["B. red", "A. blue"],
        ["A dog", "B cat"],
        ["A. red", "B. Red"],
        ["A.", "B."],
        ["A. ", "B. "],
        ["a. red", "b. blue"],
        ["A.M.", "B.M."],
        [],
    ],
)
def test_other_options_stay_as_they_are(options):
    assert without_own_letters(options) == options


def test_event_tokens_are_no_part_of_what_people_read():
    assert without_event_tokens("<|event_end|> a red <|event_start|>hat <|event_end|>") == "a red hat"
    assert stated_answer(Task.ANSWER, "red<|event_end|>") == "red"
    assert stated_answer(Task.THINK, "so </think> red <|event_end|>") == "red"
    assert parse_key_elements("dog, <|event_end|>, <|event_start|>hat") == ["dog", "hat"]
