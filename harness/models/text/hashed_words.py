"""Words as fixed random vectors: text rows of any shape without any weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.system.errors import UserError

_POSITION_SCALE = 0.1  # of a word's own spread: order counts, words count more


@dataclass(frozen=True)
class HashText:
    """Words as fixed random vectors: an encoder without weights, for models without a trained one.

    Each lower-cased word or punctuation mark is a Gaussian vector of its own, the same in every
    process and on every machine (up to the last rounding of its CPU), plus a small sinusoid of its
    position. Words past `length` are left out; rows past the prompt are exactly zero.

    Source  ours.
    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError: length or width below 1.
    """

    length: int
    width: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty shape."""
        if min(self.length, self.width) < 1:
            raise UserError(f"text of {self.length} rows of {self.width}: choose both at least 1")

    @property
    def weight_bytes(self) -> int:
        """No weights."""
        return 0

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows of the prompts [num_prompts, length, width]; an empty prompt is all zeros."""
        rows = torch.zeros(len(prompts), self.length, self.width)
        for own, prompt in zip(rows, prompts, strict=True):
            words = re.findall(r"\w+|[^\w\s]", prompt.lower())[: self.length]
            for position, word in enumerate(words):
                own[position] = self._vector(word) + self._place(position)
        return rows

    def locate(self, root: Path) -> None:
        """No files; encoders share this call."""

    def to(self, device: torch.device) -> None:
        """Nothing to move; encoders share this call."""

    def is_full(self, rows_TE: Tensor) -> bool:
        """Whether a prompt fills all rows, so that words at its end may not have been read."""
        return bool(rows_TE[-1].any())

    def close(self) -> None:
        """Nothing is held; encoders share this call."""

    def _vector(self, word: str) -> Tensor:
        # hashlib, since Python's own hash of a string differs from process to process.
        digest = hashlib.sha256(f"{self.seed} {word}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(self.width, generator=generator)

    def _place(self, position: int) -> Tensor:
        half = (self.width + 1) // 2
        angles = position * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        waves = torch.cat([angles.sin(), angles.cos()])[: self.width]
        return _POSITION_SCALE * waves.float()
