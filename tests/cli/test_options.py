"""Options made from the fields of `Settings`."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from videoreasoner.cli.options import COMMON_SETTINGS, read_settings, takes_settings
from videoreasoner.errors import SettingError
from videoreasoner.settings import Settings


def call(*arguments: str, names: tuple[str, ...] = COMMON_SETTINGS) -> tuple[str, dict[str, Any]]:
    """The output of a small command, and the settings that it gets."""
    app = typer.Typer(rich_markup_mode=None)
    got: dict[str, Any] = {}

    @app.command()
    @takes_settings(*names)
    def command(word: str = "x", *, settings: dict[str, Any]) -> None:
        """What it does."""
        got.update(settings, word=word)

    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    return result.output, got


def test_every_flag_has_the_type_and_the_text_of_its_field() -> None:
    out, _ = call("--help")
    assert "What it does." in out
    words = " ".join(out.split())
    for name in COMMON_SETTINGS:
        assert f"--{name.replace('_', '-')} <" in words
        text = Settings.model_fields[name].description
        assert text
        assert text[1:] + "." in words
    assert "--frame-budget <int>" in out
    assert "--dense-share <float>" in out
    assert "--sparse-seek <exact|keyframe>" in out


def test_only_what_was_given_is_passed_on() -> None:
    assert call()[1] == {"word": "x"}
    given = ("--frame-budget", "8", "--sparse-seek", "keyframe", "--set", "max_pixels=784", "--set", "min_pixels=1")
    _, got = call("--word", "y", *given)
    assert got == {"frame_budget": 8, "sparse_seek": "keyframe", "max_pixels": 784, "min_pixels": 1, "word": "y"}
    assert Settings().changed(**{k: v for k, v in got.items() if k != "word"}).max_pixels == 784


def test_a_command_takes_the_flags_that_it_names_and_set_for_the_others() -> None:
    out, _ = call("--help", names=("encoder",))
    assert "--encoder" in out
    assert "--frame-budget" not in out
    assert call("--set", "frame_budget=8", names=("encoder",))[1]["frame_budget"] == 8


@pytest.mark.parametrize(("flag", "value"), [("--frame-budget", "many"), ("--sparse-seek", "nearest")])
def test_a_value_of_another_type_is_refused(flag: str, value: str) -> None:
    out, got = call(flag, value)
    assert flag in out
    assert got == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frame_bugdet=8", "did you mean frame_budget"),
        ("prompts=x", "no setting 'prompts'"),
        ("training={}", "no setting 'training'"),
        ("encoder=tiny", "encoder is given twice"),
        ("max_pixels", "give a value"),
        ("max_pixels=", "give a value"),
        ("max_pixels=null", "give a value"),
        ("max_pixels=[", "cannot be read"),
    ],
)
def test_mistakes_of_set_are_named(change: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_settings([change], {"encoder": "none"})


def test_values_are_read_as_yaml() -> None:
    changes = ["retrieval_rate_fps = 0.5", "max_new_tokens=1_000", "sparse_seek=exact"]
    assert read_settings(changes, {}) == {
        "retrieval_rate_fps": 0.5,
        "max_new_tokens": 1000,
        "sparse_seek": "exact",
    }
