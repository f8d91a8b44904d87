"""One method's prediction, gathered."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Method, TokenPolicy
from harness.cache.attention.base import Backend
from harness.cache.attention.by_kernel import ByKernel, unread
from harness.cache.attention.portable import Portable
from harness.models.preset import VideoModel
from harness.planning.history import most
from harness.planning.memory import Budget, Contract, Sizes, peak
from harness.planning.model_needs import Needs
from harness.planning.roofline import Ceilings, work
from harness.prompts.suite import pixel_frames
from harness.system.units import GIB


@dataclass(frozen=True)
class Setting:
    """What all methods of one table share.

    ceilings: None without a card or a calibration. memory_gib: of the card that the longest video
    must fit; None if nobody said. refused: methods that cannot serve the model, and why, where all
    were asked for.
    """

    model_name: str
    suite_name: str
    model: VideoModel
    needs: Needs
    num_frames: int
    backend: Backend
    ceilings: Ceilings | None
    memory_gib: float | None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What a run will take, before anything of it runs; None where unknown, see `reasons`.

    stored: history at the end of the video. allocated: room for the most that is ever held.
    Ratios: BF16 bytes of the whole video, or of the frames that still have a place in attention,
    over the bytes stored. frames_full: in any tier but the pooled one, mean over layers; of single
    tokens as many as make so many frames. best and published: bytes by phase and component under
    the two contracts; their peaks leave text out. dit_s: all passes of the network, no text, no
    decode.
    """

    method: str
    model: str
    suite: str
    attention: str
    contract: str
    num_frames: int
    video_s: float
    stored: dict[str, int]
    stored_bytes: int
    allocated_bytes: int
    frames_full: float
    frames_pooled: float
    ratio_full_length: float
    ratio_same_frames: float
    best: dict[str, Sizes]
    best_peak_bytes: int | None
    published: dict[str, Sizes]
    published_peak_bytes: int | None
    dit_s: float | None
    memory_gib: float | None
    longest_frames: int | None
    longest_s: float | None
    reasons: tuple[str, ...]


def forecast(name: str, method: Method, setting: Setting) -> Forecast:
    """Predict one method, which has passed `method.check(spec)`."""
    model, num_frames = setting.model, setting.num_frames
    backend, reasons = _backend(method, setting)
    budget = Budget(model, setting.needs, method, backend)
    best, published = Contract(best=True, window=model.window), Contract(best=False, window=None)
    moments, whole = (budget.moments(contract, num_frames) for contract in (best, published))
    end, held = moments[-1], most(moments)
    stored = budget.stored(end)
    bf16 = model.num_branches * model.spec.bf16_frame_bytes
    phases = budget.phases(best, num_frames, held)
    as_published = budget.phases(published, num_frames, most(whole))
    longest = None
    if setting.memory_gib is not None:
        longest = budget.longest(best, int(setting.memory_gib * GIB))
    dit_s = None
    if setting.ceilings is not None:
        histories = budget.histories(best, num_frames)
        done = work(model, setting.needs.network, budget.storage, histories, num_frames, backend)
        dit_s = done.seconds(setting.ceilings)
    return Forecast(
        method=name,
        model=setting.model_name,
        suite=setting.suite_name,
        attention=backend.name,
        contract=best.name,
        num_frames=num_frames,
        video_s=pixel_frames(num_frames) / model.fps,
        stored=stored,
        stored_bytes=sum(stored.values()),
        allocated_bytes=sum(budget.allocated(held, model.loop.histories(num_frames)[0]).values()),
        frames_full=end.full,
        frames_pooled=end.pooled,
        ratio_full_length=bf16 * num_frames / sum(stored.values()),
        ratio_same_frames=bf16 * (end.full + end.pooled) / sum(stored.values()),
        best=phases,
        best_peak_bytes=peak(phases),
        published=as_published,
        published_peak_bytes=peak(as_published),
        dit_s=dit_s,
        memory_gib=setting.memory_gib,
        longest_frames=longest,
        longest_s=pixel_frames(longest) / model.fps if longest else None,
        reasons=(*setting.needs.reasons, *reasons),
    )


def _backend(method: Method, setting: Setting) -> tuple[Backend, list[str]]:
    """Kernels do not read everything; what a plan must say of that and of passes not run."""
    backend, reasons = setting.backend, []
    if isinstance(backend, ByKernel) and unread(method):
        backend = Portable()
        reasons.append("attention portable, since no kernel reads what it stores")
    if isinstance(method.retention, TokenPolicy):
        reasons.append("history is the most that its policy keeps of single tokens")
    if method.reuse is not None:
        reasons.append("passes that only a video's drift lets it skip are counted as run")
    return backend, reasons
