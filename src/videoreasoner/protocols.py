"""Evaluation protocols: settings by name, so that a number can be compared with one that was published.

A protocol replaces the settings of a checkpoint that it names, and leaves the others as they are. What was given beside
it wins, and results say so: see `Settings.protocol_changes`. To add one, add its settings here.
"""

from __future__ import annotations

from typing import Any

from videoreasoner.errors import SettingError

NATIVE = "native"

PROTOCOLS: dict[str, dict[str, Any]] = {
    # The checkpoint's own settings.
    NATIVE: {},
    # The evaluation scripts of the paper: 64 frames at 2 a second; the limits of qwen-vl-utils for a frame; key
    # elements searched at 1 frame a second in segments of 32, at most 8 of them; replies of up to 512 tokens. Decoding
    # is greedy, here as there. docs/deviations.md lists what these settings cannot reproduce.
    "paper": {
        "frame_budget": 64,
        "sparse_rate_fps": 2.0,
        "dense_share": 0.5,
        "dense_rate_fps": 6.0,
        "sparse_seek": "exact",
        "min_pixels": 128 * 28 * 28,
        "max_pixels": 256 * 28 * 28,
        "pixel_limits": "published",
        "retrieval_rate_fps": 1.0,
        "retrieval_max_frames": 768,
        "retrieval_segment_frames": 32,
        "retrieval_seek": "exact",
        "max_key_elements": 8,
        "max_new_tokens": 512,
    },
}


def protocol_settings(name: str) -> dict[str, Any]:
    """The settings that a protocol names, as fields of `Settings`.

    Raises:
        SettingError: there is no protocol of that name.
    """
    if name not in PROTOCOLS:
        raise SettingError(f"there is no protocol {name!r}; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
