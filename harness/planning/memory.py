"""Memory by component and phase under two contracts that are never mixed, and the longest video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.api import CacheSpec, Exact, Method, Tier
from harness.cache.attention.base import Backend
from harness.cache.stored_bytes import tier_bytes
from harness.models.preset import DTYPES, VideoModel
from harness.planning.history import Growth, Moment, video
from harness.planning.model_needs import Needs
from harness.planning.storage import Storage
from harness.prompts.suite import MAX_SECONDS, TEMPORAL_STRIDE, pixel_frames
from harness.results.observation import PHASES

Sizes = dict[str, int | None]  # None: unknown, with a reason beside it


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
        """No video is simulated yet."""
        self.model, self.needs, self.method, self.backend = model, needs, method, backend
        self.dtype = DTYPES[model.dtype]
        self.storage = Storage(model.spec, method, self.dtype)
        self.branches = model.num_branches  # each has a history, a text and a scratch of its own
        self._histories: dict[tuple[CacheSpec, int], list[list[Moment]]] = {}

    def spec(self, contract: Contract) -> CacheSpec:
        """The geometry under a contract's window."""
        return replace(self.model.spec, window=contract.window)

    def histories(self, contract: Contract, num_frames: int) -> list[list[Moment]]:
        """The chunks of every history of a video; each has a cache made for the longest."""
        asked = self.spec(contract), num_frames
        if asked not in self._histories:
            lengths = self.model.loop.histories(num_frames)
            of = {n: video(asked[0], self.method, lengths[0], end=n) for n in set(lengths)}
            self._histories[asked] = [of[n] for n in lengths]
        return self._histories[asked]

    def moments(self, contract: Contract, num_frames: int) -> list[Moment]:
        """All chunks of a video."""
        return [moment for each in self.histories(contract, num_frames) for moment in each]

    def stored(self, moment: Moment) -> dict[str, int]:
        """Bytes of the history that a chunk leaves, by what they are; all branches together."""
        held = {name: count.held for name, count in moment.tiers.items()}
        return self._of_branches(self.storage.history(held, moment.parts, moment.frames.stop))

    def allocated(self, held: Moment, num_frames: int) -> dict[str, int]:
        """Bytes of history with the room that is taken for it, by what they are; all branches."""
        room = {name: count.room for name, count in held.tiers.items()}
        return self._of_branches(self.storage.history(room, held.parts, num_frames))

    def active(self, num_frames: int) -> Sizes:
        """Bytes of exact keys and values of chunks that are still being denoised; all branches."""
        model = self.model
        frames = model.loop.active_frames(model.schedule, num_frames, model.chunk_frames)
        exact = sum(tier_bytes(Tier(Exact(), Exact()), model.spec, self.dtype).values())
        return {"active": self.branches * frames * exact} if frames else {}

    def phases(self, contract: Contract, num_frames: int, held: Moment) -> dict[str, Sizes]:
        """Components of every phase at its largest moment, for what is held at most."""
        network, lengths = self.needs.network, self.model.loop.histories(num_frames)
        base: Sizes = {"network": network.weight_bytes}
        decoder: Sizes = {"decoder": self.needs.decoder_bytes}
        resident: Sizes = {"text K/V": self.branches * network.text_kv_bytes}
        resident |= self.allocated(held, lengths[0])
        latents = lengths[0] * _latent_bytes(self.model)
        running = {**base, **decoder, **resident, **self.active(num_frames), "latents": latents}
        running["scratch"] = self._scratch(contract, held)
        decode = {**base, **decoder, **({} if contract.best else resident)}
        if len(lengths) > 1:  # the next history wants the prompt's, when the last is decoded
            decode["text K/V"] = self.branches * network.text_kv_bytes
        decode["latents"] = 2 * latents  # the chunks' and their concatenation
        decode["activations"] = self._decode(contract, num_frames)
        if not contract.best:
            for phase in (running, decode):
                phase["previous video"] = _previous_bytes(self.model, num_frames)
        commit = network.commit_bytes(self.storage.storing_bytes(held))
        return {
            "text": {**base, "text encoder": self.needs.text_bytes},
            "denoise": {**running, **self._residual(), "activations": network.pass_bytes},
            "commit": {**running, "activations": commit},
            "decode": decode,
        }

    def longest(self, contract: Contract, limit_bytes: int) -> int | None:
        """Latent frames of the longest video that fits; 0 if none does, None if unknown.

        Found by halving, since memory never falls with length; the end is a day of video.
        """
        chunk = self.model.chunk_frames
        growth = Growth(self.spec(contract), self.method)
        low, high = 0, MAX_SECONDS * self.model.fps // TEMPORAL_STRIDE // chunk
        while low < high:
            middle = (low + high + 1) // 2
            num_frames = middle * chunk
            held = growth.held(self.model.loop.histories(num_frames)[0])
            phases = self.phases(contract, num_frames, held)
            taken = largest(*phases.values())
            if taken is None:
                return None
            low, high = (middle, high) if taken <= limit_bytes else (low, middle - 1)
        return low * chunk

    def _residual(self) -> Sizes:
        """What a reuse policy keeps between denoising passes: tokens [T, dim] of the last pass, of
        this one, and what the blocks added to them.
        """
        if self.method.reuse is None:
            return {}
        num_tokens = self.model.chunk_frames * self.model.spec.tokens_per_frame
        return {
            "residual": self.branches * 3 * num_tokens * self.model.dims.dim * self.dtype.itemsize
        }

    def _scratch(self, contract: Contract, held: Moment) -> int:
        spec = self.spec(contract)
        tokens = math.ceil(held.tokens) + spec.chunk_frames * spec.tokens_per_frame
        return self.branches * self.backend.scratch_bytes(spec, tokens, self.dtype.itemsize)

    def _of_branches(self, sizes: dict[str, int]) -> dict[str, int]:
        return {name: self.branches * size for name, size in sizes.items()}

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
