"""Features whose change decides which passes are skipped, one formula per class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.api import Feature, PassInputs


@dataclass(frozen=True)
class PatchEmbedding(Feature):
    """Embedded patches of the noisy latents; FlowCache's feature on MAGI-1."""

    def __call__(self, inputs: PassInputs) -> Tensor:
        """Return the tokens before the first block [B, F * T, dim]."""
        return inputs.tokens


@dataclass(frozen=True)
class TimeModulation(Feature):
    """Modulation of the blocks by the time; FlowCache's feature on SkyReels-V2."""

    def __call__(self, inputs: PassInputs) -> Tensor:
        """Return the six-way modulation [B, F, 6, dim]."""
        # It depends on the time alone: the same steps are skipped in every chunk, branch and video.
        return inputs.time_modulation


@dataclass(frozen=True)
class TimeEmbedding(Feature):
    """Embedding of the time; TeaCache's feature on SkyReels-V2 without retention steps."""

    def __call__(self, inputs: PassInputs) -> Tensor:
        """Return the embedding [B, F, dim]."""
        return inputs.time_embedding


@dataclass(frozen=True)
class ModulatedTokens(Feature):
    """Input of the first block's attention, modulated by the time; TeaCache's own feature."""

    def __call__(self, inputs: PassInputs) -> Tensor:
        """Return the normed and modulated tokens [B, F * T, dim]."""
        return inputs.modulated_tokens
