"""Reads encoded prompts from a user's file, as a replacement for a text encoder.

Two formats are supported. A `.pt` or `.pth` file is a dict from prompt to rows. A `.safetensors`
file names its tensors `0`, `1`, ... and lists the prompts, in that order, as JSON under `prompts`
in its metadata. Rows are [tokens, width]. A prompt with fewer rows than the model's length is
padded with zeros, like the output of an encoder that masks its padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.models.checkpoints.files import TORN
from harness.system import file_hashes
from harness.system.errors import UserError

_PROMPTS = "prompts"


class RowsFile:
    """Encoded prompts of one file. The file is read when a method needs it.

    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError, from every method: the file is missing or has an unknown format; a prompt is
            missing; rows have a different width, or there are too many.
    """

    def __init__(self, path: Path, length: int, width: int) -> None:
        """Store the path, the rows per prompt and the width of a row."""
        self.path, self.length, self.width = path, length, width

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the rows of the prompts, which must match those of the file exactly."""
        known = self._read()
        # By the exact text: nothing tells whether a similar prompt was meant.
        missing = [prompt for prompt in prompts if prompt not in known]
        if missing:
            raise UserError(
                f"{self.path} has rows of {len(known)} prompts and none of {missing[0][:60]!r}: "
                "choose a file with every prompt of the suite, or leave text.embeddings out"
            )
        rows = torch.zeros(len(prompts), self.length, self.width)
        for own, prompt in zip(rows, prompts, strict=True):
            own[: len(known[prompt])] = known[prompt]
        return rows

    def prompts(self) -> list[str]:
        """Return all prompts of the file."""
        return list(self._read())

    def digest(self) -> str:
        """Return the SHA-256 of the file, 64 hexadecimal digits."""
        try:
            return file_hashes.remembered(self.path)
        except OSError as error:
            raise self._unreadable() from error

    def _read(self) -> dict[str, Tensor]:
        if not self.path.is_file():
            raise UserError(
                f"found no embeddings at {self.path}: set text.embeddings to where they are"
            )
        known: dict[str, Tensor]
        try:
            if self.path.suffix == ".safetensors":
                with safe_open(self.path, framework="pt") as file:
                    prompts = json.loads((file.metadata() or {})[_PROMPTS])
                    # A tensor too many or too few means that prompts and rows do not belong
                    # together.
                    if sorted(file.keys()) != sorted(map(str, range(len(prompts)))):
                        raise ValueError("other tensors than prompts")
                    # Copy: the rows outlive the open file.
                    known = {x: file.get_tensor(str(i)).clone() for i, x in enumerate(prompts)}
            else:
                # weights_only: a pickle from elsewhere must not run code.
                items = torch.load(self.path, map_location="cpu", weights_only=True).items()
                if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items):
                    raise ValueError("no dict of prompts to rows")
                known = dict(items)
        except (*TORN, LookupError, AttributeError) as error:
            raise self._unreadable() from error
        # All rows are checked at once, not only those that are asked for now: a bad file is found
        # before hours of videos.
        for prompt, rows in known.items():
            if rows.dim() != 2 or rows.shape[1] != self.width or len(rows) > self.length:
                raise UserError(
                    f"{self.path} has rows of shape {[*rows.shape]} for {prompt[:60]!r}: give at "
                    f"most {self.length} rows of {self.width} a prompt"
                )
        return known

    def _unreadable(self) -> UserError:
        return UserError(
            f"cannot read {self.path} as embeddings: give a .pt with a dict of prompts to rows, or "
            "a .safetensors that lists its prompts (docs/weights.md)"
        )


def write_rows(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Write encoded prompts, [tokens, width] each, to a `.safetensors` file."""
    # Names are numbers: a prompt may be longer than a name should be. The prompts are metadata.
    named = {str(i): each.contiguous() for i, each in enumerate(rows.values())}
    save_file(named, path, metadata={_PROMPTS: json.dumps(list(rows))})
