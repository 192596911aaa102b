from __future__ import annotations

import json

from videoreasoner.cli.doctor import describe
from videoreasoner.inference.doctor import Diagnosis, Finding


def test_what_is_printed_is_what_was_found() -> None:
    broken = Diagnosis(
        [Finding("torch", "broken: ImportError", ok=False)],
        [Finding("CPU", "2 cores")],
        [Finding("retrieval", "not installed", install="pip install it")],
        Finding("self-check", "broken: ImportError", ok=False),
    )
    text = describe(broken)
    for words in ("broken: ImportError", "2 cores", "install: pip install it", "Self-check FAILED"):
        assert words in text
    record = json.loads(json.dumps(broken.to_dict()))
    assert record["ok"] is False
    assert record["extras"][0]["install"] == "pip install it"
