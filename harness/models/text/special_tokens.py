"""Rows of MAGI-1's text: special tokens in front of a prompt, and the rows of an empty text.

Cross-attention has no mask, so the functions return rows without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.system.errors import UserError

SOURCE = "https://github.com/SandAI-org/MAGI-1/raw/main/example/assets/special_tokens.npz"
# Kinds of special tokens in the order in which the released code puts them in front of a prompt,
# so that the last one comes first, and their rows of `SpecialTokens.other`.
KINDS = {
    "static": 2,  # the first frames stand still
    "dynamic": 3,  # the first frames move
    "borderness": 4,
    "hq": 1,  # high quality
    "three_d_model": 15,
    "two_d_anime": 16,
    "duration": 7,  # one row for each number of later chunks, 7 to 14
}
LAST_DURATION = 7  # a larger number of later chunks counts as this one
NULL_ROWS = 50  # rows of an empty text


@dataclass(frozen=True)
class SpecialTokens:
    """Learned rows that extend those of the text encoder, fp32.

    caption, logo: [1, E].
    other: [N, E], see `KINDS`.
    """

    caption: Tensor
    logo: Tensor
    other: Tensor

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float64]]) -> SpecialTokens:
        """Round the arrays of the released file to float16, as MAGI-1 does."""
        names = ("caption_token", "logo_token", "other_tokens")
        return cls(*(torch.from_numpy(arrays[x].astype(np.float16)).float() for x in names))

    @classmethod
    def read(cls, path: Path) -> SpecialTokens:
        """Read the released .npz file.

        Raises  UserError: the file is missing, damaged, or has other arrays.
        """
        if not path.is_file():
            raise UserError(
                f"found no special tokens at {path}: type `curl -L -o {path} {SOURCE}`, or set "
                "the path to where they are"
            )
        try:
            with np.load(path) as arrays:
                return cls.of(arrays)
        except (OSError, ValueError, LookupError, EOFError, BadZipFile) as error:
            raise UserError(f"cannot read {path} as special tokens: download it again") from error


def prompt_rows(
    text_TE: Tensor,
    mask_T: Tensor,
    kinds: Sequence[str],
    special: SpecialTokens,
    chunk: int,
    num_chunks: int,
) -> Tensor:
    """Return the rows of a prompt for one chunk, special tokens first [num_rows, E].

    If there is no row, callers use `null_rows`.

    text_TE: the encoder's rows.
    mask_T: 1 for rows of the prompt, 0 for padding.
    kinds: kinds of special tokens, in any order.
    chunk, num_chunks: number of the chunk among the chunks to generate, and their number.
    """
    rows, mask = text_TE, mask_T.bool()
    for kind, row in KINDS.items():
        if kind not in kinds:
            continue
        if kind == "duration":
            row += min(num_chunks - 1 - chunk, LAST_DURATION)
        # A token moves the rows of the prompt back. The last row is cut off, as in the released
        # code: the length stays that of the encoder.
        rows = torch.cat([special.other[row, None].to(rows), rows])[: len(text_TE)]
        mask = torch.cat([mask.new_ones(1), mask])[: len(text_TE)]
    return rows[mask]


def null_rows(null_TE: Tensor) -> Tensor:
    """Return the rows of an empty text [NULL_ROWS, E] of the network's null table."""
    return null_TE[:NULL_ROWS]
