"""Memory by component and phase under two contracts that are never mixed, and the longest video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.api import CacheSpec, Method
from harness.attention.base import Backend
from harness.models.model import DTYPES, VideoModel
from harness.plan.history import Growth, Held, Moment, video
from harness.plan.storage import FrameBytes, frame_bytes
from harness.plan.workload import Needs, activations
from harness.suites import MAX_SECONDS, TEMPORAL_STRIDE, pixel_frames

Sizes = dict[str, int | None]  # None: unknown, with a reason beside it
PHASES = ("text", "denoise", "commit", "decode")


@dataclass(frozen=True)
class Contract:
    """What happens around generation, as opposed to what the method does.

    window: of the model, in frames; None keeps the whole video. best: free history and the
    prompt's keys and values before decoding, decode frame by frame, move each frame off the
    device. Else: as the published study ran, one decode of the whole video with everything
    resident and the previous prompt's video and latents still referenced.
    """

    best: bool
    window: int | None

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"window{self.window}" if self.window else "full"


def total(sizes: Sizes) -> int | None:
    """The sum; unknown if a part is."""
    known = [size for size in sizes.values() if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def peak(phases: Mapping[str, Sizes]) -> int | None:
    """The largest of denoise, commit and decode; text is apart, as in measured rows."""
    return largest(*(phases[name] for name in PHASES if name != "text"))


def largest(*phases: Sizes) -> int | None:
    """The sum of the largest phase; unknown if one is."""
    totals = [total(sizes) for sizes in phases]
    known = [size for size in totals if size is not None]
    return max(known) if len(known) == len(totals) else None


class Budget:
    """The memory of one method on one model, at any length of video."""

    def __init__(self, model: VideoModel, needs: Needs, method: Method, backend: Backend) -> None:
        """Trace what does not depend on the length."""
        self.model, self.needs, self.method, self.backend = model, needs, method, backend
        self.dtype = DTYPES[model.dtype]
        self.frame: FrameBytes = frame_bytes(model.spec, method, self.dtype)
        self.pass_bytes = activations(model, method, commit=False)
        self.commit_bytes = self._commit_bytes()

    def spec(self, contract: Contract) -> CacheSpec:
        """The geometry under a contract's window."""
        return replace(self.model.spec, window=contract.window)

    def moments(self, contract: Contract, num_frames: int) -> list[Moment]:
        """The chunks of a video."""
        return video(self.spec(contract), self.method.retention, num_frames)

    def history(self, full: int, pooled: int, num_frames: int) -> dict[str, int]:
        """Bytes of history by what they are, for so many frames in full and pooled."""
        parts = {name: full * size for name, size in self.frame.parts.items()}
        parts |= {"pooled": pooled * self.frame.pooled, "notes": num_frames * self.frame.note}
        return {name: size for name, size in parts.items() if size}

    def phases(self, contract: Contract, num_frames: int, held: Held) -> dict[str, Sizes]:
        """Components of every phase at its largest moment, for what is held at most."""
        base: Sizes = {"network": self.needs.network.weight_bytes}
        decoder: Sizes = {"decoder": self.needs.decoder_bytes}
        resident: Sizes = {"text K/V": self.needs.network.text_kv_bytes}
        resident |= self.history(held.full, held.pooled, num_frames)
        latents = num_frames * _latent_bytes(self.model)
        running = {**base, **decoder, **resident, "latents": latents}
        running["scratch"] = self._scratch(contract, held)
        decode = {**base, **decoder, **({} if contract.best else resident)}
        decode["latents"] = 2 * latents  # the chunks' and their concatenation
        decode["activations"] = self._decode(contract, num_frames)
        if not contract.best:
            for phase in (running, decode):
                phase["previous video"] = _previous_bytes(self.model, num_frames)
        return {
            "text": {**base, "text encoder": self.needs.text_bytes},
            "denoise": {**running, "activations": self.pass_bytes},
            "commit": {**running, "activations": self.commit_bytes},
            "decode": decode,
        }

    def longest(self, contract: Contract, limit_bytes: int) -> int | None:
        """Latent frames of the longest video that fits; 0 if none does, None if unknown.

        Found by halving, since memory never falls with length; the end is a day of video.
        """
        chunk = self.model.chunk_frames
        growth = Growth(self.spec(contract), self.method.retention)
        low, high = 0, MAX_SECONDS * self.model.fps // TEMPORAL_STRIDE // chunk
        while low < high:
            middle = (low + high + 1) // 2
            num_frames = middle * chunk
            phases = self.phases(contract, num_frames, growth.held(num_frames))
            taken = largest(*phases.values())
            if taken is None:
                return None
            low, high = (middle, high) if taken <= limit_bytes else (low, middle - 1)
        return low * chunk

    def _commit_bytes(self) -> int:
        """A quantizer that looks at values cannot be traced: its pass is taken without it."""
        try:
            return activations(self.model, self.method, commit=True)
        except (NotImplementedError, RuntimeError):
            return self.pass_bytes

    def _scratch(self, contract: Contract, held: Held) -> int:
        spec = self.spec(contract)
        frames = held.seen_full + spec.chunk_frames
        tokens = frames * spec.tokens_per_frame + held.seen_pooled
        return self.backend.scratch_bytes(spec, tokens, self.dtype.itemsize)

    def _decode(self, contract: Contract, num_frames: int) -> int | None:
        if self.needs.decoding is None:
            return None
        streamed = self.needs.decoding.streamed_bytes
        return streamed if contract.best else self.needs.decoding.whole_bytes(num_frames)


def _latent_bytes(model: VideoModel) -> int:
    """One latent frame on the device."""
    _, channels, height, width = model.latent_shape(1)
    return channels * height * width * DTYPES[model.dtype].itemsize


def _previous_bytes(model: VideoModel, num_frames: int) -> int:
    """The previous prompt's video in fp32 and its latents, still referenced."""
    _, width = getattr(model.decoder, "stride", (TEMPORAL_STRIDE, 8))
    height, columns = (width * side for side in model.latent_size)
    video_bytes = pixel_frames(num_frames) * 3 * height * columns * 4
    return video_bytes + num_frames * _latent_bytes(model)
