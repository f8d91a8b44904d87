"""Codec of the small models: a linear encoder of pixels, and a learned decoder of latents.

A latent frame describes the last pixel frame of the four that it stands for, its keyframe. Colours
become luma and two opponent axes, and blocks of 8 x 8 pixels their lowest DCT-II coefficients. Both
steps are orthonormal, so the inverse is the transpose. The decoder adds what is missing: the detail
that 16 numbers for 192 leave out, and the three pixel frames between two keyframes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.models.checkpoints.bundled import bundled
from harness.models.decoders import module_decoder
from harness.models.decoders.module_decoder import LazyDecoder, demand_channels
from harness.sampling.decoding import pixels
from harness.system.errors import UserError

BLOCK = 8  # pixels per latent cell, each way
_WIDE, _FINE = 64, 24  # channels on the grid of latents, and on the finer ones


class Channel(NamedTuple):
    """One latent channel: (coefficient - mean) / scale of one colour axis and frequency pair."""

    axis: int  # 0 luma, 1 red against blue, 2 green against both
    row: int
    column: int
    mean: float
    scale: float


# Measured once on 500 clips of an earlier world. Trained networks depend on it, so it never
# changes.
# DC channels get deviation 1, the others (their deviation / that of the DC)^0.3. Exponent 1 would
# lose fine detail in the noise of sampling, exponent 0 would amplify it to the size of the rest.
CHANNELS = (
    Channel(0, 0, 0, -1.2, 5.94),
    Channel(0, 0, 1, 0.0, 1.68),
    Channel(0, 1, 0, 0.0, 1.96),
    Channel(0, 1, 1, 0.0, 1.14),
    Channel(0, 0, 2, 0.0, 1.08),
    Channel(0, 2, 0, 0.0, 1.34),
    Channel(0, 1, 2, 0.0, 0.831),
    Channel(0, 2, 1, 0.0, 0.944),
    Channel(1, 0, 0, 0.096, 2.46),
    Channel(1, 0, 1, 0.0, 0.817),
    Channel(1, 1, 0, 0.0, 0.878),
    Channel(1, 1, 1, 0.0, 0.55),
    Channel(2, 0, 0, 0.13, 1.2),
    Channel(2, 0, 1, 0.0, 0.533),
    Channel(2, 1, 0, 0.0, 0.542),
    Channel(2, 1, 1, 0.0, 0.342),
)


def encode(keyframes_FHWC: NDArray[np.uint8] | Tensor) -> Tensor:
    """Encode keyframes uint8 [F, H, W, 3] as latents [F, 16, H / 8, W / 8] fp32.

    Raises  UserError: frames that are not RGB, or whose sides are not multiples of 8.
    """
    # Checked here, because a convolution with a stride would silently leave out the pixels beyond
    # the last whole block.
    shape = tuple(keyframes_FHWC.shape)
    if len(shape) != 4 or shape[3] != 3 or shape[1] % BLOCK or shape[2] % BLOCK:
        raise UserError(
            f"keyframes of shape {list(shape)} cannot be encoded: "
            "give [F, H, W, 3] with H and W divisible by 8"
        )
    return _encoded(torch.as_tensor(keyframes_FHWC).permute(0, 3, 1, 2).float() / 127.5 - 1)


def _encoded(rgb_F3HW: Tensor) -> Tensor:
    """Return the latents [F, 16, h, w] of pixels in -1..1."""
    # A stride of a block makes the convolution a block transform: every output is one scalar
    # product.
    basis, mean, scale = _transform(rgb_F3HW.device)
    return (F.conv2d(rgb_F3HW, basis, stride=BLOCK) - mean) / scale


def linear(latents_FChw: Tensor) -> Tensor:
    """Decode latents by the inverse transform [F, 3, H, W] fp32, about -1..1 (not clamped).

    Raises  UserError: latents of another number of channels.
    """
    demand_channels(latents_FChw, len(CHANNELS))
    basis, mean, scale = _transform(latents_FChw.device)
    # The rows of the basis are orthonormal, so the transpose gives back what 16 numbers of a block
    # hold.
    return F.conv_transpose2d(latents_FChw.float() * scale + mean, basis, stride=BLOCK)


def preview(latents_FChw: Tensor) -> NDArray[np.uint8]:
    """Decode latents by the inverse transform to keyframes uint8 [F, H, W, 3]; blocks show."""
    return pixels(linear(latents_FChw).clamp(-1, 1))


def fade(before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
    """Fade from one linear decode to the next in four pixel frames [B, 4, 3, H, W] fp32.

    The last frame is the linear decode of `now`.
    """
    # A fade is what the decoder corrects: right where nothing moves, and a ghost where something
    # does.
    start, end = linear(before_BChw)[:, None], linear(now_BChw)[:, None]
    steps = torch.arange(1, 5, device=start.device).view(1, 4, 1, 1, 1) / 4
    return torch.lerp(start, end, steps)


class Upsampler(nn.Module):
    """The network of `KeyframeDecoder`: two latent frames give the four pixel frames of the later.

    It corrects the linear decode, faded from one keyframe to the next, by a few residual
    convolutions on the grid of latents and three upsamplings by pixel shuffle.

    Shapes  before, now [B, 16, h, w] -> [B, 4, 3, 8 h, 8 w] fp32, about -1..1; any h and w.
    """

    def __init__(self) -> None:
        super().__init__()
        # Both latent frames at once: where a thing moved from and to is in their difference.
        self.stem = _conv(2 * len(CHANNELS), _WIDE)
        self.coarse = nn.ModuleList(_conv(_WIDE, _WIDE) for _ in range(3))
        # Pixel shuffle turns 4 channels into 2 x 2 cells, so three of them reach the 8 x 8 pixels
        # of a block. The finer grids have 4 and 16 times as many cells, hence fewer channels.
        self.to_middle = _conv(_WIDE, 4 * _FINE)
        self.middle = nn.ModuleList(_conv(_FINE, _FINE) for _ in range(2))
        self.to_fine = _conv(_FINE, 4 * _FINE)
        self.fine = nn.ModuleList(_conv(_FINE, _FINE) for _ in range(2))
        self.to_pixels = _conv(_FINE, 4 * 4 * 3)  # 2 x 2 pixels of four frames of three colours
        with torch.no_grad():
            self.to_pixels.weight.mul_(0.1)  # training starts near the linear decode

    @cached_property  # the meter asks at every pass
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def forward(self, before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
        """Return four pixel frames [B, 4, 3, H, W]; the last is the keyframe of `now`."""
        return fade(before_BChw, now_BChw) + self.correction(before_BChw, now_BChw)

    def correction(self, before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
        """Return what the convolutions add to `fade` [B, 4, 3, H, W] fp32."""
        # A method of its own, since training may run it in BF16.
        x = self.stem(torch.cat([before_BChw, now_BChw], dim=1))
        x = F.pixel_shuffle(self.to_middle(_refine(self.coarse, x)), 2)
        x = F.pixel_shuffle(self.to_fine(_refine(self.middle, x)), 2)
        x = F.pixel_shuffle(self.to_pixels(_refine(self.fine, x)), 2)
        # In fp32, whatever the convolutions ran in: it is added to a fade in fp32.
        frames: Tensor = x.float().unflatten(1, (4, 3))
        return frames


class KeyframeDecoder(LazyDecoder):
    """Decodes the latents of `encode` frame by frame with a small convolutional network, in fp32.

    The network sees a latent frame and the one before; the first frame is its own past.

    Source  ours; trained by `python -m harness.small_model.training.decoder`.
    Shapes  latents [F, 16, h, w] -> per frame uint8 [1 or 4, 8 h, 8 w, 3].
    Raises  UserError: an unknown word; `to` and `decode`: weights missing or damaged, latents of
            another number of channels.
    """

    stride = (4, BLOCK)

    def __init__(
        self,
        sha256: str | None = None,
        weights: Literal["bundled", "seeded"] = "bundled",
        file: str = "decoder.safetensors",
    ) -> None:
        """Check the settings; nothing is loaded yet.

        sha256: checksum of the file.
        weights: `bundled` reads the file, `seeded` is an untrained network.
        file: name in the folder of the weights that ship, or a full path.
        """
        if weights not in ("bundled", "seeded"):
            raise UserError(f"decoder.weights={weights}: choose bundled or seeded")
        # A file without its digest could be exchanged unnoticed, and scores would change with it.
        if weights == "bundled" and sha256 is None:
            raise UserError("decoder.weights=bundled needs decoder.sha256=<digest of the file>")
        self.sha256, self.weights, self.file = sha256, weights, file

    def locate(self, root: Path) -> None:
        """Do nothing: the weights ship with the code."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device; 0 before they are loaded."""
        return 0 if self._module is None else self._module.nbytes

    def hollow(self) -> KeyframeDecoder:
        """Return this decoder on the meta device: with its sizes, without values or files."""
        # The planner counts the bytes of a decode with it, so nothing is read.
        hollow = KeyframeDecoder(self.sha256, self.weights, self.file)
        with torch.device("meta"):
            hollow._module = Upsampler().eval().requires_grad_(False)
        return hollow

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on its device [1 or 4, 3, H, W] fp32 in -1..1."""
        # Check and load at once, so that errors come with the call and not with the first frame.
        demand_channels(latents_FChw, len(CHANNELS))
        network = self._loaded(latents_FChw.device)

        def frames() -> Iterator[Tensor]:
            before: Tensor | None = None  # the only latent frame that is kept
            for latent in latents_FChw.split(1):
                now = latent.float()
                with torch.no_grad():
                    four = network(now if before is None else before, now)[0].clamp(-1, 1)
                # The first latent frame stands for a single pixel frame.
                yield four[-1:] if before is None else four
                before = now

        return frames()

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """Encode a keyframe of -1..1 as latents [1, 16, h, w] fp32."""
        return _encoded(frame_13HW.float())

    def _loaded(self, device: torch.device) -> Upsampler:
        """Return the network, which follows the latents to their device."""
        network: Upsampler = self.to(device)._module
        return network

    def _load(self) -> Upsampler:
        network = seeded()
        if self.weights == "bundled":
            assert self.sha256 is not None  # refused by the constructor
            network.load_state_dict(load_file(bundled(self.file, self.sha256)))
        return network.eval().requires_grad_(False)


def seeded() -> Upsampler:
    """Return an untrained network, the same in every process; training starts from it."""
    return module_decoder.seeded(Upsampler)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, padding=1)


def _refine(convolutions: nn.ModuleList, x_BChw: Tensor) -> Tensor:
    """Apply residual convolutions in turn, then the non-linearity before the next grid."""
    for convolution in convolutions:
        x_BChw = x_BChw + convolution(F.silu(x_BChw))
    return F.silu(x_BChw)


@cache
@torch.inference_mode(False)  # the cached tensors may serve training later
def _transform(device: torch.device) -> tuple[Tensor, ...]:
    """Return orthonormal rows [16, 3, 8, 8], means [16, 1, 1] and scales [16, 1, 1], fp32."""
    # Compute in fp64 first, so that every machine rounds to the same constants.
    axes = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64)
    axes /= axes.norm(dim=1, keepdim=True)
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK)
    # Row k is the DCT-II wave of frequency k. With the same factor, row 0 would have norm sqrt(2).
    waves = torch.cos(torch.pi * (2 * n + 1) * k / (2 * BLOCK)) * (2 / BLOCK) ** 0.5
    waves[0] = BLOCK**-0.5
    basis = torch.stack(
        [torch.einsum("c,h,w->chw", axes[c.axis], waves[c.row], waves[c.column]) for c in CHANNELS]
    )
    mean, scale = torch.tensor([[c.mean, c.scale] for c in CHANNELS]).T
    constants = basis.float(), mean.view(-1, 1, 1), scale.view(-1, 1, 1)
    return tuple(constant.to(device) for constant in constants)
