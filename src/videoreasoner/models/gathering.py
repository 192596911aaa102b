"""Whole weights of a model that is split over processes, for as long as they are needed.

Under ZeRO-3 and FSDP2 each process holds a share of every weight, and the wrapped model gathers those of a layer when
it runs. Decoding runs the model once a token, and each process decodes another number of tokens. With split weights it
would gather all of them for every token, and processes that have finished would leave the others waiting. So each
process gathers all weights once, decodes alone, and gives the memory back.

The weights go into a copy of the model that was made before the model was wrapped, and not into the wrapped model,
whose hooks would split them again. TRL does the latter with the hooks taken off (`unwrap_model_for_generation`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor


class HollowModel:
    """A copy of a model's modules without their weights, in evaluation mode.

    Args:
        model: it has whole weights and is not wrapped yet. It stays as it is.
        device: where the copy runs.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._empty = {
            name: nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            for name, parameter in model.named_parameters()
        }
        # A module that shares a weight with another one, such as a tied output layer, shares it in the copy, too.
        self._model = copy.deepcopy(model, {key: self._empty[name] for key, name in names.items()}).eval()
        copied = {id(parameter): name for name, parameter in self._empty.items()}
        self._places: list[tuple[nn.Module, str, str]] = []
        for module in self._model.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    self._places.append((module, key, copied[id(parameter)]))
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else buffer.to(device)

    @contextmanager
    def filled(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[Any]:
        """The copy with weights, which it holds only inside of the context.

        Args:
            weights: name, as in `named_parameters()` of the original, and whole weight.
        """
        held = {name: nn.Parameter(weight, requires_grad=False) for name, weight in weights}
        self._put(held)
        try:
            yield self._model
        finally:
            self._put(self._empty)
            held.clear()

    def _put(self, weights: dict[str, nn.Parameter]) -> None:
        for module, key, name in self._places:
            module._parameters[key] = weights[name]


def gathered_weights(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name and whole weight, one after another. Every process must go through all of them together.

    Args:
        model: as ZeRO-3 or FSDP2 left it.
        dtype: of the weights; by default they stay as they are.
    """
    for name, parameter in model.named_parameters():
        yield name, _whole(parameter, device, dtype)


def _whole(parameter: nn.Parameter, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    if isinstance(parameter, DTensor):
        # Converted before it is sent: that is less to send. FSDP may keep its share on the CPU.
        own = parameter.to_local().detach().to(device, dtype)
        mesh, places = parameter.device_mesh, parameter.placements
        split = DTensor.from_local(own, mesh, places, shape=parameter.shape, stride=parameter.stride())
        return split.full_tensor()
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().to(device, dtype, copy=True)
    return parameter.detach().to(device, dtype)


class SplitCopy:
    """A frozen model of which each process holds an equal share; `whole` gathers it.

    Args:
        model: with whole weights, in evaluation mode. It can be dropped afterwards.
        device: where the shares are, and where the model runs.
        dtype: of the weights; by default they stay as they are.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self._hollow = HollowModel(model, device)
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._shares = {
            name: _share(parameter).to(device, dtype, copy=True) for name, parameter in model.named_parameters()
        }

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The model with whole weights inside of the context. Every process must enter it together."""
        with self._hollow.filled(self._gathered()) as model:
            yield model

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        for name, share in self._shares.items():
            flat = share.new_empty(len(share) * distributed.get_world_size())
            distributed.all_gather(list(flat.split(len(share))), share)
            yield name, flat[: prod(self._shapes[name])].view(self._shapes[name])


def _share(weight: Tensor) -> Tensor:
    """This process's share of the numbers of a weight. Zeros fill up the last one, since all are equally long."""
    size = -(-weight.numel() // distributed.get_world_size())
    own = weight.detach().flatten()[size * distributed.get_rank() :][:size]
    return nn.functional.pad(own, (0, size - len(own)))
