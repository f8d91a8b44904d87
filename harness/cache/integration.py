"""Integrations: which cache holds the history, and when memory is freed around decoding."""

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
from harness.cache.traffic import Arithmetic, Traffic


class CacheSession(Protocol):
    """Interface of the cache of one video, as sampler and network use it.

    peak_bytes: largest sum of a ledger so far.
    watch: whether the keys and values of the newest commit pass were finite.
    arithmetic: work of the passes so far.
    """

    # A protocol and no base class: `PublishedSession` shares no code with `Session`.
    spec: CacheSpec
    peak_bytes: int
    watch: KeyValueWatch
    arithmetic: Arithmetic

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass over the chunk `frames`.

        stores: what the cache keeps of the pass.
        sees: earlier frames that the pass may attend to; None for all that the window allows.
        """

    def restart(self) -> None:
        """Free the history; the next pass starts a new one at frame 0."""

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the self-attention of one layer [B, H, T, D], in the dtype of q.

        q and k are normed and un-rotated; k and v may have fewer heads (`CacheSpec.num_kv_heads`).
        """

    def ledger(self) -> dict[str, int]:
        """Return the bytes of the tensors that are allocated now, by component."""

    @property
    def traffic(self) -> Traffic:
        """Calls and bytes of encoding into the history and of decoding from it so far."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of the history."""

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the history without metadata, at the nominal bits per value."""

    @property
    def num_frames_held(self) -> float:
        """Frames that attention still reads, full or pooled; mean over layers."""


class Integration(ABC):
    """Where the cache is kept and when memory is freed: one file of `conf/integration/`.

    name: name of the integration in rows and messages.
    shows_active: whether its sessions show chunks that are still being denoised.
    restarts: whether its sessions can start a new history within a video.
    free_before_decode: whether the history and the cross-attention keys and values are freed before
        the latents are decoded.
    stream_decode: whether pixels leave the device one latent frame at a time.
    keep_previous: whether the previous video (decoded, on the device, fp32) and its latents stay
        until the next video replaces them.
    """

    # What a cache can do is fixed by its class; when memory is freed is a setting of its file.
    name: ClassVar[str]
    shows_active: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    free_before_decode: bool
    stream_decode: bool
    keep_previous: bool

    def check(self, spec: CacheSpec, method: Method) -> None:  # noqa: B027  most serve everything
        """Raise ValueError, before anything is generated, if it cannot serve model or method."""

    def resolve(
        self, attention: Auto | Backend, spec: CacheSpec, method: Method, device: torch.device
    ) -> Backend:
        """Return the backend that will run, which rows record, for the requested `attention`.

        Raises  UserError or ValueError: the backend cannot run on this machine, with this method,
                or in this integration.
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
        """Return an empty cache for a video of `num_frames` latent frames.

        positions: the network's (`Network.positions`); None for those of the Wan networks.
        """


@dataclass(frozen=True)
class Packed(Integration):
    """Encodes each token once, stores it packed, and attends to the packed history in place."""

    # Best practice: history is freed before decoding, pixels leave as they come, no video stays.
    free_before_decode: bool = True
    stream_decode: bool = True
    keep_previous: bool = False
    name: ClassVar[str] = "packed"
    shows_active: ClassVar[bool] = True
    restarts: ClassVar[bool] = True

    def check(self, spec: CacheSpec, method: Method) -> None:
        """Raise ValueError if the method does not store whole pages of one size."""
        policy = method.retention
        # Every page of a tier has the same number of tokens, so that the next page may take the
        # slot of one that was freed.
        if isinstance(policy, FramePolicy) and policy.uneven:
            raise ValueError(
                f"integration=packed keeps pages of one size, but {type(policy).__name__} splits "
                "frames unevenly or again and again: choose integration=published_int8"
            )
        # Attention decodes some heads at a time, and the layer frees single frames.
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
        """Return an empty `Session`."""
        return Session(spec, method, backend, num_frames, device, positions)
