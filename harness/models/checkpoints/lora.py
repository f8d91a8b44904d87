"""Low-rank adapters: adds the factors of a second file to the weights while they load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.models.checkpoints.files import Stored, contents, files_of, take
from harness.models.checkpoints.names import diffusers_name, lora_part, some
from harness.system.errors import UserError

_SET = "generator_lora"  # key of a training dump; other files have the factors at the top level


@dataclass(frozen=True)
class Lora:
    """An adapter file and its scale.

    A weight becomes W + scale * B A, computed in fp32 before the cast.

    path: the file.
    scale: alpha / rank of the adapter's training; the file does not contain it.
    source: "owner/name path/in/repo" on the hub.
    Source  LoRA (arXiv 2106.09685), with the names of peft.
    """

    path: Path
    scale: float = 1.0
    source: str | None = None

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> Pairs:
        """Find both factors of every changed weight, without reading their values.

        shapes: shapes of the network's tensors, by native name.
        Raises  UserError: the file is missing, unreadable, or not an adapter of this network.
        """
        # The adapter is added to the weights once. A network that adds it in every call has more
        # tensors and rounds differently.
        inside = contents(files_of(self.path, self.source))
        chosen = inside.get(_SET)
        factors = chosen if isinstance(chosen, Mapping) else inside
        # Adapters use native names or those of diffusers.
        known = {name: name for name in shapes} | {diffusers_name(name): name for name in shapes}
        found: dict[str, dict[str, Stored]] = {}
        for key, value in factors.items():
            part = lora_part(str(key))
            # Nothing is left out: an adapter of another network would else change a part of this.
            if part is None or part[0] not in known or not isinstance(value, Stored):
                raise UserError(
                    f"{self.path} holds {key}, which is no LoRA factor of a tensor of this model: "
                    "choose the LoRA of this model"
                )
            found.setdefault(known[part[0]], {})[part[1]] = value
        if not found:
            raise UserError(f"{self.path} holds no LoRA factors: choose the LoRA of this model")
        # Every changed weight has both factors, A [rank, inputs] and B [outputs, rank].
        for name, pair in sorted(found.items()):
            if len(pair) < 2:
                raise UserError(
                    f"{self.path} lacks a factor of {name}, only {' '.join(pair)} is there: "
                    "download it again"
                )
            a, b = pair["A"].shape, pair["B"].shape
            if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != tuple(shapes[name]):
                raise UserError(
                    f"{self.path} holds factors of {name} of shapes {[*b]} and {[*a]} for "
                    f"{[*shapes[name]]}: choose the LoRA of this model"
                )
        self._demand_every_block(found, shapes)
        pairs = {name: (pair["A"], pair["B"]) for name, pair in found.items()}
        # One buffer serves all weights, see `Pairs.added`.
        largest = max(math.prod(shapes[name]) for name in pairs)
        return Pairs(pairs, self.scale, torch.empty(largest))

    def _demand_every_block(
        self, found: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Check that all blocks change the same weights; a truncated file has gaps."""
        blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
        kinds = {name.split(".", 2)[2] for name in found if name.startswith("blocks.")}
        wanted = {f"blocks.{block}.{kind}" for block in blocks for kind in kinds}
        missing = sorted(wanted - found.keys())
        if missing:
            raise UserError(
                f"{self.path} changes some blocks only, without {len(missing)} tensors "
                f"({some(missing)}): download it again, or choose the LoRA of this model"
            )


@dataclass(frozen=True)
class Pairs:
    """The factors A and B of every changed weight, by native name, without their values.

    scratch: fp32 buffer for the largest weight.
    """

    factors: Mapping[str, tuple[Stored, Stored]]
    scale: float
    scratch: Tensor

    def take(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors of the changed weights among `names`, memory-mapped."""
        changed = [name for name in names if name in self.factors]
        taken = take([part for name in changed for part in self.factors[name]])
        return dict(zip(changed, zip(taken[::2], taken[1::2], strict=True), strict=True))

    def added(self, weight: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        """Return the weight plus its adapter, fp32, in a buffer that the next call overwrites."""
        # Reuse one buffer: large temporary tensors between permanent ones would fragment the heap.
        a, b = factors
        out = self.scratch[: weight.numel()].view(weight.shape)
        return out.copy_(weight).addmm_(b.float(), a.float(), alpha=self.scale)
