"""Predicts memory by component and phase, and the longest video that fits.

There are two contracts, best practice and as published; their numbers are never mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from harness.api import CacheSpec, Exact, Method, Tier
from harness.cache.attention.base import Backend
from harness.cache.stored_bytes import tier_bytes
from harness.models.preset import DTYPES, VideoModel
from harness.planning.history import NOTHING, Moment, Simulated
from harness.planning.model_needs import Needs
from harness.planning.predicted import Sizes, largest
from harness.planning.storage import Storage
from harness.prompts.suite import MAX_SECONDS, TEMPORAL_STRIDE, pixel_frames
from harness.sampling.passes import chunks


@dataclass(frozen=True)
class Contract:
    """When memory is released around decoding, and how far attention reaches.

    best: True frees the history and the prompt's keys and values before decoding, decodes frame by
    frame, and moves each frame off the device. False does as the published study: it decodes the
    whole video at once with everything resident, and the video and latents of the previous prompt
    are still referenced.
    window: the model's attention window in frames; None for the whole video.
    """

    best: bool
    window: int | None

    @property
    def name(self) -> str:
        """The name of the attention window in tables."""
        return f"window{self.window}" if self.window else "full"


class Budget:
    """Predicts the memory of one method on one model, for videos of any length."""

    def __init__(
        self,
        model: VideoModel,
        needs: Needs,
        method: Method,
        backend: Backend,
        simulated: Simulated | None = None,
        num_switches: int = 0,
    ) -> None:
        """Count what the method stores; videos are simulated when they are asked for.

        simulated: simulations to share with the budgets of other methods.
        num_switches: how often a video's prompt changes; the texts of all its prompts are held.
        """
        self.num_switches = num_switches
        self.model, self.needs, self.method, self.backend = model, needs, method, backend
        self.simulated = simulated or Simulated()
        self.dtype = DTYPES[model.dtype]
        self.storage = Storage(model.spec, method, self.dtype)
        self.branches = model.num_histories  # of guidance; each has its own history and scratch
        self._histories: dict[tuple[CacheSpec, int], list[list[Moment]]] = {}

    def spec(self, contract: Contract) -> CacheSpec:
        """Return the model's geometry with the contract's window."""
        return replace(self.model.spec, window=contract.window)

    def histories(self, contract: Contract, num_frames: int) -> list[list[Moment]]:
        """Return the chunks of each history of a video; a loop may start several, one by one."""
        asked = self.spec(contract), num_frames
        if asked not in self._histories:
            lengths = self.model.loop.histories(num_frames)
            # Frames that are denoised together in one pass attend to each other, not to a cache.
            if not self.model.loop.keeps_history:
                size = self.model.chunk_frames
                return [
                    [replace(NOTHING, frames=part) for part in chunks(n, size)] for n in lengths
                ]
            simulate = self.simulated.video
            # A shorter last history still gets a cache of the size of the longest.
            of = {n: simulate(asked[0], self.method, lengths[0], end=n) for n in set(lengths)}
            self._histories[asked] = [of[n] for n in lengths]
        return self._histories[asked]

    def moments(self, contract: Contract, num_frames: int) -> list[Moment]:
        """Return all chunks of a video."""
        return [moment for each in self.histories(contract, num_frames) for moment in each]

    def stored(self, moment: Moment) -> dict[str, int]:
        """Return the bytes of history after a chunk by component, summed over branches."""
        held = {name: count.held for name, count in moment.tiers.items()}
        return self._of_branches(self.storage.history(held, moment.parts, moment.frames.stop))

    def allocated(self, held: Moment, num_frames: int) -> dict[str, int]:
        """Return the bytes allocated for history by component, summed over branches."""
        room = {name: count.room for name, count in held.tiers.items()}
        return self._of_branches(self.storage.history(room, held.parts, num_frames))

    def active(self, num_frames: int) -> Sizes:
        """Return the bytes of exact K/V of chunks still being denoised, summed over branches."""
        model = self.model
        frames = model.loop.active_frames(model.schedule, num_frames, model.chunk_frames)
        exact = sum(tier_bytes(Tier(Exact(), Exact()), model.spec, self.dtype).values())
        # A branch that reads the cache of another stores a chunk of its own while it is noisy.
        storing = sum(role.cache != "none" for role in model.roles)
        return {"active": storing * frames * exact} if frames else {}

    def texts(self, num_frames: int) -> int:
        """Return the bytes of the cross-attention keys and values of all texts of a video."""
        num_chunks = -(-num_frames // self.model.chunk_frames)
        prompts, names = self.model.prompts, {role.text for role in self.model.roles}
        most = prompts.most_texts(names, num_chunks)
        # Only the prompt changes at a switch; the texts of the other roles stay the same.
        most += self.num_switches * prompts.most_texts(["prompt"], num_chunks)
        return most * self.needs.network.text_kv_bytes

    def phases(self, contract: Contract, num_frames: int, held: Moment) -> dict[str, Sizes]:
        """Return the components of each phase at its peak, for the largest history `held`."""
        model, network = self.model, self.needs.network
        lengths = model.loop.histories(num_frames)  # the first is the longest
        base: Sizes = {"network": network.weight_bytes}
        decoder: Sizes = {"decoder": self.needs.decoder_bytes}
        resident: Sizes = {"text K/V": self.texts(num_frames)}
        resident |= self.allocated(held, lengths[0])
        # Only a loop that decodes between histories frees the latents of the earlier ones.
        restarts = len(lengths) > 1 and model.loop.decodes_between
        latents = (lengths[0] if restarts else num_frames) * _latent_bytes(model)
        running = {**base, **decoder, **resident, **self.active(num_frames), "latents": latents}
        spec = self.spec(contract)
        tokens = math.ceil(held.tokens) + spec.chunk_frames * spec.tokens_per_frame
        # All layers share the scratch of a session, and each branch of guidance has a session.
        scratch = self.backend.scratch_bytes(spec, tokens, self.dtype.itemsize)
        running["scratch"] = self.branches * scratch
        decode = {**base, **decoder, **({} if contract.best else resident)}
        if restarts:  # after decoding, the next history still needs the prompt's K/V
            decode["text K/V"] = self.texts(num_frames)
        decode["latents"] = 2 * latents  # the chunks and their concatenation
        decoding = self.needs.decoding
        if decoding is None:
            # None, not 0: the sum of the phase is then unknown too, not too small.
            decode["activations"] = None
        elif contract.best:
            decode["activations"] = decoding.streamed_bytes
        else:
            decode["activations"] = decoding.whole_bytes(num_frames)
        if not contract.best:
            # The previous prompt's video in fp32 and its latents are still referenced.
            height, columns = (pixels_per_latent(model) * side for side in model.latent_size)
            num_pixels = pixel_frames(num_frames, model.first_pixel_frames)
            previous = num_pixels * 3 * height * columns * 4 + num_frames * _latent_bytes(model)
            for phase in (running, decode):
                phase["previous video"] = previous
        commit = network.commit_bytes(self.storage.storing_bytes(held))
        # The network is there when the prompts are encoded; the encoder is freed before the passes.
        return {
            "text": {**base, "text encoder": self.needs.text_bytes},
            "denoise": {**running, **self._residual(num_frames), "activations": network.pass_bytes},
            "commit": {**running, "activations": commit},
            "decode": decode,
        }

    def longest(self, contract: Contract, limit_bytes: int) -> int | None:
        """Return the latent frames of the longest video within `limit_bytes`, up to a day.

        0 if no video fits; None if a size is unknown.
        """
        # Bisection over the number of chunks: memory never shrinks when a video gets longer. The
        # limit holds for the text phase as well, since a video that cannot begin does not fit.
        chunk = self.model.chunk_frames
        growth = self.simulated.growth(self.spec(contract), self.method)
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

    def _residual(self, num_frames: int) -> Sizes:
        """Return the most bytes that a reuse policy keeps between denoising passes."""
        model, reuse = self.model, self.method.reuse
        if reuse is None:
            return {}
        # Each chunk under way has the residual of its blocks and, at most, a feature of the size of
        # its tokens; the tokens of the pass itself come on top.
        active = model.loop.active_frames(model.schedule, num_frames, model.chunk_frames)
        frames = max(active, model.loop.pass_frames(model.schedule, model.chunk_frames))
        kept = frames * (1 if reuse.feature is None else 2) + model.chunk_frames
        width = model.spec.tokens_per_frame * model.dims.dim * self.dtype.itemsize
        return {"residual": self.branches * kept * width}

    def _of_branches(self, sizes: dict[str, int]) -> dict[str, int]:
        return {name: self.branches * size for name, size in sizes.items()}


def pixels_per_latent(model: VideoModel) -> int:
    """Return the pixels along one side of a latent value, by the decoder's stride."""
    # A decoder without a stride is taken to be like the Wan VAE.
    stride: tuple[int, int] = getattr(model.decoder, "stride", (TEMPORAL_STRIDE, 8))
    return stride[1]


def _latent_bytes(model: VideoModel) -> int:
    """Return the bytes of one latent frame on the device."""
    _, channels, height, width = model.latent_shape(1)
    return channels * height * width * DTYPES[model.dtype].itemsize
