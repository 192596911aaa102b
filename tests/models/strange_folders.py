"""Load spoiled copies of the shipped checkpoints, in a process with a limit on its memory: for test_strange_folders.py.

python -m tests.models.strange_folders KIND SEED COUNT FOLDER
"""

from __future__ import annotations

import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.mutation import copy_of, spoil_folder
from videoreasoner.errors import VideoReasonerError
from videoreasoner.models.checkpoint import SHIPPED, load_checkpoint
from videoreasoner.retrieval.encoder import load_encoder

MORE_KEYS = (
    "auto_map", "_attn_implementation", "attn_implementation", "num_labels", "id2label", "return_dict", "dtype",
    "output_attentions", "is_encoder_decoder", "quantization_config", "torch_dtype", "pruned_heads", "architectures",
    "chunk_size_feed_forward", "_name_or_path", "rope_scaling", "rope_theta", "text_config", "vision_config",
    "head_dim", "layer_types", "sliding_window", "init_inputs", "chat_template", "vocab", "merges", "tokenizer_file",
    "vocab_file", "added_tokens_decoder", "backend", "fix_mistral_regex", "name_or_path", "eos_token", "from_slow",
    "additional_special_tokens", "extra_special_tokens", "image_processor_type", "processor_class", "use_fast",
    "model_input_names", "stop_strings", "cache_implementation", "watermarking_config", "assistant_model",
    "preprocess", "_preprocess", "resize",
)  # fmt: skip
MEMORY_BYTES = 6 * 2**30
SECONDS = 30.0


def try_one(kind: str, seed: int, folder: Path) -> str:
    """Spoil a copy and load it. "loaded", "refused", or what went wrong."""
    rng = random.Random(seed)
    copy_of(SHIPPED / ("tiny-encoder" if kind == "encoder" else "tiny"), folder)
    what = spoil_folder(folder, rng, MORE_KEYS)
    start = time.monotonic()
    try:
        if kind == "encoder":
            load_encoder(folder)
        else:
            _use(load_checkpoint(folder, "cpu"))
    except VideoReasonerError as error:
        message = str(error)
        if "\n" in message or len(message) > 1000:
            return f"{kind} {seed}, {what}: not one line: {message[:300]}"
        return "refused"
    # Whatever it is, it is what the campaign looks for.
    except BaseException as error:  # noqa: BLE001
        return f"{kind} {seed}, {what}: {type(error).__name__}: {str(error)[:300]}"
    if time.monotonic() - start > SECONDS:
        return f"{kind} {seed}, {what}: took {time.monotonic() - start:.0f} s"
    return "loaded"


@torch.inference_mode()
def _use(checkpoint: Any) -> None:
    """What loads can be asked."""
    ids = [*checkpoint.encoder.question("what is it?", ("a", "b")), *checkpoint.encoder.ids.values()]
    checkpoint.model(input_ids=torch.tensor([ids]))


def main(kind: str, seed: str, count: str, folder: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    results = [try_one(kind, number, Path(folder)) for number in range(int(seed), int(seed) + int(count))]
    print(f"{results.count('loaded')} loaded, {results.count('refused')} refused")
    for result in results:
        if result not in ("loaded", "refused"):
            print(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
