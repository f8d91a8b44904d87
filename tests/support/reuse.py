"""A decoder buffer for tests of reuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AsTheyAre:
    """Joins histories without decoding."""

    parts: list[Tensor]

    def rejoin(self, overlap: int) -> Tensor:
        return torch.cat(self.parts, dim=1)[:, -overlap:]
