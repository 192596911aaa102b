"""A model without weights of its own borrows whole ones. tests/split does it with two processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from videoreasoner.models.gathering import HollowModel, SplitCopy, gathered_weights

CPU = torch.device("cpu")


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 7, bias=False))
    model[3].weight = model[0].weight
    return model


@pytest.mark.usefixtures("_one_process")
def test_the_copy_has_weights_only_while_they_are_lent() -> None:
    model, ids = tied().eval(), torch.arange(5)
    expected, hollow = model(ids), HollowModel(model, CPU)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fully_shard(model)
    with hollow.filled(gathered_weights(model, CPU)) as whole:
        assert torch.equal(whole(ids), expected)
        assert whole[3].weight is whole[0].weight
        assert {name: weight.dtype for name, weight in whole.named_parameters()} == dict.fromkeys(
            weights, torch.float32
        )
    assert all(parameter.is_meta for parameter in whole.parameters())
    with hollow.filled(gathered_weights(model, CPU, torch.bfloat16)) as whole:
        assert all(torch.equal(weight, weights[name].bfloat16()) for name, weight in whole.named_parameters())


@pytest.mark.usefixtures("_one_process")
def test_a_frozen_model_is_gathered_from_its_shares() -> None:
    model, ids = tied().eval(), torch.arange(5)
    split, expected = SplitCopy(model, CPU), model(ids)
    with torch.no_grad():
        model[1].weight += 1
    with split.whole() as whole:
        assert torch.equal(whole(ids), expected)
