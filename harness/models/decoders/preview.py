"""A small decoder of Wan2.1 latents, to look at what a method does without the VAE's seconds.

Its pixels are never scored: `score` leaves quality null, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.checkpoints.load import load_weights
from harness.results.video_files import Frames
from harness.sampling.decoding import pixels
from harness.system.errors import UserError

FILE = "taew2_1"  # .pth or .safetensors, in the decoder's folder
_WIDTHS = (256, 128, 64, 64)  # channels on the grid of latents, and on the finer ones
_LATENT, _COLOURS = 16, 3
_DTYPES = ("bfloat16", "float16", "float32")


class Memory(nn.Module):
    """A residual block over a frame and the one before it, at the same place in the network."""

    def __init__(self, width: int) -> None:
        """Default initialisation."""
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x_BCHW: Tensor, before_BCHW: Tensor) -> Tensor:
        """[B, C, H, W], twice -> the same."""
        return F.relu(self.conv(torch.cat([x_BCHW, before_BCHW], dim=1)) + x_BCHW)


class Grow(nn.Module):
    """One frame to `stride` of them."""

    def __init__(self, width: int, stride: int) -> None:
        """Default initialisation."""
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Iterator[Tensor]:
        """[B, C, H, W] -> so many of the same, the earliest first."""
        yield from self.conv(x_BCHW).chunk(self.stride, dim=1)


class Shrink(nn.Module):
    """`stride` frames to one, as channels; only the encoder has it."""

    def __init__(self, width: int, stride: int) -> None:
        """Default initialisation."""
        super().__init__()
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)


class Squash(nn.Module):
    """Latents beyond 3 are pulled in."""

    def forward(self, x: Tensor) -> Tensor:
        """3 tanh(x / 3)."""
        return torch.tanh(x / 3) * 3


class TinyAutoencoder(nn.Module):
    """The layers under the names of the published files; encoding is not written, only its layers.

    Source  TAEHV, `taew2_1`: 11,315,539 parameters, 9,844,611 of them the decoder's.
    """

    def __init__(self) -> None:
        """Default initialisation."""
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(_COLOURS, 64),
            nn.ReLU(),
            *(block for stride in (2, 2, 1) for block in _coarser(64, stride)),
            _conv(64, _LATENT),
        )
        finer = zip(_WIDTHS, (*_WIDTHS[1:],), (1, 2, 2), strict=False)
        self.decoder = nn.Sequential(
            Squash(),
            _conv(_LATENT, _WIDTHS[0]),
            nn.ReLU(),
            *(block for width, out, stride in finer for block in _finer(width, out, stride)),
            nn.ReLU(),
            _conv(_WIDTHS[-1], _COLOURS),
        )


class WanPreview:
    """The small decoder as a model's, frame by frame; equal to decoding all frames at once.

    A latent frame gives four pixel frames; the first one's first three are left out, so that a
    video is as long as the VAE's. `folder` holds taew2_1.pth or taew2_1.safetensors.

    Source  TAEHV (github.com/madebyollin/taehv), for Wan2.1.
    Shapes  normalised latents [F, 16, h, w] -> per frame uint8 [1 or 4, 8 h, 8 w, 3].
    Raises  UserError, from `to` or `decode`: the file is missing or of another network; latents of
            another number of channels.
    """

    stride = (4, 8)
    preview: ClassVar[bool] = True

    def __init__(
        self,
        folder: str,
        weights: Literal["checkpoint", "random"] = "checkpoint",
        dtype: str = "bfloat16",
    ) -> None:
        """Remember the settings; `random` needs no file, and shows nothing."""
        if weights not in ("checkpoint", "random"):
            raise UserError(f"decoder.weights={weights}: choose checkpoint or random")
        if dtype not in _DTYPES:
            raise UserError(f"decoder.dtype={dtype}: choose {', '.join(_DTYPES)}")
        self.folder, self.weights, self.dtype = folder, weights, dtype
        self.feature_bytes = 0
        self._decoder: nn.Sequential | None = None

    def locate(self, root: Path) -> None:
        """Read below `root` from now on what is not absolute."""
        self.folder = str(root / self.folder)

    def missing(self) -> list[Path]:
        """The folder, if `decode` will need a file of it that is not there."""
        needed = self.weights == "checkpoint" and not any(x.is_file() for x in self._choices())
        return [Path(self.folder)] if needed else []

    def to(self, device: torch.device | str) -> WanPreview:
        """Load the decoder if it is not there, and move it to `device`."""
        self._decoder = (self._decoder or self._load()).to(device)
        return self

    def close(self) -> None:
        """Free the decoder; the next call loads it again."""
        self._decoder = None

    def hollow(self) -> WanPreview:
        """The same decoder on the meta device: true sizes, no values, no files."""
        hollow = WanPreview(self.folder, self.weights, self.dtype)
        with torch.device("meta"):
            hollow._decoder = TinyAutoencoder().decoder.to(getattr(torch, self.dtype))
        return hollow

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device; nothing before they are loaded."""
        parameters = self._decoder.parameters() if self._decoder is not None else ()
        return sum(parameter.nbytes for parameter in parameters)

    def decode(self, latents_FChw: Tensor) -> Iterator[Frames]:
        """Pixels of each latent frame [1 or 4, H, W, 3]."""
        return map(pixels, self.stream(latents_FChw))

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """The whole video on the device [T, 3, H, W] fp32 in -1..1, equal to the stream."""
        return torch.cat(list(self.stream(latents_FChw)))

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1."""
        if self._decoder is None:
            self.to(latents_FChw.device)
        if latents_FChw.shape[1] != _LATENT:
            raise UserError(
                f"latents have {latents_FChw.shape[1]} channels and the decoder takes {_LATENT}: "
                "choose the decoder of this model"
            )
        assert self._decoder is not None
        return self._stream(self._decoder, latents_FChw)

    def _stream(self, decoder: nn.Sequential, latents_FChw: Tensor) -> Iterator[Tensor]:
        before: dict[int, Tensor] = {}  # what each block saw last
        self.feature_bytes = 0
        for i, latent in enumerate(latents_FChw.split(1)):
            with torch.no_grad():
                x = latent.to(getattr(torch, self.dtype))
                frames = torch.cat(list(_through(decoder, x, before)))
            self.feature_bytes = max(self.feature_bytes, sum(x.nbytes for x in before.values()))
            shown = frames[-1:] if i == 0 else frames
            yield shown.float().clamp(0, 1) * 2 - 1

    def _load(self) -> nn.Sequential:
        dtype = getattr(torch, self.dtype)
        if self.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
                network = TinyAutoencoder().to(dtype)
        else:
            with torch.device("meta"):
                network = TinyAutoencoder()
            load_weights(network, self._file(), ema=False, dtype=dtype, device=torch.device("cpu"))
        return network.decoder.eval().requires_grad_(False)

    def _file(self) -> Path:
        """The file of weights, in whichever format is there."""
        found = [path for path in self._choices() if path.is_file()]
        if not found:
            names = " nor ".join(path.name for path in self._choices())
            raise UserError(
                f"found neither {names} in {self.folder}: get one from "
                "github.com/madebyollin/taehv, or set model.decoder.folder to where it is"
            )
        return found[0]

    def _choices(self) -> list[Path]:
        return [Path(self.folder) / f"{FILE}{suffix}" for suffix in (".safetensors", ".pth")]


def _through(
    blocks: nn.Sequential, x_BCHW: Tensor, before: dict[int, Tensor], start: int = 0
) -> Iterator[Tensor]:
    """The frames that come of one, in order; every `Memory` remembers what it saw last.

    Zeros come before the first frame.
    """
    for i in range(start, len(blocks)):
        block = blocks[i]
        if isinstance(block, Grow):
            for frame in block(x_BCHW):
                yield from _through(blocks, frame, before, i + 1)
            return
        if isinstance(block, Memory):
            past = before.get(i)
            before[i] = x_BCHW
            x_BCHW = block(x_BCHW, torch.zeros_like(x_BCHW) if past is None else past)
        else:
            x_BCHW = block(x_BCHW)
    yield x_BCHW


def _conv(channels: int, out: int, bias: bool = True, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=bias, stride=stride)


def _finer(width: int, out: int, stride: int) -> list[nn.Module]:
    """A stage of the decoder: twice the grid, `stride` times the frames."""
    grown = [nn.Upsample(scale_factor=2), Grow(width, stride), _conv(width, out, bias=False)]
    return [*(Memory(width) for _ in range(3)), *grown]


def _coarser(width: int, stride: int) -> list[nn.Module]:
    """A stage of the encoder."""
    shrunk = [Shrink(width, stride), _conv(width, width, bias=False, stride=2)]
    return [*shrunk, *(Memory(width) for _ in range(3))]
