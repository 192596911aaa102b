from __future__ import annotations

import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.paths import ROOT
from videoreasoner.errors import CheckpointError
from videoreasoner.inference import doctor
from videoreasoner.inference.doctor import EXTRAS
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.version import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _tiny() -> Reasoner:
    return Reasoner.from_pretrained("tiny", device="cpu")


def test_the_extras_are_those_of_the_project() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}


def test_versions_are_those_that_run() -> None:
    import torch

    found = {finding.name: finding for finding in doctor.versions()}
    assert all(finding.ok for finding in found.values())
    assert found["videoreasoner"].text == __version__
    assert found["torch"].text == torch.__version__
    assert found["Python"].text.startswith(".".join(map(str, sys.version_info[:3])))


def test_the_processor_is_described() -> None:
    [processor, *_] = doctor.devices()
    assert (processor.name, processor.ok) == ("CPU", True)
    assert "GiB" in processor.text


def _breaking(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, content: str) -> None:
    (folder / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    "content",
    [
        "raise ImportError('libfoo.so.1: cannot open shared object file\\nand more')",
        "raise OSError('no such file')",
        "raise RuntimeError('operator does not exist')",
        "def (",
        "x = None.y",
        "",
    ],
)
def test_a_broken_part_is_one_line_and_the_others_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    _breaking(monkeypatch, tmp_path, "broken_part", content)
    monkeypatch.setitem(doctor._PARTS, "PyAV", "broken_part")
    monkeypatch.setattr(doctor, "EXTRAS", {"retrieval": ("broken_part", "nothing")})
    found = {finding.name: finding for finding in doctor.versions()}
    assert {name for name, finding in found.items() if not finding.ok} == {"PyAV"}
    assert found["PyAV"].text.startswith("broken: ")
    assert "\n" not in found["PyAV"].text
    [extra] = doctor.extras()
    assert not extra.ok
    assert extra.install is not None


def test_a_missing_extra_comes_with_the_command_for_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"retrieval": ("no_such_module", "finding things")})
    [finding] = doctor.extras()
    assert finding.ok
    assert "finding things" in finding.text
    assert finding.install is not None
    python, *rest = shlex.split(finding.install)
    assert python == sys.executable
    assert rest[:4] == ["-m", "pip", "install", "videoreasoner[retrieval]"]
    assert rest[4].startswith("torch==")


def test_an_extra_that_is_there_needs_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"retrieval": ("numpy", "numbers")})
    [finding] = doctor.extras()
    assert (finding.ok, finding.install) == (True, None)
    assert finding.text.startswith("numpy ")


def test_the_self_check_goes_through_the_real_path() -> None:
    finding = doctor.self_check(_tiny)
    assert finding.ok, finding.text
    assert finding.text.endswith(" s)")


def test_the_self_check_fails_where_loading_does() -> None:
    def refuse() -> NoReturn:
        raise CheckpointError("weights are missing")

    finding = doctor.self_check(refuse)
    assert not finding.ok
    assert "weights are missing" in finding.text


def test_the_self_check_fails_where_numbers_are_wrong() -> None:
    import torch

    def numb() -> Reasoner:
        reasoner = _tiny()
        model: Any = reasoner.engine.checkpoint.model  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter in model.model.language_model.layers.parameters():
                parameter.fill_(torch.nan)
        return reasoner

    assert not doctor.self_check(numb).ok


def test_a_torch_that_cannot_be_imported_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    [processor] = doctor.devices()
    assert not processor.ok
    assert "broken: ModuleNotFoundError" in processor.text
