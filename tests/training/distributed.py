"""One process of two: computes the gradients of one step its share at a time. Started by test_distributed.py.

torchrun --nproc-per-node 2 tests/training/distributed.py ddp|fsdp2 MODEL ROWS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.models.tiny_models import recompute_activations
from tests.training.toy import maker_for
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.rows import read_rows
from videoreasoner.training.cold_start import target_batch


def gradients(strategy: str, model_folder: str, rows_file: str, steps: int = 1) -> dict[str, torch.Tensor]:
    """Whole gradients of one step over four rows, two micro-batches of one row a process."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    checkpoint = load_checkpoint(model_folder, "cpu")
    maker = maker_for(checkpoint, list(checkpoint.settings.prompts.prefixes))
    root = Path(rows_file).parent
    rows = list(read_rows(rows_file))[:4]
    examples = [maker.example("rows", row, row.video_path(root)) for row in rows[rank::world]]
    batches = [target_batch([example], checkpoint.encoder.pad_id) for example in examples]
    total = torch.tensor(float(sum(len(batch.labels) for batch in batches)))
    distributed.all_reduce(total)
    model: Any = checkpoint.model.train()
    recompute_activations(model)
    if strategy == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            fully_shard(block)
        wrapped = fully_shard(model)
    for number, (example, batch) in enumerate(zip(examples, batches, strict=True)):
        is_last = number == len(batches) - 1
        if strategy == "ddp":
            wrapped.require_backward_grad_sync = is_last
        else:
            wrapped.set_requires_gradient_sync(is_last)
        # Both average over processes, and the step is a sum.
        log_probs = token_log_probs(wrapped, batch, batch.clip_inputs([example.patches]))
        (-log_probs.sum() / total * world).backward()
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[name] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    whole = gradients(*sys.argv[1:4])
    if distributed.get_rank() == 0:
        torch.save(whole, sys.argv[4])
    distributed.destroy_process_group()
