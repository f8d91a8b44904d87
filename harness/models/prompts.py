"""Turns a prompt into the texts of a video's passes: one for all, or MAGI-1's texts by chunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from harness.models.checkpoints.locate import located
from harness.models.magi import Magi
from harness.models.text.special_tokens import (
    KINDS,
    LAST_DURATION,
    SpecialTokens,
    null_rows,
    prompt_rows,
)
from harness.sampling.guidance import SameText, Texts
from harness.sampling.network import Network, TextKV


class Prompts(Protocol):
    """Turns encoded prompts into the texts of a video's passes: `model.prompts` of a preset."""

    def locate(self, root: Path) -> None:
        """Look for files below `root`."""

    def texts(
        self,
        network: Network,
        names: Collection[str],
        rows: Mapping[str, Tensor],
        num_chunks: int,
        given: int = 0,
    ) -> dict[str, Texts]:
        """Return the texts that the roles of guidance read, by name.

        names: `prompt` and, if a role reads it, `negative`.
        rows: encoded texts [T, E] by name; padding rows are zero.
        num_chunks: chunks of the video, given ones included.
        given: chunks that a prefix gives.
        """

    def most_texts(self, names: Collection[str], num_chunks: int) -> int:
        """Return the most texts that a video holds at the same time.

        names: texts that the roles of guidance read.
        """


@dataclass(frozen=True)
class PlainPrompts:
    """One text for all passes."""

    def locate(self, root: Path) -> None:
        """Do nothing: there are no files."""

    def texts(
        self,
        network: Network,
        names: Collection[str],
        rows: Mapping[str, Tensor],
        num_chunks: int,
        given: int = 0,
    ) -> dict[str, Texts]:
        """Return one text for each name."""
        # Padding rows stay: Wan's cross-attention reads them too.
        with torch.inference_mode():
            return {
                name: SameText(network.text_kv(rows[name][None].to(network.device, network.dtype)))
                for name in names
            }

    def most_texts(self, names: Collection[str], num_chunks: int) -> int:
        """Return the number of different names."""
        return len(set(names))


class MagiPrompts:
    """MAGI-1's texts: special tokens before the prompt, by chunk, and the network's empty text.

    kinds: special tokens to use, e.g. `hq` (high quality) and `duration` (how many chunks follow).
    file: special_tokens.npz of the released code, below the data folder.
    weights: `checkpoint` reads the file; anything else draws random tokens, for networks without
        trained weights.

    Source  MAGI-1 (arXiv 2505.13211), its released code.
    Raises  ValueError: an unknown kind; no file. UserError, from `texts`: the file is missing or
            damaged.
    """

    def __init__(
        self, kinds: Sequence[str] = (), file: str | None = None, weights: str = "checkpoint"
    ) -> None:
        """Store the settings; the file is read when the first text is needed."""
        # A kind that is not known would silently give another text.
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ValueError(
                f"model.prompts.kinds={list(kinds)}: {unknown[0]} is unknown, choose "
                f"{', '.join(KINDS)}"
            )
        if kinds and file is None and weights == "checkpoint":
            raise ValueError(
                "model.prompts.file=null: give the path of special_tokens.npz, or set "
                "model.prompts.kinds=[]"
            )
        self.kinds = tuple(kinds)
        # Untrained networks must run without any file.
        self.file = file if weights == "checkpoint" else None
        self._root = Path()

    def locate(self, root: Path) -> None:
        """Look for the file below `root`."""
        self._root = root

    def texts(
        self,
        network: Network,
        names: Collection[str],
        rows: Mapping[str, Tensor],
        num_chunks: int,
        given: int = 0,
    ) -> dict[str, Texts]:
        """Return the prompt's texts, and the network's empty text as the negative one."""
        # The preset refuses other networks.
        assert isinstance(network, Magi), "MagiPrompts serve the network of MAGI-1"
        rows_TE = rows["prompt"].to(network.device)
        special: SpecialTokens | None = None
        if self.kinds and self.file is not None:
            special = SpecialTokens.read(located(self._root, self.file, None))
        elif self.kinds:
            # Rows of the shapes in the released file, so that memory and time are those of a real
            # run.
            draws, width = torch.Generator().manual_seed(0), rows_TE.shape[1]
            shapes = ((1, width), (1, width), (100, width))
            special = SpecialTokens(*(torch.randn(shape, generator=draws) for shape in shapes))
        # Texts of chunks are computed when they are first read; the empty one is read from the
        # first pass on.
        found: dict[str, Texts] = {
            "prompt": MagiText(network, rows_TE, self.kinds, special, num_chunks, given)
        }
        if "negative" in names:
            with torch.inference_mode():
                text_kv = network.text_kv(null_rows(network.null_text)[None], is_kept=False)
            found["negative"] = SameText(text_kv)
        return found

    def most_texts(self, names: Collection[str], num_chunks: int) -> int:
        """Return the number of different durations plus one or two empty texts."""
        # The second empty text is the one of the branch without text: it has another condition.
        durations = min(num_chunks, LAST_DURATION + 1) if "duration" in self.kinds else 1
        return durations + 1 + ("negative" in names)


@dataclass
class MagiText:
    """The texts of one video's chunks. A clean or given chunk reads the network's empty text.

    rows_TE: encoded prompt; padding rows are zero.
    num_chunks: chunks of the video, `given` ones included.
    given: chunks that a prefix gives.
    """

    network: Magi
    rows_TE: Tensor
    kinds: Sequence[str]
    special: SpecialTokens | None
    num_chunks: int
    given: int
    # By number of later chunks, which is all that differs between chunks.
    _computed: dict[int | Literal["null"], TextKV] = field(default_factory=dict)

    def of(self, chunk: int, is_clean: bool) -> TextKV:
        """Return the text of a pass; chunks with the same special tokens share it."""
        # Encoders set the rows of padding to zero. An empty prompt has no other rows.
        mask_T = self.rows_TE.any(dim=1)
        if is_clean or chunk < self.given or not mask_T.any():
            return self._text("null", null_rows(self.network.null_text))
        # Only the special token of the duration differs between chunks: it counts later chunks.
        following = self.num_chunks - 1 - chunk
        key = min(following, LAST_DURATION) if "duration" in self.kinds else 0
        if key in self._computed:
            return self._computed[key]
        rows = self.rows_TE[mask_T]
        if self.special is not None:
            index, num_new = chunk - self.given, self.num_chunks - self.given
            rows = prompt_rows(self.rows_TE, mask_T, self.kinds, self.special, index, num_new)
        return self._text(key, rows)

    def _text(self, key: int | Literal["null"], rows_TE: Tensor) -> TextKV:
        if key not in self._computed:
            self._computed[key] = self.network.text_kv(rows_TE[None])
        return self._computed[key]

    @property
    def nbytes(self) -> int:
        """Bytes of the texts that have been computed."""
        return sum(text_kv.nbytes for text_kv in self._computed.values())
