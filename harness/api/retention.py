"""Retention policies: what old frames or old tokens become. Blind to bits, without state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import Tensor

from harness.api.spec import CacheSpec, VideoSize

KEEP = "keep"  # stored by the method's own key and value quantizers
POOL = "pool"  # one token, the mean of the frame, with logit bias log(tokens it stands for)
DROP = "drop"  # leaves the attention and frees its memory


@dataclass(frozen=True, eq=False)
class Split:
    """Some tokens of a frame go to one tier, the rest to another.

    tokens: positions in the frame [n] int64, ascending; as many in every frame of a tier.
    """

    tokens: Tensor
    first: str
    rest: str


Placement = str | Split  # KEEP, POOL, DROP or the name of one of the method's tiers


class Retention(ABC):  # noqa: B024  its two kinds have the abstract methods
    """What history becomes when a chunk is finished: either a `FramePolicy` or a `TokenPolicy`.

    Asked once a layer and chunk, in the commit pass. What it lets go leaves before the new chunk
    is encoded, so storage never holds more than the policy keeps.
    """

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers it uses besides KEEP, POOL and DROP; the method must have them."""
        return ()

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most policies serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    def sized(self, room: VideoSize) -> Self:
        """This policy for one video: with its budget, if it has one, counted in tokens."""
        return self


@dataclass(frozen=True)
class History:
    """What a frame policy sees of one layer when a chunk is finished.

    frames: absolute indices of the frames that are stored, oldest first, the new chunk included;
    pooled and dropped frames are gone from it. num_frames: the frames an uncompressed cache would
    hold now. capacity: the frames of the whole video. notes: what `observe` returned for every
    frame so far, by frame, dropped ones included; noisy_notes: the same of the pass before the
    commit, for policies that watch. tiers: where each stored frame lies, a split one without its
    tokens; new ones are absent. mass: share of the attention of the newest frame's queries that
    each stored frame draws, for policies that ask for queries. layer of num_layers.
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
    """Decides over whole frames: which tier, pooled, dropped.

    queries: of the newest frame, evenly spaced, whose attention over history is measured into
    `History.mass`; 0 measures nothing. observes_noisy: `observe` is also called in the pass before
    the commit, for `History.noisy_notes`. splits: it gives `Split` placements, which only roped
    keys can serve.
    uneven: its splits differ in size or move, which no pages of one size can serve.
    span: frames that it hands to KEEP at a time and that are encoded there as one page.
    """

    queries: int = 0
    observes_noisy: bool = False
    splits: bool = False
    uneven: bool = False
    span: int = 1

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor | None:
        """A small note on a new frame, kept for the video (un-roped keys, exact values)."""
        return None

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """The most frames it ever has in a tier (KEEP, POOL, ...) of a history of `num_frames`.

        Storage of this size is taken at once, without it (None) it grows chunk by chunk.
        """
        return None

    @abstractmethod
    def decide(self, history: History) -> Mapping[int, Placement]:
        """The placement of frames in `history.frames`.

        A frame left out stays where it is; a new one goes to KEEP.
        """


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a token policy sees of one layer when a chunk is finished: history, then the new chunk.

    key, value: [B, H, N, D] as stored, new ones exact; keys roped or not as the method stores
    them. H counts heads of keys and values. rotated: the keys as attention meets them, at their
    positions. query: of the new chunk, rotated likewise [B, query heads, T, D]; where there are
    more of them than H, neighbours share a head (`queries_of`). frame, place: the frame a token
    came from and its position in it [B, H, N] int64. count: how many tokens it stands for [B, H, N]
    fp32; 0: the model's window no longer reaches it. note: what the policy wrote down for it
    [B, H, N] fp32, 0 for new tokens. num_new: tokens of the new chunk, which are the last. layer of
    num_layers.
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
        return int(self.frame[..., -1].max()) + 1

    def queries_of(self, batch: int, head: int) -> Tensor:
        """Queries of all query heads that meet one head of keys [R, T, D]; R is 1 in most models.

        A token is worth as much as to the query head that it is worth most to: take the maximum
        over R.
        """
        queries: Tensor = self.query.unflatten(1, (self.key.shape[1], -1))[batch, head]
        return queries


@dataclass(frozen=True, eq=False)
class Revision:
    """What stays: K tokens a head, all fields [B, H, K] in the order of `index`.

    index: into the tokens seen, int64. note, count, frame: replace theirs where given, and
    key, value [B, H, K, D] where tokens were merged.
    """

    index: Tensor
    note: Tensor | None = None
    count: Tensor | None = None
    frame: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None


class TokenPolicy(Retention):
    """Decides over single tokens, head by head.

    rewrites: whether it changes keys or values, which only exact storage can serve.
    """

    rewrites: ClassVar[bool] = False

    @abstractmethod
    def revise(self, tokens: Tokens) -> Revision:
        """Which tokens stay, and what they become. Equal scores: the newer token stays."""

    def max_tokens(self, num_tokens: int) -> int:
        """The most tokens it keeps of a history of so many."""
        return num_tokens

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Time positions at which stored tokens are attended [B, H, N] int64; their own frames.

        A policy that moves none gives the same tensor back. num_frames: of the video so far,
        without the chunk that attends.
        """
        return frame_BHN
