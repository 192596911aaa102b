from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.utils.terminal import one_line, printable, say

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.characters(categories=["Cc", "Zl", "Zp"])))
REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(TEXTS)
def test_nothing_printable_controls_a_terminal(text: str) -> None:
    for character in set(printable(text)) - {"\n", "\t"}:
        assert unicodedata.category(character) not in ("Cc", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in REORDERING
    assert len(one_line(text).splitlines()) <= 1


@given(TEXTS)
def test_json_keeps_its_content(text: str) -> None:
    assert json.loads(printable(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}


def test_ordinary_text_stays() -> None:
    text = "Was geschieht?\tمرحبا, 猫 👩‍🚀\n"
    assert printable(text) == text
    assert printable("\x1b]0;x\x07\r\x9b\u202e") == r"\u001b]0;x\u0007\u000d\u009b\u202e"


def test_streams(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b", end="")
    say("b\x9b", to_stderr=True)
    assert capsys.readouterr() == (r"a\u001b", "b\\u009b\n")
