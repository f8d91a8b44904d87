"""Retention policies: which old frames or tokens stay, and in which tier.

Policies hold no state and do not know how many bits a tier stores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from harness.api.spec import CacheSpec, VideoSize

KEEP = "keep"  # stored by the method's own key and value quantizers
POOL = "pool"  # one token, the mean of the frame, with logit bias log(number of tokens pooled)
DROP = "drop"  # evicted: no longer attended to, memory freed


# Tensors have no single truth value, so objects that hold them compare by identity (eq=False).
@dataclass(frozen=True, eq=False)
class Split:
    """Placement that sends some tokens of a frame to one tier and the rest to another.

    tokens: positions in the frame [n] int64, ascending; n is equal for all frames of a tier.
    first: tier of `tokens`. rest: tier of the frame's other tokens.
    """

    tokens: Tensor
    first: str
    rest: str


Placement = str | Split  # KEEP, POOL, DROP or the name of one of the method's tiers


class Retention(ABC):  # noqa: B024  its two kinds have the abstract methods
    """Rule that decides what stays of the history: a `FramePolicy` or a `TokenPolicy`.

    The cache calls it once per layer and chunk, in the commit pass.

    keeps_all: whether it keeps every token and moves none between tiers.
    """

    keeps_all: ClassVar[bool] = False

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of its tiers other than KEEP, POOL and DROP; the method must define them."""
        # Names only: a policy does not know the bits of a tier, so any quantizers can serve it.
        return ()

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most policies serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    def sized(self, room: VideoSize) -> Self:
        """Return this policy for one video, with its budget (if it has one) counted in tokens."""
        # A copy, never a change: one policy object serves all videos of a run.
        return self


@dataclass(frozen=True)
class History:
    """The history of one layer that a frame policy decides over when a chunk is finished.

    frames: absolute indices of the stored frames, oldest first, new chunk included; without pooled
        and dropped frames.
    num_frames: frames that an uncompressed cache would hold now.
    notes: results of `FramePolicy.observe` by frame, dropped frames included.
    noisy_notes: notes of the pass before the commit, for policies with `observes_noisy`.
    tiers: placement of each stored frame, without new ones; a `Split` here has no tokens.
    mass: share of the attention of the newest frame's queries that each stored frame draws, for
        policies with `queries`.
    capacity: frames of the whole video.
    layer, num_layers: number of this layer, from 0, and the number of layers.
    """

    frames: Sequence[int]
    num_frames: int
    notes: Mapping[int, Tensor] = field(default_factory=dict)
    noisy_notes: Mapping[int, Tensor] = field(default_factory=dict)
    tiers: Mapping[int, Placement] = field(default_factory=dict)
    mass: Mapping[int, float] = field(default_factory=dict)
    capacity: int = 0
    layer: int = 0
    num_layers: int = 1


class FramePolicy(Retention):
    """Policy over whole frames: sends each to a tier, pools it or drops it.

    Dropped frames are freed before the new chunk is encoded, so the cache never holds more than
    the policy keeps.

    queries: number of evenly spaced queries of the newest frame whose attention over history is
        measured for `History.mass`; 0 measures none.
    observes_noisy: call `observe` also in the pass before the commit, for `History.noisy_notes`.
    splits: the policy returns `Split` placements, which need roped keys.
    uneven: its splits differ in size or change later, so pages of one size cannot hold them.
    span: frames that it sends to KEEP at a time, encoded there as one page.
    """

    queries: int = 0
    observes_noisy: bool = False
    splits: bool = False
    uneven: bool = False
    span: int = 1

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor | None:
        """Return small notes on new frames, which the cache keeps for the whole video, or None.

        Shapes  k [B, H, F, T, D] un-roped, v [B, H, F, T, D]; both exact. Notes [F, ...], one a
                frame.
        """
        return None

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return the most frames that a tier (KEEP, POOL, ...) ever holds, None if unknown.

        num_frames: length of the history. The cache allocates a tier of known size at once, and
        one of unknown size chunk by chunk.
        """
        return None

    @abstractmethod
    def decide(self, history: History) -> Mapping[int, Placement]:
        """Return placements of frames in `history.frames`.

        A stored frame that is left out stays where it is; a new one goes to KEEP.
        """


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one layer that a policy decides over: history first, then the new chunk.

    Policies with another trigger than commit get history alone (`num_new` is 0), and the queries of
    another pass (`TokenPolicy.trigger`).

    H counts heads of keys and values, N counts tokens.

    key, value: [B, H, N, D] as the method stores them (keys roped or not); new tokens are exact.
    rotated: keys [B, H, N, D] at their positions, as attention reads them.
    query: rotated queries of the new chunk, or of the next pass [B, query heads, T, D]. If there
        are more query heads than H, neighbours share a head of keys (`grouped_query`).
    frame: frame of each token [B, H, N] int64.
    place: position of each token in its frame [B, H, N] int64.
    count: number of original tokens that each token stands for [B, H, N] fp32; 0 marks tokens that
        have left the model's window.
    note: the policy's own number for each token [B, H, N] fp32; 0 for new tokens.
    num_new: number of new tokens; they come last.
    layer, num_layers: number of this layer, from 0, and the number of layers.
    """

    key: Tensor
    value: Tensor
    rotated: Tensor
    query: Tensor
    frame: Tensor
    place: Tensor
    count: Tensor
    note: Tensor
    num_new: int
    spec: CacheSpec
    layer: int = 0
    num_layers: int = 1

    @property
    def num_frames(self) -> int:
        """Frames of the video so far, the new chunk included."""
        # The tokens of the newest frame come last in every head.
        return int(self.frame[..., -1].max()) + 1

    @property
    def grouped_query(self) -> Tensor:
        """Queries by the head of keys that they share [B, H, R, T, D]; R is 1 in most models.

        Score a token by the maximum over R: it stays if one query head needs it.
        """
        # The query heads of a group are neighbours, see `CacheSpec.num_kv_heads`.
        grouped: Tensor = self.query.unflatten(1, (self.key.shape[1], -1))
        return grouped


def rows_at(x: Tensor, index_BHK: Tensor) -> Tensor:
    """Select rows of each head by index.

    Shapes  x [B, H, N, ...], index [B, H, K] int64 -> [B, H, K, ...].
    """
    batch, num_heads, num_rows = x.shape[:3]
    if not x.is_contiguous():
        # Rows of a larger buffer: do not copy all of them to choose some.
        index = index_BHK.reshape(*index_BHK.shape, *[1] * (x.dim() - 3))
        return x.gather(2, index.expand(*index_BHK.shape, *x.shape[3:]))
    # `index_select` copies a row at once and `gather` number by number, which takes a CPU 20 times
    # as long.
    first = torch.arange(batch * num_heads, device=x.device).view(batch, num_heads, 1) * num_rows
    rows = x.flatten(0, 2).index_select(0, (index_BHK + first).flatten())
    return rows.view(*index_BHK.shape, *x.shape[3:])


@dataclass(frozen=True, eq=False)
class Revision:
    """The K tokens of each head that stay; all fields follow the order of `index`.

    index: positions of the tokens in `Tokens` [B, H, K] int64.
    note: new notes [B, H, K]; None sets them to 0.
    count, frame: new values [B, H, K]; None keeps those of the tokens.
    key, value: new keys and values [B, H, K, D], from policies that merge tokens.
    """

    index: Tensor
    note: Tensor | None = None
    count: Tensor | None = None
    frame: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None


class TokenPolicy(Retention):
    """Policy over single tokens, head by head.

    rewrites: the policy changes keys or values, which needs exact storage.
    trigger: when `revise` is called.
        `commit`: in the commit pass of a chunk, with the chunk's queries and tokens.
        `next_pass`: before the next pass attends, with the queries of that pass and history alone.
        `new_chunk`: before a chunk starts while others are unfinished, with the queries of the
        newest pass that ran, and history alone.
    """

    rewrites: ClassVar[bool] = False
    trigger: Literal["commit", "next_pass", "new_chunk"] = "commit"

    @abstractmethod
    def revise(self, tokens: Tokens) -> Revision:
        """Return the tokens that stay, and their new values.

        Of two tokens with equal scores the newer one stays.
        """

    def num_queries(self, spec: CacheSpec) -> int:
        """Return the number of a pass's newest queries that `revise` reads."""
        # With trigger=new_chunk the layer keeps so many queries of each pass, and the planner
        # counts their bytes.
        return 0

    def max_tokens(self, num_tokens: int) -> int:
        """Return the most tokens that the policy keeps of a history of `num_tokens`."""
        # The planner takes this bound: it simulates the decisions of frame policies only.
        return num_tokens

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Return the time positions at which stored tokens are attended [B, H, N] int64.

        By default a token stays at its own frame.

        num_frames: frames of the video so far, without the current chunk.
        """
        # Return the same tensor if no token moves: the cache tests for identity and then leaves
        # roped keys as they are.
        return frame_BHN
