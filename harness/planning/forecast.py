"""Predicts storage, memory, time and longest video of one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.api import Method, TokenPolicy
from harness.cache.attention.base import Backend
from harness.cache.attention.by_kernel import ByKernel, unread
from harness.cache.attention.portable import Portable
from harness.models.preset import VideoModel
from harness.planning.history import Simulated, most
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs
from harness.planning.predicted import Forecast, peak
from harness.planning.rates import Ceilings
from harness.planning.roofline import work
from harness.prompts.suite import pixel_frames
from harness.system.units import GIB


@dataclass(frozen=True)
class Setting:
    """The settings that all methods of one table share.

    num_frames: latent frames of a video.
    ceilings: rates of the device; None without a card or a calibration.
    memory_gib: memory that the longest video must fit; None if not given.
    refused: with `method=all`, a sentence for each method that cannot serve the model, by name.
    simulated: simulations that the methods share.
    switches, recached: as in `harness.prompts.suite.Suite`.
    """

    model_name: str
    suite_name: str
    model: VideoModel
    needs: Needs
    num_frames: int
    backend: Backend
    ceilings: Ceilings | None
    memory_gib: float | None
    refused: Mapping[str, str] = field(default_factory=dict)
    simulated: Simulated = field(default_factory=Simulated)
    switches: Sequence[int] = ()
    recached: Sequence[int] = ()


def forecast(name: str, method: Method, setting: Setting) -> Forecast:
    """Predict one method; `method.check(spec)` must have passed."""
    model, num_frames = setting.model, setting.num_frames
    backend, reasons = setting.backend, []
    # Kernels cannot read every storage format; a run uses `portable` then.
    if isinstance(backend, ByKernel) and unread(method):
        backend = Portable()
        reasons.append("attention portable, since no kernel reads what it stores")
    if isinstance(method.retention, TokenPolicy):
        reasons.append("history is the most that its policy keeps of single tokens")
    if method.reuse is not None and method.reuse.feature is not None:
        reasons.append("passes that only a video's drift lets it skip are counted as run")
    budget = Budget(model, setting.needs, method, backend, setting.simulated, len(setting.switches))
    # The study stored the whole video, even where its attention did not reach all of it.
    best, published = Contract(best=True, window=model.window), Contract(best=False, window=None)
    moments, whole = (budget.moments(contract, num_frames) for contract in (best, published))
    # Ratios are of what is stored at the end; memory must hold the most at any time.
    end, held = moments[-1], most(moments)
    stored = budget.stored(end)
    stored_bytes = sum(stored.values())
    # With guidance, BF16 too would store one history per branch.
    bf16 = model.num_histories * model.spec.bf16_frame_bytes
    phases = budget.phases(best, num_frames, held)
    as_published = budget.phases(published, num_frames, most(whole))
    longest = None
    if setting.memory_gib is not None:
        longest = budget.longest(best, int(setting.memory_gib * GIB))
    dit_s = None
    if setting.ceilings is not None:
        histories = budget.histories(best, num_frames)
        done = work(
            model, setting.needs.network, budget.storage, histories, num_frames, backend,
            setting.recached,
        )  # fmt: skip
        dit_s = done.seconds(setting.ceilings)
    return Forecast(
        method=name,
        model=setting.model_name,
        suite=setting.suite_name,
        attention=backend.name,
        contract=best.name,
        num_frames=num_frames,
        video_s=pixel_frames(num_frames, model.first_pixel_frames) / model.fps,
        stored=stored,
        stored_bytes=stored_bytes,
        # Of several histories, the first is the longest and gives the cache its size.
        allocated_bytes=sum(budget.allocated(held, model.loop.histories(num_frames)[0]).values()),
        frames_full=end.full,
        frames_pooled=end.pooled,
        # A loop without history stores nothing, and has no ratio.
        ratio_full_length=bf16 * num_frames / stored_bytes if stored_bytes else None,
        ratio_same_frames=bf16 * (end.full + end.pooled) / stored_bytes if stored_bytes else None,
        best=phases,
        best_peak_bytes=peak(phases),
        published=as_published,
        published_peak_bytes=peak(as_published),
        dit_s=dit_s,
        memory_gib=setting.memory_gib,
        longest_frames=longest,
        longest_s=pixel_frames(longest, model.first_pixel_frames) / model.fps if longest else None,
        reasons=(*setting.needs.reasons, *reasons),
    )
