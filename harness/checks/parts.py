"""Builds the parts of a configuration, without weights, and checks that they fit together.

Runs, dry runs and plans all use this, so that none of them accepts what another refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Method, TokenPolicy
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.integration import Integration, Packed
from harness.cache.session import sized
from harness.models.preset import VideoModel
from harness.results.run import Run
from harness.sampling.diffusion_forcing import DiffusionForcing
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
        # Each part alone is valid here; what remains is whether they serve each other.
        demand_fit(parts.model, parts.method, parts.integration, run.suite.num_frames)
        if run.suite.switches:
            demand_switches(parts.model, parts.method, parts.integration, run.suite.recache)
        return parts


def demand_fit(
    model: VideoModel, method: Method, integration: Integration, num_frames: int
) -> None:
    """Raise ValueError if method or integration cannot serve the model at this length.

    num_frames: latent frames of the video.
    """
    spec = model.spec
    # The policy is checked as it will run: sized for the longest history of the video.
    method.check(spec)
    sized(method, spec, model.loop.histories(num_frames)[0]).check(spec)
    integration.check(spec, method)
    model.loop.check(integration, method, model.decoder, model.guidance)
    # Called only because it raises for a length or chunk that the order of passes cannot split.
    model.loop.parts(0, num_frames, model.chunk_frames)
    if method.reuse is not None:
        # The first chunk may have other steps than the rest, so the fewer of both must do.
        method.reuse.check(min(len(model.schedule.times(first)) for first in (True, False)))


def demand_switches(
    model: VideoModel, method: Method, integration: Integration, recache: bool
) -> None:
    """Raise ValueError if a video cannot change its prompt with these parts.

    recache: whether the history is computed again there.
    """
    # A pass has one text, so the chunks of a pass must all belong to one prompt.
    loop = model.loop
    joint = isinstance(loop, DiffusionForcing) and loop.execution != "chunk_causal"
    if loop.joint or joint:
        raise ValueError(
            f"model.loop={loop} shows chunks of two prompts in one pass, which reads one text: "
            "choose a model that denoises chunk by chunk, or a suite without switches"
        )
    # Without `recache` the history stays as it is, and every cache can do that.
    if not recache:
        return
    if model.spec.under_way > 1 or loop.frames is not None:
        raise ValueError(
            "suite.recache=true computes one history again while no chunk is unfinished, but "
            f"model.loop={loop} shares it with unfinished chunks or starts new ones: choose "
            "suite.recache=false"
        )
    if not isinstance(integration, Packed):
        raise ValueError(
            f"integration={integration.name} cannot compute its history again: choose "
            "integration=packed or suite.recache=false"
        )
    if model.sink and isinstance(method.retention, TokenPolicy):
        raise ValueError(
            f"suite.recache=true keeps the model's sink of {model.sink} frames, of which "
            f"{type(method.retention).__name__} keeps other tokens in every head: choose a method "
            "that keeps frames, model.sink=0 or suite.recache=false"
        )
