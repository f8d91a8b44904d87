"""Encodes words as fixed random vectors: text rows of any shape without weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.system.errors import UserError

_POSITION_SCALE = 0.1  # relative to a word's spread: order matters, but less than the words


class WithoutWeights:
    """Base of text encoders that work by rules: they have no files, and nothing to free."""

    @property
    def weight_bytes(self) -> int:
        """Return 0: there are no weights."""
        return 0

    def locate(self, root: Path) -> None:
        """Do nothing: there are no files."""

    def to(self, device: torch.device) -> None:
        """Do nothing: rows are always made on the CPU."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


@dataclass(frozen=True)
class HashText(WithoutWeights):
    """Text encoder without weights, for models that have no trained encoder.

    Each lower-cased word or punctuation mark has a fixed Gaussian vector, the same on every machine
    (up to the last rounding of the CPU). A small sinusoid of the position is added. Words past
    `length` are ignored; rows past the prompt are exactly zero.

    length: rows per prompt. width: channels of a row. seed: selects the vectors.

    Source  ours.
    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError: length or width below 1.
    """

    length: int
    width: int
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.length, self.width) < 1:
            raise UserError(f"text of {self.length} rows of {self.width}: choose both at least 1")

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return rows [num_prompts, length, width] fp32; an empty prompt is all zeros."""
        rows = torch.zeros(len(prompts), self.length, self.width)
        half = (self.width + 1) // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        for own, prompt in zip(rows, prompts, strict=True):
            words = re.findall(r"\w+|[^\w\s]", prompt.lower())[: self.length]
            for position, word in enumerate(words):
                # Python's own hash of a string differs between processes; SHA-256 does not.
                digest = hashlib.sha256(f"{self.seed} {word}".encode()).digest()
                # Seeds are signed numbers of 64 bits, so one bit of the digest goes.
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
                angles = position * frequencies
                waves = torch.cat([angles.sin(), angles.cos()])[: self.width]
                own[position] = torch.randn(self.width, generator=generator)
                own[position] += _POSITION_SCALE * waves.float()
        return rows

    def is_full(self, rows_TE: Tensor) -> bool:
        """Return whether a prompt fills all rows, so that its last words may have been ignored."""
        return bool(rows_TE[-1].any())
