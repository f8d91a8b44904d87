"""How a method is built into generation: what holds the history, and what lives how long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from harness.api import CacheSpec, FramePolicy, Method, Stores
from harness.api.method import tiers_of
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.layer import Plan
from harness.cache.numerics import KeyValueWatch
from harness.cache.positions import Positions
from harness.cache.session import Session


class CacheSession(Protocol):
    """What sampler and network ask of whatever holds the history of one video."""

    spec: CacheSpec
    peak_bytes: int
    watch: KeyValueWatch  # has seen what the last commit pass stored

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass over the chunk `frames`.

        stores: what is kept of it. sees: the earlier frames that it may attend to; None for all
        that the window allows.
        """

    def restart(self) -> None:
        """Forget everything: the next pass starts a history at frame 0."""

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Self-attention of one layer; output as q [B, H, T, D].

        q and k are normed and un-rotated; k and v may have fewer heads (`CacheSpec.num_kv_heads`).
        """

    def ledger(self) -> dict[str, int]:
        """Bytes of the tensors held now, by what they are."""

    @property
    def stored_bytes(self) -> int:
        """Bytes that history occupies."""

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone, as a bit width is usually quoted."""

    @property
    def num_frames_held(self) -> float:
        """Frames that still have a place in the attention; mean over layers."""


class Integration(ABC):
    """One file of `conf/integration/`.

    free_before_decode: history and cross-attention keys and values are gone before the latents
    are decoded. stream_decode: pixel frames leave the device one latent frame at a time.
    keep_previous: the previous video, decoded on the device in fp32, and its latents stay until
    the next one replaces them.
    """

    name: ClassVar[str]
    free_before_decode: bool
    stream_decode: bool
    keep_previous: bool

    def check(self, spec: CacheSpec, method: Method) -> None:  # noqa: B027  most serve everything
        """Raise ValueError, before anything is generated, if model or method cannot be served."""

    def resolve(
        self, attention: Auto | Backend, spec: CacheSpec, method: Method, device: torch.device
    ) -> Backend:
        """The backend that will run and that rows name; asked for is `attention`.

        Raises  UserError or ValueError: it cannot run here, or not in this integration.
        """
        return attention.resolve(spec, method, device)

    @abstractmethod
    def session(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
        positions: Positions | None = None,
    ) -> CacheSession:
        """An empty cache for a video of `num_frames`; positions as for `Session`."""


@dataclass(frozen=True)
class Packed(Integration):
    """Each token is encoded once, stored packed, and attended without rebuilding the history."""

    free_before_decode: bool = True
    stream_decode: bool = True
    keep_previous: bool = False
    name: ClassVar[str] = "packed"

    def check(self, spec: CacheSpec, method: Method) -> None:
        """History is read by heads and frames, from pages of one size."""
        policy = method.retention
        if isinstance(policy, FramePolicy) and policy.uneven:
            raise ValueError(
                f"integration=packed keeps pages of one size, but {type(policy).__name__} splits "
                "frames unevenly or again and again: choose integration=published_int8"
            )
        for tier in tiers_of(method).values():
            for quantizer in (tier.key, tier.value):
                if not quantizer.paged:
                    raise ValueError(
                        f"integration=packed reads heads and frames alone, but what "
                        f"{type(quantizer).__name__} stores is one piece: choose "
                        "integration=published_int8"
                    )

    def session(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
        positions: Positions | None = None,
    ) -> Session:
        """The cache of `harness.cache.session`."""
        return Session(spec, method, backend, num_frames, device, positions)
