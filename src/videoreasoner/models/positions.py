"""Multimodal rotary positions (M-RoPE) of a trunk, with true frame times.

Text advances all three axes together. A clip's tokens get a temporal, a height and a width index,
counted from the clip's start; what follows starts one past the largest index that the clip used on
any axis. That is the rule of the Qwen2-VL paper (section 2.1), of the code the published weights
were trained with, and of vLLM. transformers 5 differs where a clip's temporal range is longer than
its longer merged side: there it lets the text start inside that range. We follow the weights;
wherever no clip is that long the two rules agree (a test holds both facts).

Qwen2-VL counts temporal patches. Qwen2.5-VL counts `tokens_per_second` of *time*, so uneven
sampling needs the true time of each pair, which transformers' own helper (one interval a video)
cannot state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Pair times are differences of float64 seconds; without this, an index that should be whole could land just below.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ClipTokens:
    """The place of one clip in a trunk.

    Attributes:
        height, width: tokens down and across, after spatial merging.
        temporal: temporal index of each pair, not decreasing, starting at 0.
    """

    height: int
    width: int
    temporal: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.temporal) * self.height * self.width


def temporal_indices(pair_times_s: Sequence[float], tokens_per_second: float | None) -> tuple[int, ...]:
    """Temporal index of each pair: its number, or tokens_per_second x seconds since the first."""
    if tokens_per_second is None:
        return tuple(range(len(pair_times_s)))
    start_s = pair_times_s[0]
    return tuple(int((t - start_s) * tokens_per_second + _ROUNDING) for t in pair_times_s)


def trunk_positions(parts: Sequence[Sequence[int] | ClipTokens]) -> tuple[Tensor, int]:
    """int64[3, P] positions of a trunk of text (token ids) and clips, and the next position."""
    columns: list[Tensor] = []
    start = 0
    for part in parts:
        if isinstance(part, ClipTokens):
            grid = torch.meshgrid(
                torch.tensor(part.temporal),
                torch.arange(part.height),
                torch.arange(part.width),
                indexing="ij",
            )
            columns.append(torch.stack(grid).reshape(3, -1) + start)
            start += max(part.temporal[-1], part.height - 1, part.width - 1) + 1
        else:
            columns.append(torch.arange(start, start + len(part)).expand(3, -1))
            start += len(part)
    return torch.cat(columns, dim=1), start
