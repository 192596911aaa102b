"""Each promise of SECURITY.md names tests, and they exist."""

from __future__ import annotations

import ast
import re

from tests.paths import ROOT

PROMISE = re.compile(r"^- \*\*.+?(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[str]:
    return PROMISE.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8").split("## What is not promised")[0])


def test_every_promise_names_tests_that_exist() -> None:
    assert len(promises()) >= 4
    for promise in promises():
        named = TEST.findall(promise)
        assert named, f"SECURITY.md: this promise names no test: {promise}"
        for path, function in named:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (path, function)
