"""The recipes and launch profiles that ship with the package, by name: `grpo/qwen2-vl-7b`, `accelerate/zero3`."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from videoreasoner.errors import SettingError

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
PROFILES = "accelerate"
"""The kind of the profiles of `accelerate launch`; every other kind is a command that trains."""


@dataclass(frozen=True)
class Shipped:
    """A file that ships.

    Attributes:
        name: kind and file name, such as `cold-start/tiny`. The kind of a recipe is its command.
        about: the first line of the file.
        hardware: what its header says about hardware; empty for a profile.
    """

    name: str
    path: Path
    about: str
    hardware: str

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    @property
    def short_name(self) -> str:
        return self.name.partition("/")[2]

    @property
    def command(self) -> str:
        """What runs the recipe."""
        return f"videoreasoner train {self.kind} {self.short_name}"

    def value(self, key: str) -> Any:
        """What the recipe says about a key, itself or in its base; None where neither does."""
        content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        return content.get(key) if key in content or "base" not in content else find(content["base"]).value(key)


def shipped() -> list[Shipped]:
    """All files that ship, sorted by name."""
    return sorted((_read(path) for path in FOLDER.glob("*/*.yaml")), key=lambda item: item.name)


def find(name: str, kind: str | None = None) -> Shipped:
    """The shipped file of a name. `recipes/grpo/tiny.yaml` and `grpo/tiny` are the same.

    Args:
        kind: what `tiny` alone belongs to.

    Raises:
        SettingError: there is none; the message names those that are similar.
    """
    files = {item.name: item for item in shipped()}
    full = _full_name(name, kind)
    if full in files:
        return files[full]
    alone = full.rpartition("/")[2]
    near = difflib.get_close_matches(full, files, n=1, cutoff=0.7)
    near += [item for item in files if item.rpartition("/")[2] == alone and item not in near]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SettingError(
        f"{name}: there is no such file and no shipped recipe of this name; {hint}"
        "`videoreasoner train --list` shows the shipped ones"
    )


def recipe_file(name: str, kind: str) -> Path:
    """The recipe that a user names: a file of theirs, or else the shipped one.

    Args:
        kind: the command that trains.

    Raises:
        SettingError: there is neither, or the name is that of another kind.
    """
    path = Path(name)
    # Unlike `Path.is_file`, this is False for a name that is too long.
    is_file = os.path.isfile(path)
    if is_file and FOLDER not in path.resolve().parents:
        return path
    found = find(f"{path.resolve().parent.name}/{path.name}" if is_file else name, kind)
    if found.kind != kind:
        use = "a profile for `accelerate launch`" if found.kind == PROFILES else f"run it with `{found.command}`"
        raise SettingError(f"{name}: is no recipe of `videoreasoner train {kind}`; {use}")
    return found.path


def writers(folder: str) -> list[Shipped]:
    """The shipped recipes whose output_dir is this folder."""
    wanted = PurePath(folder)
    return [item for item in shipped() if item.kind != PROFILES and PurePath(item.value("output_dir")) == wanted]


def _full_name(name: str, kind: str | None) -> str:
    parts = PurePath(name.removesuffix(".yaml")).parts
    if parts[:1] == ("recipes",):
        parts = parts[1:]
    if len(parts) == 1 and kind is not None:
        parts = (kind, *parts)
    return "/".join(parts).replace("cold_start/", "cold-start/")


def _read(path: Path) -> Shipped:
    head = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    lines = [line.lstrip("# ") for line in head[0].splitlines()] if head else [""]
    hardware = next((line.removeprefix("hardware").strip() for line in lines if line.startswith("hardware")), "")
    name = f"{path.parent.name.replace('_', '-')}/{path.stem}"
    return Shipped(name, path, lines[0].removesuffix("."), hardware)
