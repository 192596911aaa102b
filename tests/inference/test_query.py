"""What can be asked, and that it is known without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from videoreasoner.errors import QuestionError, SettingError
from videoreasoner.inference.query import MAX_QUESTION_CHARACTERS, MODES, Query, check_mode
from videoreasoner.tasks import LETTERS


@pytest.mark.parametrize(
    ("question", "options", "word"),
    [
        ("", (), "empty"),
        (" \n\t", (), "empty"),
        ("x" * 100_000, (), "100,000"),
        ("x" * (MAX_QUESTION_CHARACTERS + 1), (), "characters"),
        ("What?", ("red",), "1 option"),
        ("What?", tuple(str(i) for i in range(30)), "30 option"),
        ("What?", ("red", "blue", "red"), "twice"),
        ("What?", ("red", " RED "), "twice"),
        ("What?", ("red", " "), "option is empty"),
        ("What?", ("red", "x" * 100_000), "100,000"),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused(question: str, options: tuple[str, ...], word: str) -> None:
    with pytest.raises(QuestionError, match=word) as caught:
        Query(question, options)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_the_longest_query_is_taken() -> None:
    Query("x" * MAX_QUESTION_CHARACTERS, tuple(LETTERS))


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_known_by_name(mode: str) -> None:
    assert check_mode(mode) == mode


@pytest.mark.parametrize("mode", ["slow", "", "Focus"])
def test_an_unknown_mode_is_refused_with_those_that_are_known(mode: str) -> None:
    with pytest.raises(SettingError, match=rf"{mode!r}.*focus, direct, think"):
        check_mode(mode)


def test_a_question_is_checked_without_torch() -> None:
    code = (
        "import sys, videoreasoner.inference.query; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_letters_that_options_bring_along_are_left_out_and_noted():
    query = Query("?", ("A. red", "B. blue"))
    assert query.options == ("red", "blue")
    assert query.notes == ("the letters that the options bring along were left out",)
    assert query == Query("?", ("red", "blue"))
    assert Query("?", ("A. red", "blue")).notes == ()


def test_one_text_is_no_list_of_options() -> None:
    for ask in (lambda: Query("What?", "red"), lambda: Query.of("What?", "red")):  # type: ignore[arg-type]
        with pytest.raises(QuestionError, match="the options are one text, 'red'; give a list of texts"):
            ask()
    assert Query.of("What?", ["red", "blue"]) == Query("What?", ("red", "blue"))
