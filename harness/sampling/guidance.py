"""Guidance: runs every pass in several branches, and combines their flows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from harness.cache.integration import CacheSession
from harness.cache.session import Session
from harness.cache.shared_history import SharedHistorySession
from harness.sampling.network import TextKV
from harness.sampling.passes import Pass
from harness.sampling.schedule import is_number


@dataclass(frozen=True)
class Role:
    """Inputs of one branch of every pass: its text and its cache.

    name: its name in the trace.
    text: the `prompt`, or the `negative` text.
    cache: `own`: the branch stores its own history. `shared`: it reads the history of the branch
        that stores one, and keeps only its own unfinished chunks. `none`: it attends to its own
        chunk only.
    """

    name: str
    text: Literal["prompt", "negative"]
    cache: Literal["own", "shared", "none"] = "own"


def roles_of(guidance: Guided | None) -> tuple[Role, ...]:
    """Return the roles of the branches of a pass; without guidance one, with the prompt."""
    return (Role("cond", "prompt"),) if guidance is None else guidance.roles


def running_branches(guidance: Guided | None, each: Pass, time: float) -> list[int]:
    """Return the indices of the branches in which a pass runs, if no policy skips it.

    time: of the pass's chunk, as the network takes it; a commit pass does not depend on it.
    """
    if guidance is None:
        return [0]
    numbered = enumerate(guidance.roles)
    if each.step is None:
        # A commit only fills caches, so a branch without a cache skips it. If the prompt changes,
        # a branch that reads the negative text keeps its history: its text is the same.
        storing = [(number, role) for number, role in numbered if role.cache != "none"]
        is_new = each.recached_for is None
        return [number for number, role in storing if is_new or role.text == "prompt"]
    # Asked with the time of the schedule and not of a solver: the planner has none.
    return [number for number, role in numbered if guidance.runs(role, time, each.is_oldest)]


class Texts(Protocol):
    """Texts of the passes of a branch."""

    def of(self, chunk: int, is_clean: bool) -> TextKV:
        """Return the text of a pass.

        chunk: number of its chunk in the video, from 0.
        is_clean: whether the pass shows the chunk without noise, to store it.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of the texts that are held now."""


@dataclass(frozen=True)
class SameText:
    """One text for all passes."""

    text_kv: TextKV

    def of(self, chunk: int, is_clean: bool) -> TextKV:
        """Return the text."""
        return self.text_kv

    @property
    def nbytes(self) -> int:
        """Bytes of the text's keys and values."""
        return self.text_kv.nbytes


@dataclass(frozen=True)
class SwitchedText:
    """Several texts, each from one chunk of the video on.

    starts: number of the first chunk of each text; the first is 0, and they rise.
    """

    starts: Sequence[int]
    texts: Sequence[Texts]

    def of(self, chunk: int, is_clean: bool) -> TextKV:
        """Return the newest text that has started."""
        # A text's own first chunk belongs to it, hence the right side.
        return self.texts[bisect_right(self.starts, chunk) - 1].of(chunk, is_clean)

    @property
    def nbytes(self) -> int:
        """Bytes of all texts."""
        # All are held to the end of the video.
        return sum(text.nbytes for text in self.texts)


@dataclass(frozen=True)
class Branch:
    """State of one branch of a video: its cache session and its texts."""

    session: CacheSession
    texts: Texts


def branches_of(
    roles: Sequence[Role], texts: Mapping[str, Texts], session: Callable[[], CacheSession]
) -> tuple[Branch, ...]:
    """Return the branches of a video, each with the session that its role asks for.

    texts: `prompt` and, if a role reads it, `negative`.
    session: makes an empty cache.
    """
    # Every guidance has at least one role with its own history. If several have one, the first is
    # the owner of which the others read.
    own = {role: session() for role in roles if role.cache == "own"}
    # A role without a cache gets the owner's session too: it attends through one, and stores
    # nothing there.
    owner = next(iter(own.values()))
    sessions: list[CacheSession] = []
    for role in roles:
        if role.cache == "shared":
            assert isinstance(owner, Session), "the sampler's loop demands integration=packed"
            sessions.append(SharedHistorySession(owner))
        else:
            sessions.append(own.get(role, owner))
    return tuple(Branch(each, texts[r.text]) for r, each in zip(roles, sessions, strict=True))


class Guided(ABC):
    """Runs every pass in several branches: `model.guidance` of a preset. Stateless.

    All branches share latents and solver.

    roles: its branches. The first with a history of its own is the one that others share.
    negative: text to encode for the branches that read the negative text; None if no branch reads
        it, or if the network brings its own empty text.
    """

    roles: ClassVar[tuple[Role, ...]]
    negative: str | None = None

    def runs(self, role: Role, time: float, is_oldest: bool) -> bool:
        """Return whether a denoising pass runs in a branch.

        time: of the pass's chunk, as the network takes it.
        is_oldest: whether no older chunk is unfinished.
        """
        # By time and place alone: the planner counts passes by the same answer.
        return True

    @abstractmethod
    def combine(self, flows_BFChw: Sequence[Tensor | None], time: float) -> Tensor:
        """Return the guided flow [B, F, C, h, w] in the branches' dtype, computed in fp32.

        flows: one for each branch; None for a branch that did not run.
        """

    @property
    @abstractmethod
    def preset(self) -> str:
        """Its strength in a few characters, which is printed with every result."""


@dataclass(frozen=True)
class Guidance(Guided):
    """Classifier-free guidance: one branch with the prompt and one with `negative`.

    Each branch has its own cache session.

    scale: flow = uncond + scale * (cond - uncond). At 1 the second branch would have no effect.
    negative: text of the branch without the prompt.

    Source  classifier-free guidance (arXiv 2207.12598), in the form that video models use.
    Raises  ValueError: a scale that is not a finite number, or 1; a negative that is not a text.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("cond", "prompt"), Role("uncond", "negative"))

    scale: float
    negative: str = ""

    def __post_init__(self) -> None:
        if not _is_finite(self.scale):
            raise ValueError(
                f"model.guidance.scale={self.scale}: give a number, published models have 3 to 8"
            )
        if self.scale == 1:
            raise ValueError(
                "model.guidance.scale=1 gives the flow of the prompt alone, at the cost of two "
                "passes: choose another scale, or model.guidance=null"
            )
        # Null is refused: an empty text is encoded like any other.
        if not isinstance(self.negative, str):
            raise ValueError(f"model.guidance.negative={self.negative}: give a text")

    def combine(self, flows_BFChw: Sequence[Tensor | None], time: float) -> Tensor:
        """Return uncond + scale * (cond - uncond)."""
        cond, uncond = flows_BFChw  # in the order of `roles`
        assert cond is not None and uncond is not None
        # In fp32, since a scale above 1 would amplify the rounding of 16 bits.
        guided = uncond.float() + self.scale * (cond.float() - uncond.float())
        return guided.to(cond.dtype)

    @property
    def preset(self) -> str:
        """The scale."""
        return f"{self.scale:g}"


@dataclass(frozen=True)
class SidePass(Guided):
    """MAGI-1's guidance of distilled models: the oldest chunk also runs without history.

    weight: of the flow with history; the other flow gets the rest.
    above: time from which on the second pass runs.

    Source  MAGI-1 (arXiv 2505.13211), its released code.
    Raises  ValueError: a weight outside 0..1, a time that is no number.
    """

    # Both read the prompt: this guides by history and not by text.
    roles: ClassVar[tuple[Role, ...]] = (Role("history", "prompt"), Role("alone", "prompt", "none"))
    weight: float = 0.7
    above: float = 0.3

    def __post_init__(self) -> None:
        if not (_is_finite(self.weight) and 0 <= self.weight <= 1):
            raise ValueError(f"model.guidance.weight={self.weight}: give a share, 0 to 1")
        if not _is_finite(self.above):
            raise ValueError(f"model.guidance.above={self.above}: give a time, 0 to 1")

    def runs(self, role: Role, time: float, is_oldest: bool) -> bool:
        """Return whether a branch runs: the second one only late in the oldest chunk."""
        # Times are fp32 numbers. Step 3/4 of a chunk lies at 0.3 + 1.2e-8, which counts as above.
        return role.cache != "none" or (is_oldest and time > self.above)

    def combine(self, flows_BFChw: Sequence[Tensor | None], time: float) -> Tensor:
        """Return the weighted mean of both flows, or the first if only that branch ran."""
        # Only the oldest chunk has a second flow, and only late (see `runs`).
        history, alone = flows_BFChw
        assert history is not None
        if alone is None:
            return history
        # In fp32, as in `Guidance`.
        mixed = self.weight * history.float() + (1 - self.weight) * alone.float()
        return mixed.to(history.dtype)

    @property
    def preset(self) -> str:
        """The weight."""
        return f"side{self.weight:g}"


@dataclass(frozen=True)
class ThreePass(Guided):
    """MAGI-1's guidance of base models: with prompt, without, and without history either.

    flow = (1 - p) alone + (p - q) without + q with, where the scales p (of history) and q (of text)
    depend on the time. `with` and `without` read the same history, which `without` stores.

    bounds: times from which each pair of scales holds. history_scales, text_scales: p and q.

    Source  MAGI-1 (arXiv 2505.13211), its released code.
    Raises  ValueError: lists of unequal length, numbers that are not finite, falling bounds.
    """

    # The branch without the prompt stores the history that both of the first two read.
    roles: ClassVar[tuple[Role, ...]] = (
        Role("with", "prompt", "shared"),
        Role("without", "negative"),
        Role("alone", "negative", "none"),
    )
    bounds: Sequence[float] = (0, 0.0217, 0.1, 0.3, 0.999)
    history_scales: Sequence[float] = (1.5, 1.5, 1.5, 1.0, 1.0)
    text_scales: Sequence[float] = (7.5, 7.5, 7.5, 0.0, 0.0)

    def __post_init__(self) -> None:
        names = ("bounds", "history_scales", "text_scales")
        for name in names:
            numbers = list(getattr(self, name))
            if not numbers or not all(map(_is_finite, numbers)):
                raise ValueError(f"model.guidance.{name}={numbers}: give numbers")
            object.__setattr__(self, name, tuple(numbers))  # lists come from YAML
        if len({len(getattr(self, name)) for name in names}) > 1:
            raise ValueError(
                "model.guidance: bounds, history_scales and text_scales differ in length, found "
                f"{len(self.bounds)}, {len(self.history_scales)} and {len(self.text_scales)}: give "
                "one pair of scales for each bound"
            )
        # `scales` counts the bounds below a time, which needs them in order.
        if any(a >= b for a, b in pairwise(self.bounds)):
            raise ValueError(f"model.guidance.bounds={list(self.bounds)}: give rising times")

    def scales(self, time: float) -> tuple[float, float]:
        """Return the scales of history and of text at a time."""
        # The tolerance is the original's: a time at a bound counts as above it. Below the first
        # bound its own scales hold.
        place = max(0, sum(bound - 1e-7 < time for bound in self.bounds) - 1)
        return self.history_scales[place], self.text_scales[place]

    def combine(self, flows_BFChw: Sequence[Tensor | None], time: float) -> Tensor:
        """Return (1 - p) alone + (p - q) without + q with."""
        prompted, unprompted, alone = flows_BFChw
        assert prompted is not None and unprompted is not None and alone is not None
        p, q = self.scales(time)
        guided = (1 - p) * alone.float() + (p - q) * unprompted.float() + q * prompted.float()
        return guided.to(prompted.dtype)

    @property
    def preset(self) -> str:
        """The largest scale of the text."""
        return f"three{max(self.text_scales):g}"


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)
