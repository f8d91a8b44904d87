"""Trains the decoder of the small models: `python -m harness.small_model.training.decoder`.

The network sees two neighbouring latent frames of a random clip and learns the pixels between them.
Rendering takes longer than learning, so pairs stay in a pool and a few are replaced at each step.
Pool and batches depend on seed and step alone, so an interrupted training gives the same weights as
an uninterrupted one.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from harness.scoring.metrics import psnr
from harness.small_model.codec import KeyframeDecoder, Upsampler, encode, fade, preview, seeded
from harness.small_model.scenes.clip import clip
from harness.small_model.training.export import write_weights
from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.logs import remark

HELD_OUT = 2**40  # the first seed that no training draws
_LENGTH = 42  # latent frames of a clip
_STILL = 0.05  # share of first frames of a video, which are their own past
_PEAK, _WARM_UP, _DECAY = 2e-3, 200, 1e-4  # learning rate, its first steps, weight decay
_EDGES = 0.5  # weight of the differences of neighbours, which are large at edges
_EVERY = 250  # steps between checkpoints


@dataclass(frozen=True)
class Settings:
    """Settings of a training, which determine its weights.

    batch: pairs per step.
    pool: pairs that a batch is drawn from.
    fresh: new pairs per step.
    noise: largest deviation of the noise added to latents: those of a network have errors too.
    bfloat16: whether the convolutions run in BF16.
    """

    steps: int = 6000
    batch: int = 16
    pool: int = 2048
    fresh: int = 2
    noise: float = 0.1
    seed: int = 0
    bfloat16: bool = False


def pair(seed: int, number: int) -> NDArray[np.uint8]:
    """Return the keyframe before a random latent frame and its four pixel frames [5, H, W, 3]."""
    rng = np.random.default_rng((seed, 0, number))
    one = clip(int(rng.integers(2**31)))
    if rng.random() < _STILL:
        return np.repeat(one.keyframes(range(1)), 5, axis=0)
    frame = int(rng.integers(1, _LENGTH))
    before = one.keyframes(range(frame - 1, frame))
    return np.concatenate([before, one.pixels(range(frame, frame + 1))])


class Pool:
    """The pairs that a step may draw: `pool` of them, from number `fresh * step` on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pairs: dict[int, NDArray[np.uint8]] = {}

    def batch(self, step: int) -> Tensor:
        """Return the pairs of a step [B, 5, H, W, 3] uint8."""
        own = self.settings
        first = own.fresh * step
        self._pairs = {
            number: self._pairs[number] if number in self._pairs else pair(own.seed, number)
            for number in range(first, first + own.pool)
        }
        chosen = np.random.default_rng((own.seed, 1, step)).integers(own.pool, size=own.batch)
        return torch.from_numpy(np.stack([self._pairs[first + int(n)] for n in chosen]))


def loss_of(frames_BTCHW: Tensor, truth_BTCHW: Tensor) -> Tensor:
    """Return the mean absolute error of pixels, plus that of differences of neighbours."""
    error = frames_BTCHW - truth_BTCHW
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + _EDGES * edges


def noisy(pairs_BTHWC: Tensor, level: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return latents of both keyframes [B, 16, h, w], each pair with noise of its own level."""
    before, now = encode(pairs_BTHWC[:, 0]), encode(pairs_BTHWC[:, -1])
    levels = level * torch.rand(len(before), 1, 1, 1, generator=generator)
    still = (pairs_BTHWC[:, 0] == pairs_BTHWC[:, -1]).flatten(1).all(1).view(-1, 1, 1, 1)
    first, second = (torch.randn(now.shape, generator=generator) for _ in range(2))
    # A first frame is its own past also with noise.
    return before + levels * torch.where(still, second, first), now + levels * second


class Training:
    """The network, its optimizer and the step; resumes from the checkpoint in its folder.

    Raises  UserError: the checkpoint is of other settings.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.path, self.step = settings, folder / "decoder.pt", 0
        self.network = seeded().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=_DECAY)
        self.pool = Pool(settings)
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            if state["settings"] != vars(settings):
                raise UserError(
                    f"{self.path} was trained with {state['settings']}: "
                    "give the same settings or another --state"
                )
            self.step = state["step"]
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])

    def run(self, until: int) -> None:
        """Train up to a step; write checkpoints on the way and at the end."""
        start, first, losses = time.monotonic(), self.step, list[float]()
        own = self.settings
        while self.step < until:
            generator = torch.Generator().manual_seed(own.seed * 2**32 + self.step)
            pairs = self.pool.batch(self.step)
            before, now = noisy(pairs, own.noise, generator)
            truth = pairs[:, 1:].permute(0, 1, 4, 2, 3).float() / 127.5 - 1
            # Only the convolutions round to BF16: the linear decode makes most of the picture.
            with torch.autocast("cpu", torch.bfloat16, enabled=own.bfloat16):
                added = self.network.correction(
                    *(x.to(memory_format=torch.channels_last) for x in (before, now))
                )
            loss = loss_of(fade(before, now) + added, truth)
            self.optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(self.network.parameters(), 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step, own.steps)
            self.optimizer.step()
            self.step += 1
            losses.append(float(loss.detach()))
            if self.step % _EVERY == 0 or self.step == until:
                state = {
                    "settings": vars(own),
                    "step": self.step,
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
                with whole_file(self.path) as unfinished:
                    torch.save(state, unfinished)
                minutes = (time.monotonic() - start) / 60
                left = minutes / (self.step - first) * (until - self.step)
                remark(
                    f"step {self.step} loss {np.mean(losses):.5f} {minutes:.1f} min, "
                    f"{left:.1f} min left"
                )
                losses = []


def rate(step: int, steps: int) -> float:
    """Return the learning rate: linear up, then half a cosine down to zero."""
    progress = min(1.0, step / steps)
    return _PEAK * min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * progress)) / 2


def export(network: Upsampler, path: Path) -> str:
    """Write the weights as fp16 safetensors and return the SHA-256 of the file."""
    return write_weights(network.state_dict(), path, torch.float16)


def held_out(decoder: KeyframeDecoder, num_clips: int) -> tuple[float, float, float]:
    """Return mean dB of held-out clips: keyframes, frames between, keyframes by `preview` alone."""
    scores: list[list[float]] = [[], [], []]
    for number in range(num_clips):
        truth = clip(HELD_OUT + number).pixels(range(_LENGTH))
        latents = encode(truth[::4])
        found = psnr.per_frame(np.concatenate(list(decoder.decode(latents))), truth)
        is_key = np.arange(len(truth)) % 4 == 0
        scores[0] += found[is_key].tolist()
        scores[1] += found[~is_key].tolist()
        scores[2] += psnr.per_frame(preview(latents), truth[::4]).tolist()
    key, between, linear = (float(np.mean(values)) for values in scores)
    return key, between, linear


def main() -> int:
    """Train, export, and print how well held-out clips are decoded."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.small_model.training.decoder", description=__doc__
    )
    parser.add_argument("--state", type=Path, default=Path("results/.train/decoder"))
    parser.add_argument("--out", type=Path, help="file of the weights; default: in --state")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU has it")
    words = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(words.steps, seed=words.seed, bfloat16=words.bfloat16)
    try:
        training = Training(settings, words.state)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    training.run(settings.steps)
    path = words.out or words.state / "decoder.safetensors"
    sha256 = export(training.network, path)
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {sha256}")
    decoder = KeyframeDecoder(sha256, file=str(path.resolve()))
    key, between, linear = held_out(decoder, num_clips=32)
    print(f"held-out dB: keyframes {key:.2f} (linear {linear:.2f}), between {between:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
