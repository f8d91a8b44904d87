"""Geometry of a model's keys and values, sizes of a video, and memory budgets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# What a pass stores in the cache: `nothing`; `active`, the exact keys and values until the chunk's
# next pass, so that later chunks can attend to a chunk that is still being denoised; or `history`,
# keys and values encoded by the method.
Stores = Literal["nothing", "active", "history"]


@dataclass(frozen=True)
class CacheSpec:
    """Geometry of a model's keys and values, as far as methods and the cache need it.

    num_heads: heads of queries.
    head_dim: channels of a head.
    grid: rows and columns of patches in a latent frame.
    chunk_frames: latent frames of a chunk.
    window: frames that attention reaches, current chunk included; None is the full history.
    sink: frames at the start of the video that never leave the window.
    positions: time positions of stored frames. `absolute`: their own. `relative`: frames after the
        sink move back as the window moves. `anchored`: a denoising pass finds the sink just before
        the other frames that it sees, and no pass sees more than window - sink stored frames.
    keys: how the model stores keys, `roped` or `pre_rope`.
    sink_rate: share at which each chunk that leaves the window is mixed into the sink; 0 keeps the
        sink unchanged.
    num_kv_heads: heads of keys and values; None for `num_heads`. If there are fewer, neighbouring
        query heads share one.
    under_way: the most chunks that are unfinished at a time.

    Raises  ValueError: num_kv_heads does not divide num_heads.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    grid: tuple[int, int]
    chunk_frames: int
    window: int | None = None
    sink: int = 0
    positions: Literal["absolute", "relative", "anchored"] = "absolute"
    keys: Literal["roped", "pre_rope"] = "roped"
    sink_rate: float = 0.0
    num_kv_heads: int | None = None
    under_way: int = 1

    def __post_init__(self) -> None:
        # Query heads are grouped by neighbours, so every head of keys needs as many of them.
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}: "
                "choose a divisor, or null for as many"
            )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, which the cache stores."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame after patching."""
        return self.grid[0] * self.grid[1]

    @property
    def bf16_frame_bytes(self) -> int:
        """Bytes of one frame's keys and values over all layers in BF16, batch 1."""
        # 2 for keys and values, and 2 bytes for each number.
        return self.num_layers * 2 * self.kv_heads * self.head_dim * 2 * self.tokens_per_frame


@dataclass(frozen=True)
class VideoSize:
    """Sizes of a video that turn a budget into tokens, batch 1.

    num_frames: latent frames of the whole video.
    frame_bytes: bytes of one frame over all layers, as the method stores it.
    bf16_frame_bytes: bytes of one frame over all layers in BF16.
    chunk_frames: latent frames of a chunk.
    under_way: the most chunks that are unfinished at a time.
    """

    tokens_per_frame: int
    num_frames: int
    frame_bytes: int
    bf16_frame_bytes: int
    chunk_frames: int = 1
    under_way: int = 1


@dataclass(frozen=True)
class Budget:
    """Limit on the history that a policy keeps in every layer: an amount and its unit, as text.

    text: `4096 tokens`, `12 frames`, `2 chunks`, `1.5 GiB` (stored bytes over all layers) or `4x`
        (a quarter of the bytes that the whole video takes in BF16). Notes and counts of a policy
        are extra.

    Raises  ValueError: text in another form, an amount that is not positive, or below 1x.
    """

    text: str

    def __post_init__(self) -> None:
        # An amount of 0 stands for text in another form: both get the same sentence.
        amount, unit = self._parsed or (0.0, "")
        # Below 1x, the budget would be larger than the whole video.
        if amount <= 0 or (unit == "x" and amount < 1):
            raise ValueError(
                f"budget={self.text}: give an amount and a unit: 4096 tokens, 12 frames, "
                "2 chunks, 1.5 GiB, or 4x for a quarter of BF16"
            )

    @property
    def _parsed(self) -> tuple[float, str] | None:
        """Amount and unit; None for text in another form."""
        found = re.fullmatch(
            r"\s*(\d+(?:\.\d*)?)\s*(tokens|frames|chunks|GiB|x)\s*", str(self.text)
        )
        return (float(found[1]), found[2]) if found else None

    def tokens(self, room: VideoSize) -> int:
        """Return the budget in tokens per layer, rounded down."""
        # Every layer has the same share, so bytes over all layers give frames of all layers.
        assert self._parsed is not None
        amount, unit = self._parsed
        if unit == "tokens":
            return int(amount)
        # Convert every other unit to frames. A budget in bytes holds more frames if the method
        # stores a frame in fewer bytes.
        if unit == "GiB":
            amount = amount * 2**30 / room.frame_bytes
        elif unit == "chunks":
            amount *= room.chunk_frames
        # Of the whole video, also if the model's window is shorter.
        elif unit == "x":
            amount = room.bf16_frame_bytes * room.num_frames / amount / room.frame_bytes
        return int(amount * room.tokens_per_frame)

    def frames(self, room: VideoSize) -> int:
        """Return the budget in whole frames per layer, rounded down."""
        # Down, so that whole frames never exceed the budget.
        return self.tokens(room) // room.tokens_per_frame
