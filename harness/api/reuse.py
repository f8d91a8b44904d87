"""Reuse policies: which denoising passes are skipped, and what replaces them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, get_origin, get_type_hints

from torch import Tensor


class PassInputs(Protocol):
    """Inputs of a pass before the network's first block; each is computed on first use.

    They do not depend on the prompt, so all guidance branches share them.
    """

    @property
    def time_embedding(self) -> Tensor:
        """Embedding of each frame's time [B, F, dim]."""

    @property
    def time_modulation(self) -> Tensor:
        """Scales, shifts and gates that the blocks get from the time [B, F, 6, dim]."""

    @property
    def tokens(self) -> Tensor:
        """Embedded patches of the noisy latents [B, F * T, dim]."""

    @property
    def modulated_tokens(self) -> Tensor:
        """Input of the first block's attention: normed and modulated tokens [B, F * T, dim]."""


class Feature(ABC):
    """A tensor whose change from pass to pass a policy watches; stateless."""

    @abstractmethod
    def __call__(self, inputs: PassInputs) -> Tensor:
        """Return the feature of a pass, of any shape that stays the same from pass to pass.

        With scope=window under `harness.sampling.Pipeline` the number of chunks changes: dimension
        1 must then run over their frames or tokens, oldest first.
        """


@dataclass(frozen=True, kw_only=True)
class Reuse(ABC):
    """Policy that skips denoising passes of a chunk or of a whole window. Stateless.

    The first pass of a chunk and passes that store history always run.

    feature: tensor whose change the policy watches; None for policies that decide by step alone.
    distance: measure of the change of the feature. `relative_l1`: mean absolute difference over
        mean absolute value. `relative_l2`: the same with root mean squares. `cosine`: one minus the
        cosine of both tensors.
    reference: compare with the `previous` pass, or with the `last_evaluated` one.
    rescale: coefficients of a polynomial, highest power first, applied to each distance; None
        leaves the distance unchanged.
    scope: decide for each `chunk` by its own steps, or once per row of the step matrix for the
        whole `window`: all of it (`harness.sampling.DiffusionForcing`), or its unfinished chunks
        (`harness.sampling.Pipeline`), where a new chunk runs its first pass in any case. Both are
        the same if only one chunk is unfinished at a time.
    counter: with scope=window, count rows in each `branch`; `shared` counts calls of all branches
        together, as the released TeaCache of SkyReels-V2 does by mistake.
    payload: replacement of a skipped pass. `residual`: the tokens after the last block minus the
        tokens before the first. `velocity`: the flow. `displacement`: the change of the latents in
        the newest step that ran.
    warmup: number of first steps that always run.
    protect_last: whether the last step always runs.
    protect_end: with scope=chunk, whether the last row of the step matrix always runs.
    allow_stale_commit: whether the last step may be skipped where it would store the chunk. The
        history then gets the keys and values of the newest step that ran, as in FlowCache's code
        for MAGI-1.

    Sources  FlowCache (arXiv 2602.10825), TeaCache (arXiv 2411.19108).
    Raises   ValueError: an unknown word, a part of the wrong type, a negative warmup.
    """

    feature: Feature | None = None
    distance: Literal["relative_l1", "relative_l2", "cosine"] = "relative_l1"
    reference: Literal["previous", "last_evaluated"] = "previous"
    rescale: Sequence[float] | None = None
    scope: Literal["chunk", "window"] = "chunk"
    counter: Literal["branch", "shared"] = "branch"
    payload: Literal["residual", "velocity", "displacement"] = "residual"
    warmup: int = 1
    protect_last: bool = False
    protect_end: bool = False
    allow_stale_commit: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        # Settings of files have been checked already, but Python code may build a policy directly.
        for field, hint in get_type_hints(Reuse).items():
            allowed, found = get_args(hint), getattr(self, field)
            if get_origin(hint) is Literal and found not in allowed:
                raise ValueError(f"{name}.{field}={found}: choose {', '.join(allowed)}")
        if self.feature is not None and not isinstance(self.feature, Feature):
            raise ValueError(f"{name}.feature={self.feature}: give a Feature or null")
        if type(self.warmup) is not int or self.warmup < 0:
            raise ValueError(f"{name}.warmup={self.warmup}: give 0 passes or more")
        if self.rescale is not None and not (
            self.rescale
            and all(isinstance(c, int | float) and math.isfinite(c) for c in self.rescale)
        ):
            raise ValueError(
                f"{name}.rescale={self.rescale}: give the coefficients of a polynomial, highest "
                "power first, or null"
            )
        if self.counter == "shared" and (self.scope, self.payload) != ("window", "residual"):
            raise ValueError(
                f"{name}.counter=shared lets guidance branches decide differently: choose "
                "scope=window and payload=residual with it"
            )

    def check(self, num_steps: int) -> None:
        """Raise ValueError, before anything is generated, if a model's steps cannot be skipped.

        num_steps: denoising steps of a chunk.
        """
        # The first step of a chunk always runs: there is nothing to reuse yet.
        if num_steps < 2:
            raise ValueError(
                f"{type(self).__name__} skips denoising passes, but the model has one per chunk: "
                "choose a model with more steps, or method.reuse=null"
            )

    def guards(self, step: int, num_steps: int) -> bool:
        """Return whether a step must run, regardless of the feature."""
        if self.counter == "shared":
            # The released code compares a counter of both branches with a limit for one, and so
            # never reaches the guard of the last step.
            return step < 2 * self.warmup
        return step < self.warmup or (self.protect_last and step == num_steps - 1)

    def drift(self, now: Tensor, before: Tensor) -> float:
        """Return the distance of two features, before `rescale`."""
        # `item` waits for the device: the host must know whether to run the pass.
        now, before = now.float(), before.float()
        if self.distance == "cosine":
            dot = (now * before).sum()
            return float(1 - (dot / (now.norm() * before.norm())).item())
        if self.distance == "relative_l2":
            return float(((now - before).norm() / before.norm()).item())
        return float(((now - before).abs().mean() / before.abs().mean()).item())

    def rescaled(self, drift: float) -> float:
        """Return the polynomial's value at a drift, computed in float64."""
        # TeaCache fits it: from the change of a feature to that of the network's output.
        if self.rescale is None:
            return drift
        # Horner's rule.
        value = 0.0
        for coefficient in self.rescale:
            value = value * drift + coefficient
        return value

    def accumulated(self, drifts: Sequence[float]) -> float:
        """Return the number that is compared with a threshold.

        drifts: distance of every pass since the last evaluated one, this pass included.
        """
        # A distance to the newest pass that ran is the whole change since then. Distances between
        # neighbouring passes are summed.
        if self.reference == "last_evaluated":
            return self.rescaled(drifts[-1])
        return sum(map(self.rescaled, drifts))

    @abstractmethod
    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether to skip a step, counted from 0; guarded steps are not asked about.

        num_steps: steps of the chunk, or rows of the window.
        drifts: as in `accumulated`; empty without a feature.
        """
