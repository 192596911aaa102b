"""The vocabulary of Qwen2-VL, for tests whose point is how real text is split into tokens.

Its 151,643 tokens lie in the wheel of `dashscope` on PyPI. The wheel is only unpacked, because the package itself needs
much that nothing here uses. `make test` downloads it at setup, by `python -m tests.models.qwen_vocabulary`; a test that
finds no wheel downloads it, and is skipped where that fails.
"""

from __future__ import annotations

import base64
import functools
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from tests.paths import ROOT
from videoreasoner.models.event_tokens import extend_tokenizer

WHEEL = "dashscope==2.0.2"
FOLDER = ROOT / ".qwen-vocabulary"
SIZE = 151_643
# In the order of the published tokenizer, from id 151643 on.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def download() -> Path:
    """The wheel, which is downloaded unless it is here.

    Raises:
        CalledProcessError: it cannot be downloaded; `stderr` says why.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", "--timeout", "10"]
    if not (found := list(FOLDER.glob("dashscope-*.whl"))):
        subprocess.run([*command, "--dest", FOLDER, WHEEL], check=True, capture_output=True, text=True, timeout=120)
        found = list(FOLDER.glob("dashscope-*.whl"))
    return found[0]


class _Converter(TikTokenConverter):
    """Reads the lines of the file, so that the package tiktoken is not needed for it."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        lines = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines())
        return {base64.b64decode(token): int(rank) for token, rank in lines}


@functools.cache
def _saved() -> Path:
    """A folder with the tokenizer as transformers saves it; made once."""
    folder = FOLDER / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file():
        try:
            wheel = download()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the vocabulary of Qwen cannot be downloaded: {error.stderr.strip().splitlines()[-1]}")
        with zipfile.ZipFile(wheel) as files:
            ranks = Path(files.extract("dashscope/resources/qwen.tiktoken", FOLDER))
        vocab, merges = _Converter().extract_vocab_merges_from_model(str(ranks))
        assert len(vocab) == SIZE
        # transformers declares the merges as lines of text, and takes pairs as well.
        pairs: Any = merges
        made = Qwen2Tokenizer(vocab=vocab, merges=pairs)
        made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
        made.eos_token = "<|im_end|>"
        assert made.convert_tokens_to_ids(SPECIAL) == list(range(SIZE, SIZE + len(SPECIAL)))
        made.save_pretrained(folder)
    return folder


def qwen_tokenizer(event_tokens: bool = True) -> Qwen2Tokenizer:
    """The tokenizer of Qwen2-VL, a new one at each call; with the event tokens, as `load_checkpoint` adds them."""
    made = Qwen2Tokenizer.from_pretrained(_saved())
    if event_tokens:
        extend_tokenizer(made)
    return made


if __name__ == "__main__":
    download()
