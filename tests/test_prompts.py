import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from videoreasoner.errors import QuestionError
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
@pytest.mark.parametrize("prefix", ["Answer: ", "Answer:", "Answer\n", ""])
def test_one_blank_between_prefix_and_completion(task, prefix):
    prompts = Prompts(prefixes=dict.fromkeys(Task, prefix))
    whole = prefix + prompts.completion(task, "B")
    assert whole[: -len("B")] in (prefix + " ", prefix)
    assert whole[-2].isspace()
    assert not whole[:-2].endswith((" ", "\n"))


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
