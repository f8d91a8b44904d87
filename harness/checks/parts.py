"""Builds the parts of a configuration, without weights, and checks that they fit together.

Runs, dry runs and plans all use this, so that none of them accepts what another refuses.
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
    """The parts of a run. `attention` may still be `Auto`, which is resolved on the device."""

    model: VideoModel
    method: Method
    integration: Integration
    attention: Auto | Backend

    @classmethod
    def of(cls, run: Run) -> Parts:
        """Build the parts of a run.

        Raises  InstantiationException, UserError, ValueError: a part refuses its settings, or the
                parts do not fit together.
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
    """Raise ValueError if method or integration cannot serve the model at this length.

    num_frames: latent frames of the video.
    """
    spec = model.spec
    method.check(spec)
    sized(method, spec, model.loop.histories(num_frames)[0]).check(spec)
    integration.check(spec, method)
    model.loop.check(integration, method, model.decoder, model.guidance)
    model.loop.parts(0, num_frames, model.chunk_frames)
    if method.reuse is not None:
        method.reuse.check(min(len(model.schedule.times(first)) for first in (True, False)))
