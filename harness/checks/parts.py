"""Builds the parts that a configuration names, without weights, and checks that they fit.

Runs, dry runs and plans all use this, so that none accepts what another refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.integration import Integration
from harness.cache.session import sized
from harness.models.preset import VideoModel
from harness.results.run import Run
from harness.system.typed import build


@dataclass(frozen=True)
class Parts:
    """What a run is made of; `attention` as asked for, before a device decides."""

    model: VideoModel
    method: Method
    integration: Integration
    attention: Auto | Backend

    @classmethod
    def of(cls, run: Run) -> Parts:
        """Build those of a run.

        Raises  InstantiationException, UserError, ValueError: a part that refuses its settings, or
                parts that do not fit each other.
        """
        parts = cls(
            method=build("method", run.method, Method),
            model=build("model", run.model, VideoModel),
            integration=build("integration", run.integration, Integration),
            attention=build("attention", run.attention, Auto, Backend),
        )
        demand_fit(parts.model, parts.method, parts.integration, run.suite.num_frames)
        return parts


def demand_fit(
    model: VideoModel, method: Method, integration: Integration, num_frames: int
) -> None:
    """Raise ValueError where a model cannot be served, or a video of so many frames."""
    spec = model.spec
    method.check(spec)
    sized(method, spec, model.loop.histories(num_frames)[0]).check(spec)
    integration.check(spec, method)
    model.loop.check(integration, method, model.decoder)
