import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.prompts import Prompts
from videoreasoner.settings import SETTINGS_FILE, Settings
from videoreasoner.tasks import Task
from videoreasoner.video.sampling import SamplingSettings

UNUSUAL = Settings(
    frame_budget=32,
    sparse_rate_fps=1.5,
    dense_share=0.25,
    encoder="siglip",
    min_pixels=784,
    max_pixels=784,
    prompts=Prompts(system="Sieh hin: “Größe”", answer_style="words"),
    training={"rows": 3000, "recipe": {"lr": 2e-6}},
)


@given(
    st.builds(
        Settings,
        frame_budget=st.integers(2, 10_000),
        sparse_rate_fps=st.floats(1e-3, 1e3),
        dense_share=st.floats(0, 1),
        encoder=st.none() | st.text(max_size=10),
        training=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)),
    )
)
def test_settings_survive_saving(tmp_path_factory, settings):
    folder = tmp_path_factory.mktemp("checkpoint")
    settings.save(folder)
    assert Settings.load(folder) == settings


def test_unusual_settings_survive_saving(tmp_path):
    UNUSUAL.save(tmp_path)
    assert Settings.load(tmp_path) == UNUSUAL


def test_the_file_does_not_depend_on_the_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; from videoreasoner.settings import Settings; "
        "s = Settings.load(Path(sys.argv[1])); s.save(Path(sys.argv[1])); "
        "sys.exit(s.prompts.system != sys.argv[2])"
    )
    UNUSUAL.save(tmp_path)
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    # An ASCII escape on the command line: the argument itself must not depend on the locale.
    code = code.replace("sys.argv[2]", ascii(UNUSUAL.prompts.system))
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    assert Settings.load(tmp_path) == UNUSUAL


def test_a_folder_without_the_file_has_the_defaults(tmp_path):
    assert Settings.load(tmp_path) == Settings()


def test_an_unknown_field_is_refused_with_the_file_named(tmp_path):
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"frame_bugdet": 64}))
    with pytest.raises(CheckpointError) as refused:
        Settings.load(tmp_path)
    assert str(tmp_path / SETTINGS_FILE) in str(refused.value)
    assert "frame_bugdet" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[]", b"null", b'{"prompts": 3}'])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=SETTINGS_FILE):
        Settings.load(tmp_path)


def test_changed_replaces_what_is_given_and_keeps_the_rest():
    changed = UNUSUAL.changed(frame_budget=8, sparse_rate_fps=None)
    assert changed == Settings.model_validate({**UNUSUAL.model_dump(), "frame_budget": 8})
    assert UNUSUAL.frame_budget == 32
    assert UNUSUAL.changed() == UNUSUAL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_budget": 1}, "frame_budget"),
        ({"sparse_rate_fps": 0}, "sparse_rate_fps"),
        ({"sparse_rate_fps": math.nan}, "sparse_rate_fps"),
        ({"dense_rate_fps": math.inf}, "dense_rate_fps"),
        ({"dense_share": 1.1}, "dense_share"),
        ({"min_pixels": 1000, "max_pixels": 999}, "min_pixels"),
        ({"frame_bugdet": 2}, "frame_bugdet"),
    ],
)
def test_values_that_make_no_sense_are_named(values, message):
    with pytest.raises(SettingError, match=message):
        Settings().changed(**values)


def test_sampling_takes_its_part():
    assert UNUSUAL.sampling == SamplingSettings(32, 1.5, 0.25, 6.0)
    assert Settings().sampling == SamplingSettings()


def test_a_file_from_before_spaces_were_moved_keeps_them(tmp_path):
    Settings(prompts=Prompts.preset("published")).save(tmp_path)
    content = json.loads((tmp_path / SETTINGS_FILE).read_text())
    assert content["prompts"].pop("prefix_keeps_space") is False
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(content))
    old = Settings.load(tmp_path)
    assert old.prompts.prefix(Task.ANSWER) == "The answer is: "
    assert old.prompts.completion(Task.ANSWER, "red") == "red"
    old.save(tmp_path)
    assert Settings.load(tmp_path) == old


def test_prompts_may_be_named():
    assert Settings().changed(prompts="published").prompts == Prompts.preset("published")
    with pytest.raises(SettingError, match="prompts: there is no preset 'publised'; give one of default, published"):
        Settings().changed(prompts="publised")


def test_a_minimum_above_the_maximum_has_to_be_meant():
    limits = {"min_pixels": 128 * 28 * 28, "max_pixels": 80 * 28 * 28}
    with pytest.raises(SettingError, match=r"larger than max_pixels .* see pixel_limits"):
        Settings().changed(**limits)
    assert Settings().changed(**limits, pixel_limits="published").min_pixels == 100352
