"""Generates videos with a teacher, chunk by chunk with many steps and guidance, and draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.results.contact_sheet import contact_sheet
from harness.sampling.network import TextKV
from harness.sampling.schedule import GRID
from harness.small_model.codec import encode, preview
from harness.small_model.diffusion.teacher import Teacher
from harness.small_model.scenes.clip import Clip, clip
from harness.small_model.scenes.rows import rows
from harness.small_model.training.loop import fast_products
from harness.small_model.training.objective import commit
from harness.small_model.training.teacher import TeacherForcing

SHEET = "sheet.png"


@dataclass(frozen=True)
class Branch:
    """The network with one prompt per video and the matching history."""

    network: Wan
    text_kv: TextKV
    forcing: TeacherForcing

    def flow(self, x_BFChw: Tensor, sigma: float, frames: range) -> Tensor:
        """Return the flow of one chunk at a noise level, fp32."""
        # The network takes times of 0 to 1000.
        t_BF = torch.full(x_BFChw.shape[:2], GRID * sigma)
        plan = self.forcing.plan(frames, "nothing")
        out: Tensor = self.network(x_BFChw, t_BF, self.text_kv, self.forcing, plan)
        return out.float()


@torch.no_grad()
def sample(
    network: Wan, spec: CacheSpec, teacher: Teacher, text_BTE: Tensor, num_frames: int, seed: int
) -> Tensor:
    """Return videos [B, F, C, h, w], sampled chunk by chunk with guided Euler steps.

    Each chunk is finished before the next starts, and enters its history without noise.

    text_BTE: rows of the prompts. num_frames: latent frames.
    """
    device = torch.device("cpu")
    draws = torch.Generator().manual_seed(seed)
    branches = [
        # Rows of zeros stand for no prompt: training drops the text of some windows that way.
        Branch(network, network.text_kv(text), TeacherForcing(spec, device))
        for text in (text_BTE, torch.zeros_like(text_BTE))
    ]
    # The shift spends more of the steps at high noise, where the layout of a frame is decided.
    u = torch.linspace(1, 0, teacher.steps + 1, dtype=torch.float64)
    sigmas = (teacher.sample_shift * u / (1 + (teacher.sample_shift - 1) * u)).tolist()
    shape = (len(text_BTE), spec.chunk_frames, network.dims.latent_channels)
    sides = [2 * n for n in spec.grid]  # a token covers 2 x 2 latent cells
    chunks = []
    with fast_products(device.type):
        for first in range(0, num_frames, spec.chunk_frames):
            frames = range(first, first + spec.chunk_frames)
            # One generator for all chunks, so a longer video begins like a shorter one.
            x = torch.randn(*shape, *sides, generator=draws)
            for now, after in pairwise(sigmas):
                # Classifier-free guidance, then an Euler step; `after - now` is negative.
                with_text, without = (branch.flow(x, now, frames) for branch in branches)
                x = x + (after - now) * (without + teacher.guidance * (with_text - without))
            # Each branch stores its own keys and values: they depend on the prompt.
            for branch in branches:
                commit(network, x, branch.text_kv, branch.forcing, first)
            chunks.append(x)
    return torch.cat(chunks, dim=1)


def draw_sheet(path: Path, clips: Sequence[Clip], made_BFChw: Tensor, fps: float) -> None:
    """Write a sheet of generated and true keyframes, decoded linearly. fps: latent frames per s."""
    frames = range(made_BFChw.shape[1])
    pictures = []
    for one, made in zip(clips, made_BFChw, strict=True):
        scene = one.scene
        label = ["made", f"{scene.place}, {scene.light}, {scene.weather}"]
        for thing in scene.things:
            actions = ", ".join(act.action for act in thing.acts)
            label.append(f"{thing.acts[0].colour} {thing.kind}: {actions}")
        pictures.append(("\n".join(label), preview(made)))
        # Through the codec too, so that a reader compares what the network could reach.
        pictures.append(("true", preview(encode(one.keyframes(frames)))))
    contact_sheet(path, pictures, fps=fps)


def held_out(count: int, layout: bool, things: int | None = None) -> tuple[list[Clip], Tensor]:
    """Return the first held-out clips and their rows [B, 10, width].

    things: number of things in each clip; None draws it.
    """
    clips = [clip(seed, things) for seed in range(count)]
    return clips, torch.stack([rows(one.scene, layout) for one in clips])
