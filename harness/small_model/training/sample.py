"""Generates videos of held-out clips to show how far a training is, and measures their drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.api import Method
from harness.cache.attention.base import Backend
from harness.cache.session import Session
from harness.models.preset import DTYPES, VideoModel, wan_of
from harness.results.contact_sheet import contact_sheet
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.small_model.codec import encode, preview
from harness.small_model.training.state import State
from harness.small_model.world import clip

SHEET = "sheet.png"


@dataclass(frozen=True)
class Shown:
    """A held-out clip: its prompt, the generated latents and the true ones [F, C, h, w] fp32."""

    prompt: str
    made_FChw: Tensor
    true_FChw: Tensor

    def drift(self, chunk_frames: int) -> Tensor:
        """Return the mean squared error of the latents of each chunk [chunks]."""
        error = (self.made_FChw - self.true_FChw).square().mean((1, 2, 3))
        return torch.stack([part.mean() for part in error.split(chunk_frames)])


@dataclass(frozen=True)
class Studio:
    """Generates videos as a run does: with the sampler, a method's cache and averaged weights."""

    model: VideoModel
    method: Method
    backend: Backend
    device: torch.device

    def show(self, state: State, seeds: Sequence[int], num_frames: int) -> list[Shown]:
        """Return a video of `num_frames` latent frames for the clip of each seed."""
        network = wan_of(self.model)
        # The averaged weights are those that ship, so they are what is looked at.
        network.load_state_dict(state.ema)
        network.to(self.device, DTYPES[self.model.dtype]).eval().requires_grad_(False)
        sampler = Sampler(network, self.model.schedule, self.model.chunk_frames)
        shown = []
        for seed in seeds:
            one = clip(seed)
            # A session per video: it holds the history of one.
            session = Session(self.model.spec, self.method, self.backend, num_frames, self.device)
            text_kv = self.model.text_kv(sampler, self.model.text.encode([one.prompt])[0])
            # The clip's seed, so that a sheet of a later step shows the same videos.
            noise = SeededNoise(seed, self.model.latent_shape(num_frames))
            chunks = sampler.sample(session, text_kv, noise, num_frames, NullObserver())
            made = torch.cat(list(chunks), dim=1)[0].float().cpu()
            shown.append(Shown(one.prompt, made, encode(one.keyframes(range(num_frames)))))
        return shown


def report(shown: Sequence[Shown], chunk_frames: int) -> str:
    """Return the drift, mean over clips, chunk by chunk, and the error of a constant answer.

    The constant answer is the mean of the true videos, the best that a model can do that ignores
    its prompts.
    """
    # Chunk by chunk, since errors grow along a video and their mean does not tell.
    curve = torch.stack([each.drift(chunk_frames) for each in shown]).mean(0)
    truth = torch.stack([each.true_FChw for each in shown])
    lines = ["chunk  mse"] + [f"{i:5d}  {value:.4f}" for i, value in enumerate(curve.tolist())]
    spread = (truth - truth.mean(0)).square().mean().item()
    return "\n".join([*lines, f" mean  {curve.mean():.4f} (a mean video: {spread:.4f})"])


def draw_sheet(path: Path, shown: Sequence[Shown], fps: float) -> None:
    """Write a sheet of generated and true keyframes, decoded linearly.

    fps: latent frames per second.
    """
    rows = []
    for each in shown:
        words = each.prompt.split()
        # `contact_sheet` makes its margin as wide as the longest line.
        lines = [" ".join(words[i : i + 6]) for i in range(0, len(words), 6)]
        rows.append(("\n".join(["made", *lines]), preview(each.made_FChw)))
        rows.append(("true", preview(each.true_FChw)))
    contact_sheet(path, rows, fps=fps)
