"""A compression method, as one file of `conf/method/` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.api.retention import KEEP, FramePolicy, Retention, TokenPolicy
from harness.api.reuse import Reuse
from harness.api.spec import CacheSpec
from harness.api.storage import Exact, Quantizer


@dataclass(frozen=True)
class Tier:
    """Quantizers for one part of the history.

    key, value: quantizers of keys and of values.
    span: frames that are encoded together as one page, for quantizers whose metadata is small only
        in relation to many tokens. A policy must move frames to such a tier in whole spans.

    Raises  ValueError: a part that is not a Quantizer, a span below 1.
    """

    key: Quantizer
    value: Quantizer
    span: int = 1

    def __post_init__(self) -> None:
        for name in ("key", "value"):
            if not isinstance(getattr(self, name), Quantizer):
                raise ValueError(f"tier.{name}={getattr(self, name)}: give a Quantizer")
        if self.span < 1:
            raise ValueError(f"tier.span={self.span}: give a positive number of frames")

    def check(self, spec: CacheSpec) -> None:
        """Raise ValueError if a quantizer cannot serve the model's geometry."""
        self.key.check(spec)
        self.value.check(spec)


@dataclass(frozen=True)
class Method:
    """A retention policy, its quantizers and an optional reuse policy: a file of `conf/method/`.

    key, value: quantizers of the tier KEEP.
    retention: decides which frames or tokens stay, and in which tier.
    keys: store keys `roped` (with their rotary position) or `pre_rope`; `model` takes the model's
        choice (`CacheSpec.keys`).
    tiers: the policy's other tiers, by name.
    reuse: decides which denoising passes are skipped; None runs all.
    family: name of the family in tables.
    source: paper that describes the method.

    Raises  ValueError: a part of the wrong type, unknown `keys`, tiers other than those that the
            policy names.
    """

    key: Quantizer
    value: Quantizer
    retention: Retention
    keys: Literal["model", "roped", "pre_rope"] = "model"
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    reuse: Reuse | None = None
    family: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        # The check of settings accepts any class as a part; only here is the part built.
        kinds: dict[str, type] = {"key": Quantizer, "value": Quantizer, "retention": Retention}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"method.{name}={getattr(self, name)}: give a {kind.__name__}")
        if self.keys not in ("model", "roped", "pre_rope"):
            raise ValueError(f"method.keys={self.keys}: choose model, roped or pre_rope")
        if self.reuse is not None and not isinstance(self.reuse, Reuse):
            raise ValueError(f"method.reuse={self.reuse}: give a Reuse or null")
        # All tiers and no others: a tier that the policy never uses would be a mistake in the file.
        wanted = set(self.retention.tiers)
        if set(self.tiers) != wanted:
            names = ", ".join(sorted(wanted)) or "none"
            found = ", ".join(sorted(self.tiers)) or "none"
            raise ValueError(
                f"method.tiers: found {found}, {type(self.retention).__name__} uses {names}"
            )

    def keys_in(self, spec: CacheSpec) -> Literal["roped", "pre_rope"]:
        """Return how this method stores the keys of a model, `roped` or `pre_rope`."""
        # Most methods leave it to the model, so one file serves models of both kinds.
        return spec.keys if self.keys == "model" else self.keys

    def check(self, spec: CacheSpec) -> None:
        """Raise ValueError if a part does not fit the model's geometry or another part."""
        # The tier KEEP is the method itself, so it is not in `tiers`. Its span is the policy's
        # matter, and quantizers do not know spans.
        Tier(self.key, self.value).check(spec)
        self.retention.check(spec)
        for tier in self.tiers.values():
            tier.check(spec)
        if spec.positions == "anchored" or spec.sink_rate:
            self._check_sink(spec)
        if isinstance(self.retention, TokenPolicy):
            self._check_tokens(self.retention, self.keys_in(spec))
        elif getattr(self.retention, "splits", False) and self.keys_in(spec) == "pre_rope":
            # Rotations of whole frames assume that all tokens of a frame lie in order in one page.
            raise ValueError(
                f"method.keys={self.keys}: {type(self.retention).__name__} splits frames, and "
                "tokens of a part cannot be given their positions again: choose roped"
            )

    def _check_sink(self, spec: CacheSpec) -> None:
        """Raise ValueError if the method cannot serve a sink that moves or changes."""
        # The model moves and mixes its sink in whole frames, so every frame needs a page of its
        # own and all of its tokens.
        kind = type(self.retention).__name__
        asked = f"sink_rate={spec.sink_rate:g}" if spec.sink_rate else f"positions={spec.positions}"
        if isinstance(self.retention, TokenPolicy):
            raise ValueError(
                f"model.{asked} treats the sink's frames as wholes, but {kind} picks single "
                "tokens: choose a method that decides over frames"
            )
        spans = [getattr(self.retention, "span", 1), *(tier.span for tier in self.tiers.values())]
        if max(spans) > 1:
            raise ValueError(
                f"model.{asked} treats frames one by one, but {kind} stores {max(spans)} of them "
                "in a page: choose a method whose pages hold one frame"
            )
        if spec.sink_rate and self.keys_in(spec) == "roped":
            raise ValueError(
                f"model.{asked} mixes keys of different frames, which have no common position "
                "when they are roped: choose method.keys=pre_rope"
            )

    def _check_tokens(self, policy: TokenPolicy, keys: str) -> None:
        """Raise ValueError unless quantizers store each token alone, so that one can be picked."""
        # A merged token is a mean of tokens, so these must be comparable and be rounded only once.
        kind = type(policy).__name__
        if policy.rewrites and keys == "roped":
            raise ValueError(
                f"method.keys={self.keys}: {kind} merges tokens of different frames, whose roped "
                "keys have different positions: choose pre_rope"
            )
        for name in ("key", "value"):
            quantizer = getattr(self, name)
            if policy.rewrites and not isinstance(quantizer, Exact):
                raise ValueError(
                    f"method.{name}: {kind} merges tokens, which {type(quantizer).__name__} would "
                    "round again and again: choose harness.api.Exact"
                )
            if not quantizer.per_token:
                raise ValueError(
                    f"method.{name}: {kind} picks single tokens, but {type(quantizer).__name__} "
                    "shares metadata between tokens: choose axis=channels or harness.api.Exact"
                )


def tiers_of(method: Method) -> Mapping[str, Tier]:
    """Return all tiers of a method by name, KEEP first."""
    # KEEP has no entry in a file, so the policy states how many frames share one of its pages.
    policy = method.retention
    span = policy.span if isinstance(policy, FramePolicy) else 1
    return {KEEP: Tier(method.key, method.value, span), **method.tiers}
