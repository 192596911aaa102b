import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from videoreasoner.errors import QuestionError, SettingError
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import LETTERS, Task

LINES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@given(LINES, st.lists(LINES, max_size=26), st.sampled_from(["", "Options:"]), LINES | st.just(""))
def test_the_user_turn_holds_each_part_once_and_in_order(question, options, header, instruction):
    prompts = Prompts(options_header=header, instruction=instruction)
    expected = [question]
    if options and header:
        expected.append(header)
    expected += [f"{LETTERS[i]}. {option}" for i, option in enumerate(options)]
    if instruction:
        expected.append(instruction)
    assert prompts.user_text(f" {question}\n", options).split("\n") == expected


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("prefix", ["Answer: ", "Answer:", "Answer\n", "Answer:\n ", "Answer:\t", ""])
@pytest.mark.parametrize("keeps", [False, True])
def test_prefix_and_completion_are_one_text(task, prefix, keeps):
    prompts = Prompts(prefixes=dict.fromkeys(Task, prefix), prefix_keeps_space=keeps)
    between = "" if prefix.endswith((" ", "\n")) or (not keeps and prefix in ("", "Answer:\t")) else " "
    assert prompts.prefix(task) + prompts.completion(task, "B") == f"{prefix}{between}B"
    assert prompts.prefix(task) == (prefix if keeps else prefix.rstrip(" \t"))


@pytest.mark.parametrize("prompts", [Prompts(), Prompts.preset("published")])
@pytest.mark.parametrize("task", Task)
def test_the_space_begins_the_completion(prompts, task):
    assert not prompts.prefix(task)[-1].isspace()
    for text in ("red", " red", "\nred\n"):
        assert prompts.completion(task, text) == " red"
    assert prompts.completion(task, " ") == ""


def test_an_event_follows_its_prefix_without_a_space():
    event = "<|event_start|>[0.10, 0.20]<|event_end|>"
    assert Prompts().completion(Task.EVENT, event) == event
    # Elsewhere the same characters are words.
    assert Prompts().completion(Task.ANSWER, event) == f" {event}"


def test_no_default_prefix_ends_in_a_space():
    assert [prefix for prefix in Prompts().prefixes.values() if prefix != prefix.rstrip()] == []


def test_the_published_preset_has_the_published_prefixes():
    published = Prompts.preset("published")
    assert [published.prefixes[task] for task in (Task.EVENT, Task.ANSWER, Task.KEY_ELEMENTS)] == [
        "I want to locate the key event in the video. ",
        "The answer is: ",
        "I want to output the key elements: ",
    ]
    assert Prompts.preset("default") == Prompts()
    assert {task: published.prefix(task) for task in Task} == Prompts().prefixes


def test_an_unknown_preset_is_refused():
    with pytest.raises(SettingError, match="no preset 'paper'; give one of default, published"):
        Prompts.preset("paper")


def test_options_are_written_as_letters_or_words():
    options = ["3", "5"]
    assert Prompts().option_texts(options) == ["A", "B"]
    assert Prompts(answer_style="words").option_texts(options) == options


def test_more_options_than_letters_are_refused():
    options = ["x"] * 27
    with pytest.raises(QuestionError, match="27 options"):
        Prompts().user_text("?", options)
    with pytest.raises(QuestionError, match="at most 26"):
        Prompts().option_texts(options)


def test_a_task_without_a_prefix_is_refused():
    with pytest.raises(ValidationError, match="no prefix for key_elements, answer"):
        Prompts(prefixes={Task.EVENT: "x "})


def test_a_checkpoint_from_before_there_was_thinking_gets_its_prefix():
    old = {"event": "I want to locate: ", "key_elements": "I want to name:", "answer": "The answer is:"}
    prefixes = Prompts.model_validate({"prefixes": old}).prefixes
    assert prefixes == {**old, Task.THINK: "<think>"}
    assert Prompts.model_validate({"prefixes": {**old, "think": "Let me see:"}}).prefixes[Task.THINK] == "Let me see:"


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="sistem"):
        Prompts(sistem="typo")


def test_prompts_survive_json():
    prompts = Prompts(system="Ein Gerät sieht zu.", answer_style="words")
    assert Prompts.model_validate_json(prompts.model_dump_json()) == prompts
