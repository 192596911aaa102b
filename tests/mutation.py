"""Mutations of JSON-like content and of files, by a seed: strange values, missing keys, damaged bytes."""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 10**9, 10**30, -(10**12), 0.0, -0.5, 1.5, 1e308, float("inf"), float("nan"),
    "", "x", "\0", "\x1b]0;x\x07", "org/repo", "auto", "a" * 5000, "../..", [], [1], ["x"], [None], {}, {"a": 1},
    {"x": {"y": []}}, [[[]]],
)  # fmt: skip


def mutated(content: Any, rng: random.Random, more_keys: Sequence[str] = ()) -> Any:
    """A copy with one to three changes: a value replaced or removed, a number multiplied, a key added."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(content))
        holders = [place for place in places if isinstance(_at(content, place), dict)]
        if more_keys and holders and rng.random() < 0.3:
            _at(content, rng.choice(holders))[rng.choice(more_keys)] = rng.choice(STRANGE)
            continue
        inner = [place for place in places if place]
        if not inner:
            continue
        *parents, last = rng.choice(inner)
        holder, how = _at(content, parents), rng.random()
        if how < 0.15:
            del holder[last]
        elif how < 0.3 and type(holder[last]) is int:
            holder[last] = holder[last] * rng.choice((2, 3, 10, 1000)) + rng.choice((0, 1, -1))
        else:
            holder[last] = rng.choice(STRANGE)
    return content


def damage(content: bytes, rng: random.Random) -> bytes:
    """Some bytes of the first 20,000 replaced, or the end cut off."""
    damaged = bytearray(content)
    if rng.random() < 0.2:
        return bytes(damaged[: rng.randrange(len(damaged) + 1)])
    for _ in range(rng.choice((1, 4, 20)) if damaged else 0):
        damaged[rng.randrange(min(len(damaged), 20_000))] = rng.randrange(256)
    return bytes(damaged)


def spoil_folder(folder: Path, rng: random.Random, more_keys: Sequence[str] = ()) -> str:
    """Spoil one file of a model folder; says which and how."""
    name = "config.json" if rng.random() < 0.35 else rng.choice(sorted(path.name for path in folder.iterdir()))
    path, how = folder / name, rng.random()
    if how < 0.05:
        path.unlink()
        return f"{name} removed"
    if how < 0.08:
        path.write_text("[" * 100_000)
        return f"{name} nested"
    if how < 0.1:
        path.unlink()
        path.mkdir()
        return f"{name} is a folder"
    content = path.read_bytes()
    if name.endswith(".json") and how < 0.85:
        path.write_text(json.dumps(mutated(json.loads(content), rng, more_keys)))
        return f"{name} changed"
    if name.endswith(".safetensors") and how < 0.6:
        [length] = struct.unpack("<Q", content[:8])
        header = json.dumps(mutated(json.loads(content[8 : 8 + length]), rng)).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
        return f"{name} header"
    path.write_bytes(damage(content, rng))
    return f"{name} damaged"


def copy_of(source: Path, target: Path) -> Path:
    """A fresh copy of a folder."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def _places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _places(value, (*place, key))
    elif isinstance(content, list):
        for number, value in enumerate(content[:6]):
            yield from _places(value, (*place, number))


def _at(content: Any, place: Sequence[Any]) -> Any:
    for part in place:
        content = content[part]
    return content
