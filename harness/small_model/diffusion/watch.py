"""Measures the keys that a network passes to its cache, per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.layer import Plan
from harness.models.wan import Wan
from harness.small_model.diffusion.keys import KeyStatistics, key_statistics
from harness.small_model.training.objective import Batch, commit
from harness.small_model.training.teacher import TeacherForcing


class Watched(TeacherForcing):
    """Teacher forcing that records the first video's rotated keys of every layer [H, T, D]."""

    def __init__(self, spec: CacheSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self.keys: list[Tensor] = []

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Record the keys, then attend like `TeacherForcing`."""
        # After rotation, as most methods store them.
        self.keys.append(plan.rotate(k_BHTD)[0].float())
        return super().attend(layer, q_BHTD, k_BHTD, v_BHTD, plan)


@torch.no_grad()
def keys_of(network: Wan, spec: CacheSpec, batch: Batch) -> list[KeyStatistics]:
    """Return the key statistics of every layer for the clean first video of a batch."""
    # A session that watches: the network is measured as it is used, without hooks in it.
    watched = Watched(spec, batch.x_BFChw.device)
    # Clean history is stored by a commit pass; its keys are the ones that a method quantizes.
    commit(network, batch.x_BFChw[:1], network.text_kv(batch.text_BTE[:1]), watched, 0)
    return [key_statistics(keys) for keys in watched.keys]


def table(layers: Sequence[KeyStatistics]) -> str:
    """Format the statistics as a table with one line per layer."""
    lines = ["layer  |mean|/dev 25 50 75 95 %      kurtosis  largest  zero-free  energy 1 4 16"]
    for i, layer in enumerate(layers):
        offset = " ".join(f"{value:6.2f}" for value in layer.offset)
        energy = " ".join(f"{value:.2f}" for value in layer.energy)
        lines.append(
            f"{i:5d}  {offset}  {layer.kurtosis:8.1f}  {layer.largest:7.1f}  "
            f"{layer.zero_free:9.2f}  {energy}"
        )
    return "\n".join(lines)
