"""Base class of token policies: a budget, and sorted tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch

from harness.api import Budget, CacheSpec, Revision, TokenPolicy, Tokens, VideoSize
from methods.retention.tokens.order import as_given, oldest_first


@dataclass(frozen=True, kw_only=True)
class Budgeted(TokenPolicy):
    """Keeps at most a budget of tokens per head; as long as they fit, every token stays.

    Subclasses define `_revised`, which receives tokens sorted by frame, then place.

    budget: an amount and a unit, parsed by `Budget`.
    room: size of the video, set by `sized`, not by the user.

    Raises  ValueError: a budget that cannot be parsed, or too small for the protected tokens.
    """

    budget: str
    room: VideoSize | None = None

    def __post_init__(self) -> None:
        Budget(self.budget)

    @property
    def limit(self) -> int:
        """Return the budget in tokens per head."""
        return Budget(self.budget).tokens(self._room)

    @property
    def num_frames(self) -> int:
        """Return the budget in whole frames."""
        return Budget(self.budget).frames(self._room)

    @property
    def _room(self) -> VideoSize:
        # A fault of the caller and not of a setting, hence no ValueError.
        if self.room is None:
            raise RuntimeError(f"{type(self).__name__} counts its budget only once it is `sized`")
        return self.room

    def sized(self, room: VideoSize) -> Self:
        """Return this policy for one video.

        Raises  ValueError: the budget does not hold the protected tokens.
        """
        # The chunk is not known here; `check` asks again with its length.
        policy = replace(self, room=room)
        policy._demand(1)
        return policy

    def check(self, spec: CacheSpec) -> None:
        """Check that the budget holds the protected tokens and one chunk."""
        # Before `sized`, a budget in GiB or x has no number of tokens.
        if self.room is not None:
            self._demand(spec.chunk_frames)

    def max_tokens(self, num_tokens: int) -> int:
        """Return the smaller of `num_tokens` and the budget."""
        return min(num_tokens, self.limit)

    def _demand(self, chunk_frames: int) -> None:
        """Raise ValueError if the budget does not hold what always stays and a chunk."""
        least = self._least(chunk_frames)
        if self.limit < least * self._room.tokens_per_frame:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds {self.limit} tokens: choose at "
                f"least {least} frames of {self._room.tokens_per_frame}, for what always stays and "
                f"a chunk of {chunk_frames}"
            )

    @abstractmethod
    def _least(self, chunk_frames: int) -> int:
        """Return the fewest frames that hold the protected tokens and a chunk."""

    def revise(self, tokens: Tokens) -> Revision:
        """Choose the tokens that stay; the input may have any order."""
        # Storage may hold tokens in any order, and only a policy that asks for it may depend on it.
        ordered, order = (tokens, None) if self._as_stored else oldest_first(tokens)
        revision = self._revised(ordered)
        return revision if order is None else as_given(revision, order)

    @property
    def _as_stored(self) -> bool:
        """Whether tokens are judged in the order in which they are stored."""
        return False

    @abstractmethod
    def _revised(self, tokens: Tokens) -> Revision:
        """Choose from tokens sorted by frame, then place; the returned index is ascending."""


def everything(tokens: Tokens) -> Revision:
    """Return a revision that keeps all tokens unchanged."""
    index = torch.arange(tokens.frame.shape[2], device=tokens.frame.device)
    return Revision(index.expand_as(tokens.frame).contiguous())
