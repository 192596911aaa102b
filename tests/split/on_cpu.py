"""The command line on a CPU, in a process that `accelerate launch` started for GPUs.

accelerate and transformers leave DeepSpeed and FSDP out where there is no GPU. Both run on a CPU all the same: told
that the device is one of several, over gloo, they do there what they do on GPUs. Started by test_split.py.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import state
from transformers import training_args

from videoreasoner.cli.main import main


def pretend() -> None:
    is_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    kind = state.DistributedType.DEEPSPEED if is_deepspeed else state.DistributedType.MULTI_GPU

    def backend(*_: Any, **__: Any) -> tuple[str, Any]:
        return "gloo", kind

    def set_device(self: Any) -> None:
        self.device = torch.device("cpu")

    state.PartialState._prepare_backend = backend
    state.PartialState.set_device = set_device
    state.is_bf16_available = lambda *_, **__: True
    training_args.is_torch_bf16_gpu_available = lambda: True


if __name__ == "__main__":
    pretend()
    main()
