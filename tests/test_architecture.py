"""The shape of the package: imports point one way, every module has its tests, modules and folders stay small.

docs/architecture.md states the order of rooms once, in the table under "The house". These tests read it there.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.paths import ROOT

SRC = ROOT / "src" / "videoreasoner"
MODULES = sorted(path for path in SRC.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
MAX_LINES = 400
MAX_MODULES = 12
# Modules without a test module of their own, and why.
UNTESTED = {
    "version": "one constant",
    "engines.engine": "a protocol",
    "benchmarks.benchmark": "a protocol",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms() -> list[str]:
    """The rooms of docs/architecture.md, in order: a room may import from itself and from those before it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## The house")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def room_of(module: str, known: list[str]) -> str | None:
    """The longest room that contains the module: "training.grpo" for "training.grpo.trainer"."""
    holding = [room for room in known if module == room or module.startswith(room + ".")]
    return max(holding, key=len, default=None)


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # `from package import module` imports package.module, `from module import name` imports module.
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                is_module = (SRC.parent / Path(*below.split("."))).with_suffix(".py").is_file()
                found.add(below if is_module else str(node.module))
    return {name.removeprefix("videoreasoner.") for name in found if name.startswith("videoreasoner.")}


def test_every_room_of_the_page_exists_and_every_module_has_a_room() -> None:
    known = rooms()
    assert len(known) == len(set(known)) > 10
    for room in known:
        place = SRC / Path(*room.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"docs/architecture.md names {room}"
    homeless = [module_name(path) for path in MODULES if room_of(module_name(path), known) is None]
    assert not homeless, f"add these to the table in docs/architecture.md: {homeless}"


def test_imports_point_one_way() -> None:
    known = rooms()
    wrong = []
    for path in MODULES:
        room = room_of(module_name(path), known)
        for target in sorted(imports(path)):
            there = room_of(target, known)
            if room is not None and there is not None and known.index(there) > known.index(room):
                wrong.append(f"{module_name(path)} ({room}) imports {target} ({there})")
    assert not wrong, "a room imports only from rooms above it in docs/architecture.md:\n" + "\n".join(wrong)


def test_every_module_has_a_test_module_at_the_mirrored_place() -> None:
    missing = {
        module_name(path): f"tests/{path.parent.relative_to(SRC)}/test_{path.name}"
        for path in MODULES
        if not (ROOT / "tests" / path.parent.relative_to(SRC) / f"test_{path.name}").is_file()
    }
    new = [path for name, path in missing.items() if name not in UNTESTED]
    assert not new, "no such test module:\n" + "\n".join(new)


def test_modules_and_folders_stay_small() -> None:
    long = {module_name(p): n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not long, f"modules of more than {MAX_LINES} lines: {long}"
    folders = {path.parent for path in MODULES}
    full = {str(f.relative_to(SRC)): n for f in folders if (n := sum(p.parent == f for p in MODULES)) > MAX_MODULES}
    assert not full, f"folders of more than {MAX_MODULES} modules: {full}"
