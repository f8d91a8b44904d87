"""Pixels to latents and back for the small model: a linear encoder and a learned decoder.

A latent frame describes the last pixel frame of the four that it stands for, its keyframe. Colours
turn into luma and two opponent axes, blocks into their lowest DCT-II coefficients; both steps are
orthonormal, so that the way back is the transpose. The decoder guesses what is missing: the detail
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
from harness.sampling.decoding import pixels
from harness.system.errors import UserError

BLOCK = 8
_WIDE, _FINE = 64, 24  # channels on the grid of latents, and on the finer ones


class Channel(NamedTuple):
    """One latent channel: (coefficient - mean) / scale of one colour axis and frequency pair."""

    axis: int  # 0 luma, 1 red against blue, 2 green against both
    row: int
    column: int
    mean: float
    scale: float


# Measured once on 500 clips of the world; trained networks depend on it, so it never changes. DC
# channels come to deviation 1, the others to (their deviation / the DC's)^0.3, so that fine detail
# is neither lost nor blown up into noise.
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
    """Latents [F, 16, H / 8, W / 8] fp32 of keyframes, uint8 [F, H, W, 3].

    Raises  UserError: not RGB, or sides that blocks of 8 do not fill.
    """
    shape = tuple(keyframes_FHWC.shape)
    if len(shape) != 4 or shape[3] != 3 or shape[1] % BLOCK or shape[2] % BLOCK:
        raise UserError(
            f"keyframes of shape {list(shape)} cannot be encoded: "
            "give [F, H, W, 3] with H and W divisible by 8"
        )
    return _encoded(torch.as_tensor(keyframes_FHWC).permute(0, 3, 1, 2).float() / 127.5 - 1)


def _encoded(rgb_F3HW: Tensor) -> Tensor:
    """Latents of pixels in -1..1."""
    basis, mean, scale = _transform(rgb_F3HW.device)
    return (F.conv2d(rgb_F3HW, basis, stride=BLOCK) - mean) / scale


def linear(latents_FChw: Tensor) -> Tensor:
    """What the latents say without guessing [F, 3, H, W] fp32, about -1..1 (not clamped).

    Raises  UserError: latents of another number of channels.
    """
    _demand_channels(latents_FChw)
    basis, mean, scale = _transform(latents_FChw.device)
    return F.conv_transpose2d(latents_FChw.float() * scale + mean, basis, stride=BLOCK)


def preview(latents_FChw: Tensor) -> NDArray[np.uint8]:
    """Keyframes uint8 [F, H, W, 3] on the host by the inverse transform alone; blocky."""
    return pixels(linear(latents_FChw).clamp(-1, 1))


def fade(before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
    """Four pixel frames [B, 4, 3, H, W] from one linear decode to the next; the last is `now`'s."""
    start, end = linear(before_BChw)[:, None], linear(now_BChw)[:, None]
    steps = torch.arange(1, 5, device=start.device).view(1, 4, 1, 1, 1) / 4
    return torch.lerp(start, end, steps)


class Upsampler(nn.Module):
    """The network of `KeyframeDecoder`: two latent frames to the four pixel frames of the later.

    It adds to the linear decode, faded from one keyframe to the next: a few residual convolutions
    on the grid of latents, then three upsamplings by pixel shuffle.

    Shapes  before, now [B, 16, h, w] -> [B, 4, 3, 8 h, 8 w] fp32, about -1..1; any h and w.
    """

    def __init__(self) -> None:
        """Default initialisation of PyTorch, but for a last layer that adds little."""
        super().__init__()
        self.stem = _conv(2 * len(CHANNELS), _WIDE)
        self.coarse = nn.ModuleList(_conv(_WIDE, _WIDE) for _ in range(3))
        self.to_middle = _conv(_WIDE, 4 * _FINE)
        self.middle = nn.ModuleList(_conv(_FINE, _FINE) for _ in range(2))
        self.to_fine = _conv(_FINE, 4 * _FINE)
        self.fine = nn.ModuleList(_conv(_FINE, _FINE) for _ in range(2))
        self.to_pixels = _conv(_FINE, 4 * 4 * 3)
        with torch.no_grad():
            self.to_pixels.weight.mul_(0.1)

    @cached_property  # the meter asks at every pass
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def forward(self, before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
        """Four pixel frames [B, 4, 3, H, W]; the last is the keyframe of `now`."""
        return fade(before_BChw, now_BChw) + self.correction(before_BChw, now_BChw)

    def correction(self, before_BChw: Tensor, now_BChw: Tensor) -> Tensor:
        """What the convolutions add [B, 4, 3, H, W]; apart, since training may round it."""
        x = self.stem(torch.cat([before_BChw, now_BChw], dim=1))
        x = F.pixel_shuffle(self.to_middle(_refine(self.coarse, x)), 2)
        x = F.pixel_shuffle(self.to_fine(_refine(self.middle, x)), 2)
        x = F.pixel_shuffle(self.to_pixels(_refine(self.fine, x)), 2)
        frames: Tensor = x.float().unflatten(1, (4, 3))
        return frames


class KeyframeDecoder:
    """Decoder of the latents that `encode` makes: a small convolutional network, frame by frame.

    It sees a latent frame and the one before; the first frame is its own past. fp32.

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
        """Check the settings and load nothing yet.

        sha256: checksum of the file. weights: `seeded` is untrained.
        file: in the folder of the weights that ship, or a full path.
        """
        if weights not in ("bundled", "seeded"):
            raise UserError(f"decoder.weights={weights}: choose bundled or seeded")
        if weights == "bundled" and sha256 is None:
            raise UserError("decoder.weights=bundled needs decoder.sha256=<digest of the file>")
        self.sha256, self.weights, self.file = sha256, weights, file
        self._network: Upsampler | None = None

    def locate(self, root: Path) -> None:
        """The weights lie beside the code; decoders share this call."""

    def to(self, device: torch.device | str) -> KeyframeDecoder:
        """Load the network if it is not there, and move it to `device`."""
        self._loaded(torch.device(device))
        return self

    def close(self) -> None:
        """Free the network; the next call loads it again."""
        on_gpu = self._network is not None and self._network.stem.weight.is_cuda
        self._network = None
        if on_gpu:
            torch.cuda.empty_cache()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device; nothing before they are loaded."""
        return 0 if self._network is None else self._network.nbytes

    def hollow(self) -> KeyframeDecoder:
        """The same decoder on the meta device: true sizes, no values, no files."""
        hollow = KeyframeDecoder(self.sha256, self.weights, self.file)
        with torch.device("meta"):
            hollow._network = Upsampler().eval().requires_grad_(False)
        return hollow

    def decode(self, latents_FChw: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Pixels of each latent frame [1 or 4, H, W, 3]; only the latent before is kept."""
        return map(pixels, self.stream(latents_FChw))

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1; meta is one, too."""
        _demand_channels(latents_FChw)
        return self._stream(self._loaded(latents_FChw.device), latents_FChw)

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """The latent of a keyframe [1, 16, h, w] fp32."""
        return _encoded(frame_13HW.float())

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """The whole video on the device [T, 3, H, W] fp32 in -1..1, equal to the stream."""
        return torch.cat(list(self.stream(latents_FChw)))

    def _stream(self, network: Upsampler, latents_FChw: Tensor) -> Iterator[Tensor]:
        before: Tensor | None = None
        for latent in latents_FChw.split(1):
            now = latent.float()
            with torch.no_grad():
                frames = network(now if before is None else before, now)[0].clamp(-1, 1)
            yield frames[-1:] if before is None else frames
            before = now

    def _loaded(self, device: torch.device) -> Upsampler:
        """The network on a device, read from its file or seeded the first time."""
        if self._network is None:
            network = seeded()
            if self.weights == "bundled":
                assert self.sha256 is not None  # refused by the constructor
                network.load_state_dict(load_file(bundled(self.file, self.sha256)))
            self._network = network.eval().requires_grad_(False)
        self._network = self._network.to(device)
        return self._network


def seeded() -> Upsampler:
    """An untrained network, the same in every process; training starts from it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
        return Upsampler()


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, padding=1)


def _refine(convolutions: nn.ModuleList, x_BChw: Tensor) -> Tensor:
    """Residual convolutions in turn, then the non-linearity before the next grid."""
    for convolution in convolutions:
        x_BChw = x_BChw + convolution(F.silu(x_BChw))
    return F.silu(x_BChw)


def _demand_channels(latents_FChw: Tensor) -> None:
    if latents_FChw.shape[1] != len(CHANNELS):
        raise UserError(
            f"latents have {latents_FChw.shape[1]} channels and the decoder takes "
            f"{len(CHANNELS)}: choose the decoder of this model"
        )


@cache
@torch.inference_mode(False)  # the cached tensors may serve training later
def _transform(device: torch.device) -> tuple[Tensor, ...]:
    """Orthonormal rows [16, 3, 8, 8], means [16, 1, 1] and scales [16, 1, 1], fp32."""
    # In fp64 first, so that every machine rounds to the same constants.
    axes = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64)
    axes /= axes.norm(dim=1, keepdim=True)
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK)
    waves = torch.cos(torch.pi * (2 * n + 1) * k / (2 * BLOCK)) * (2 / BLOCK) ** 0.5
    waves[0] = BLOCK**-0.5
    basis = torch.stack(
        [torch.einsum("c,h,w->chw", axes[c.axis], waves[c.row], waves[c.column]) for c in CHANNELS]
    )
    mean, scale = torch.tensor([[c.mean, c.scale] for c in CHANNELS]).T
    constants = basis.float(), mean.view(-1, 1, 1), scale.view(-1, 1, 1)
    return tuple(constant.to(device) for constant in constants)
