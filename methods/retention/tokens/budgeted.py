"""What all token policies share: a budget, and tokens that come in order."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch

from harness.api import Budget, CacheSpec, Revision, TokenPolicy, Tokens, VideoSize
from methods.retention.tokens.order import as_given, oldest_first


@dataclass(frozen=True, kw_only=True)
class Budgeted(TokenPolicy):
    """Holds at most a budget of tokens in every head; while they fit, every token stays.

    budget: an amount and a unit, see `Budget`. room: of the video; set by `sized`, not by hand.

    A leaf gives `_revised`, which may rely on tokens being ordered by frame, then place.

    Raises  ValueError: a budget that cannot be read, or too small for what must stay.
    """

    budget: str
    room: VideoSize | None = None

    def __post_init__(self) -> None:
        """Refuse a budget that cannot be read."""
        Budget(self.budget)

    @property
    def limit(self) -> int:
        """The budget in tokens of a head."""
        return Budget(self.budget).tokens(self._room)

    @property
    def num_frames(self) -> int:
        """The budget in whole frames."""
        return Budget(self.budget).frames(self._room)

    @property
    def _room(self) -> VideoSize:
        if self.room is None:
            raise RuntimeError(f"{type(self).__name__} counts its budget only once it is `sized`")
        return self.room

    def sized(self, room: VideoSize) -> Self:
        """With its budget counted in tokens; what is protected must fit into it."""
        policy = replace(self, room=room)
        policy._demand(1)
        return policy

    def check(self, spec: CacheSpec) -> None:
        """The budget must hold what is protected and one chunk.

        Counted only once `sized`: before, a budget in GiB or x is no number of tokens.
        """
        if self.room is not None:
            self._demand(spec.chunk_frames)

    def max_tokens(self, num_tokens: int) -> int:
        """The budget."""
        return min(num_tokens, self.limit)

    def _demand(self, chunk_frames: int) -> None:
        least = self._least(chunk_frames)
        if self.limit < least * self._room.tokens_per_frame:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds {self.limit} tokens: choose at "
                f"least {least} frames of {self._room.tokens_per_frame}, for what always stays and "
                f"a chunk of {chunk_frames}"
            )

    @abstractmethod
    def _least(self, chunk_frames: int) -> int:
        """The fewest frames that hold what always stays, and a chunk."""

    def revise(self, tokens: Tokens) -> Revision:
        """What stays of the tokens, in whatever order they come."""
        ordered, order = oldest_first(tokens)
        revision = self._revised(ordered)
        return revision if order is None else as_given(revision, order)

    @abstractmethod
    def _revised(self, tokens: Tokens) -> Revision:
        """What stays of tokens that are ordered by frame, then place; index ascending."""


def everything(tokens: Tokens) -> Revision:
    """All tokens, as they are."""
    index = torch.arange(tokens.frame.shape[2], device=tokens.frame.device)
    return Revision(index.expand_as(tokens.frame).contiguous())
