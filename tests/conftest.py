import pytest
import torch

# Other work shares the cores, and small tensors gain nothing from threads.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
