"""A method under test: built from its configuration and run on the tiny network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from harness.api import CacheSpec, Exact, Method, Tier
from harness.api.method import tiers_of
from harness.cache.attention.auto import Auto
from harness.cache.integration import CacheSession, Integration, Packed
from harness.checks.tiny_network import CPU, spec, video
from harness.config.compose import REFERENCE
from harness.system.paths import CONF
from harness.system.typed import build

NUM_FRAMES = 17  # five chunks and two frames, so that bundled windows of 12 frames evict some


@dataclass(frozen=True)
class Subject:
    """A method under test: its name, and the resolved configuration with its integration."""

    name: str
    config: Mapping[str, Any]

    @cached_property
    def method(self) -> Method:
        """The instance that all contracts share."""
        # It makes several videos, so data of finished videos that it still holds shows up.
        return self.build()

    def build(self) -> Method:
        """Build a new instance of the method."""
        method: Method = build("method", self.config["method"], Method)
        return method

    @cached_property
    def integration(self) -> Integration:
        """The integration of its configuration."""
        integration: Integration = build("integration", self.config["integration"])
        return integration

    @property
    def packed(self) -> bool:
        """Whether its cache is `harness.cache.session.Session`."""
        return isinstance(self.integration, Packed)

    def page(self, span: int) -> tuple[int, int]:
        """Return how quantizers get three spans of frames: the number of pages, frames in each."""
        # The published integration encodes all tokens as one page.
        return (3, span) if self.packed else (1, 3)

    def session(
        self, method: Method, num_frames: int = NUM_FRAMES, shape: CacheSpec | None = None
    ) -> CacheSession:
        """Return an empty cache for a video, built as a run does it.

        Raises  ValueError: method or integration cannot serve the geometry.
        """
        # The checks of a run, in its order: a refusal must come before anything is generated.
        shape = shape or spec()
        method.check(shape)
        self.integration.check(shape, method)
        backend = self.integration.resolve(Auto(), shape, method, CPU)
        return self.integration.session(shape, method, backend, num_frames, CPU)

    def run(self, method: Method, prompt: int = 0) -> tuple[Tensor, CacheSession]:
        """Generate one video; return its latents [B, F, C, h, w] and its cache."""
        session = self.session(method)
        return video(session, NUM_FRAMES, prompt, reuse=method.reuse), session

    @cached_property
    def first(self) -> tuple[Tensor, CacheSession]:
        """The first video of the shared instance, with its cache."""
        return self.run(self.method)

    @cached_property
    def second(self) -> Tensor:
        """Latents of the first video from a new instance, which has made another video before."""
        method = self.build()
        self.run(method, prompt=1)
        return self.run(method)[0]

    @property
    def reference(self) -> Tensor:
        """Latents of the same video in BF16, under the same integration."""
        return _reference(json.dumps(self.config["integration"], sort_keys=True))

    @property
    def tiers(self) -> Mapping[str, Tier]:
        """All tiers of the method, KEEP first."""
        return tiers_of(self.method)

    @property
    def exact(self) -> bool:
        """Whether all quantizers store exact values."""
        parts = (part for tier in self.tiers.values() for part in (tier.key, tier.value))
        return all(isinstance(part, Exact) for part in parts)


@cache
def _reference(integration: str) -> Tensor:
    # Cached: all methods of one command are compared with the same video. Read without Hydra: the
    # file of BF16 extends no other.
    path = CONF / "method" / f"{REFERENCE}.yaml"
    method = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    subject = Subject(REFERENCE, {"method": method, "integration": json.loads(integration)})
    return subject.first[0]
