"""The published integration that `conf/integration` describes, and its attention backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, FramePolicy, Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.attention.dense import attend_plain
from harness.cache.compiled import softmax
from harness.cache.integration import Integration
from harness.cache.positions import Positions, Rope
from harness.cache.published.layer import Layer
from harness.cache.published.program import Program
from harness.cache.published.session import PublishedSession
from harness.cache.session import sized


@dataclass(frozen=True)
class Dense(Backend):
    """Dense attention over tensors that the session has decoded; takes no packed history."""

    name: ClassVar[str] = "published dense"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """Return this backend, and load what it attends with on this device."""
        if device.type == "cpu":
            softmax.prepare()
        return self

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend by the device's fastest kernel; `history` must be empty."""
        assert not history
        return attend_plain(q_BHTD, k_BHTD, v_BHTD)


@dataclass(frozen=True)
class Published(Program, Integration):
    """Decodes the cache, attends densely and encodes it again, as one of the study's programs."""

    # As published: history in memory while the whole video is decoded at once, beside the last one.
    free_before_decode: bool = False
    stream_decode: bool = False
    keep_previous: bool = True
    name: ClassVar[str] = "published"

    def check(self, spec: CacheSpec, method: Method) -> None:
        """Check that keys are roped at absolute positions, without a sink, and check the policy.

        Raises  ValueError: a model or method that it cannot serve.
        """
        # The study's program knows no others.
        found = {"sink": spec.sink, "positions": spec.positions, "keys": method.keys_in(spec)}
        served = {"sink": 0, "positions": "absolute", "keys": "roped"}
        for name, value in found.items():
            if value != served[name]:
                raise ValueError(
                    f"integration=published cannot serve {name}={value}, only {served[name]}: "
                    "choose integration=packed"
                )
        self._policy(method)

    def resolve(
        self, attention: Auto | Backend, spec: CacheSpec, method: Method, device: torch.device
    ) -> Backend:
        """Return `Dense`; backends for packed history cannot read this cache.

        Raises  ValueError: another backend than `auto` is asked for.
        """
        if not isinstance(attention, Auto):
            raise ValueError(
                f"integration=published cannot use attention={attention.name}, it attends "
                "densely: leave attention=auto or choose integration=packed"
            )
        return Dense().resolve(spec, method, device)

    def session(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
        positions: Positions | None = None,
    ) -> PublishedSession:
        """Return an empty cache with room for the whole video, whatever the model's window."""
        self._policy(method)  # raises for a policy that it cannot serve
        # A policy with a budget gets its size here, from the bytes of packed storage: budgets mean
        # the same in all integrations.
        policy = sized(method, spec, num_frames)
        assert isinstance(policy, FramePolicy)
        layers = [
            Layer(self, method, policy, spec, num_frames, layer) for layer in range(spec.num_layers)
        ]
        positions = positions or Rope(spec.head_dim, spec.grid, device)
        return PublishedSession(spec, method, backend, layers, positions)

    @staticmethod
    def _policy(method: Method) -> FramePolicy:
        """Return the method's policy.

        Raises  ValueError: it decides over tokens or needs measured attention.
        """
        policy = method.retention
        kind = type(policy).__name__
        if not isinstance(policy, FramePolicy):
            raise ValueError(
                f"integration=published cannot serve {kind}, which decides over single tokens: "
                "choose integration=packed"
            )
        if policy.queries:
            raise ValueError(
                f"integration=published cannot serve {kind}, which measures attention: choose "
                "integration=packed"
            )
        return policy
