"""`videoreasoner doctor`: what is installed, and whether it works."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from videoreasoner.cli.options import load_reasoner
from videoreasoner.inference.doctor import Diagnosis, Finding, diagnose
from videoreasoner.utils.terminal import say


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, devices and optional parts, and ask the shipped model a question. Takes about ten seconds.

    Exit code 1 when the self-check fails.
    """
    found = diagnose(lambda: load_reasoner("tiny"))
    say(json.dumps(found.to_dict(), indent=2) if as_json else describe(found))
    if not found.ok:
        raise typer.Exit(1)


def describe(found: Diagnosis) -> str:
    """A diagnosis as text for a terminal."""
    sections = {"Versions": found.versions, "Devices": found.devices, "Optional parts": found.extras}
    lines = []
    for title, findings in sections.items():
        lines += [title, *(line for finding in findings for line in _lines(finding)), ""]
    verdict = "ok" if found.ok else "FAILED"
    return "\n".join([*lines, f"Self-check {verdict}: {found.self_check.text}"])


def _lines(finding: Finding) -> list[str]:
    lines = [f"  {finding.name:<14} {finding.text}"]
    if finding.install is not None:
        lines.append(f"  {'':<14} install: {finding.install}")
    return lines
