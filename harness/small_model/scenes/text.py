"""Text encoder of the small models: a prompt becomes a scene, and the scene rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.models.text.hashed_words import WithoutWeights
from harness.small_model.scenes.interpret import interpret
from harness.small_model.scenes.rows import LENGTH, WIDTH, rows


@dataclass(frozen=True)
class SceneText(WithoutWeights):
    """Encodes prompts as the rows of their scenes; an empty prompt is all zeros.

    It reads by rules, so it has no weights and nothing to free.

    layout: whether the rows contain positions, which `interpret` derives from a hash of the prompt.
        Without positions, noise decides them in the first chunk, and only the history keeps things
        in place.

    Source  ours; reading is `harness.small_model.scenes.interpret`.
    Shapes  num_prompts strings -> [num_prompts, 10, 320] float32 on the CPU.
    """

    layout: bool = True

    def is_full(self, rows_TE: Tensor) -> bool:
        """Return False: prompts of any length are read whole."""
        return False

    @property
    def length(self) -> int:
        """Return the number of rows of a prompt."""
        return LENGTH

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the rows of prompts [num_prompts, 10, 320]."""
        return torch.stack(
            [
                # All zeros is what training shows for a window without a prompt, so guidance uses
                # it too.
                rows(interpret(prompt), self.layout) if prompt else torch.zeros(LENGTH, WIDTH)
                for prompt in prompts
            ]
        )
