"""A small, fast decoder of Wan2.1 latents, for previews.

Its pixels are never scored: `score` leaves quality null and gives the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.checkpoints.load import load_weights
from harness.models.decoders.module_decoder import ModuleDecoder, Weights, demand_channels, seeded
from harness.system.errors import UserError

FILE = "taew2_1"  # .pth or .safetensors, in the decoder's folder
_WIDTHS = (256, 128, 64, 64)  # channels at the resolution of latents and at the finer ones
_LATENT, _COLOURS = 16, 3


class Memory(nn.Module):
    """A residual block over a frame and the previous frame's input to the same block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x_BCHW: Tensor, before_BCHW: Tensor) -> Tensor:
        """Run the block: two inputs [B, C, H, W] -> [B, C, H, W]."""
        return F.relu(self.conv(torch.cat([x_BCHW, before_BCHW], dim=1)) + x_BCHW)


class Grow(nn.Module):
    """Expands one frame to `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield `stride` frames [B, C, H, W], earliest first."""
        yield from self.conv(x_BCHW).chunk(self.stride, dim=1)


class Shrink(nn.Module):
    """Merges `stride` frames, stacked as channels, into one; only the encoder has it."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)


class Squash(nn.Module):
    """Limits latents smoothly to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """Return 3 tanh(x / 3)."""
        return torch.tanh(x / 3) * 3


class TinyAutoencoder(nn.Module):
    """The layers, with the names of the published files.

    Source  TAEHV, `taew2_1`: 11,315,539 parameters, 9,844,611 of them the decoder's.
    """

    def __init__(self) -> None:
        super().__init__()
        # Only layers: published files hold an encoder and must match exactly. It cannot run.
        self.encoder = nn.Sequential(_conv(_COLOURS, 64), nn.ReLU())
        for stride in (2, 2, 1):  # half the resolution, 1 / stride of the frames
            self.encoder.extend([Shrink(64, stride), _conv(64, 64, bias=False, stride=2)])
            self.encoder.extend(Memory(64) for _ in range(3))
        self.encoder.append(_conv(64, _LATENT))
        self.decoder = nn.Sequential(Squash(), _conv(_LATENT, _WIDTHS[0]), nn.ReLU())
        # Three stages, each from one width to the next, with twice the resolution; the last two
        # double the frames.
        for width, out, stride in zip(_WIDTHS, _WIDTHS[1:], (1, 2, 2), strict=False):
            # Made before the blocks that stand before them: seeded weights depend on the order.
            grow, conv = Grow(width, stride), _conv(width, out, bias=False)
            self.decoder.extend(Memory(width) for _ in range(3))
            self.decoder.extend([nn.Upsample(scale_factor=2), grow, conv])
        self.decoder.extend([nn.ReLU(), _conv(_WIDTHS[-1], _COLOURS)])


class WanPreview(ModuleDecoder):
    """Decodes latents frame by frame with the small decoder; equal to decoding all at once.

    folder: contains taew2_1.pth or taew2_1.safetensors.
    weights: `checkpoint`, or `random`, which needs no file.
    dtype: bfloat16, float16 or float32.

    Source  TAEHV (github.com/madebyollin/taehv), for Wan2.1.
    Shapes  normalised latents [F, 16, h, w] -> per frame uint8 [1 or 4, 8 h, 8 w, 3].
    Raises  UserError, from `to` or `decode`: the file is missing or of a different network; latents
            have a different number of channels.
    """

    setting: ClassVar[str] = "decoder"
    preview: ClassVar[bool] = True  # scoring leaves the quality of such a decoder's pixels null

    def __init__(
        self,
        folder: str,
        weights: Weights = "checkpoint",
        dtype: str = "bfloat16",
    ) -> None:
        super().__init__(folder, weights, dtype)
        self.feature_bytes = 0

    def locate(self, root: Path) -> None:
        """Resolve a relative folder below `root`."""
        self.folder = str(root / self.folder)

    def missing(self) -> list[Path]:
        """Return the folder if `decode` needs a file that it lacks."""
        # The folder stands for the file, which may have one of two names.
        needed = self.weights == "checkpoint" and not any(x.is_file() for x in self._choices())
        return [Path(self.folder)] if needed else []

    def hollow(self) -> WanPreview:
        """Return the same decoder on the meta device: true sizes without values or files."""
        # The planner runs it to count the bytes of a decode.
        hollow = WanPreview(self.folder, self.weights, self.dtype)
        with torch.device("meta"):
            hollow._module = TinyAutoencoder().decoder.to(getattr(torch, self.dtype))
        return hollow

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1."""
        decoder = self._loaded(latents_FChw.device)
        # Before the generator: its body runs only once the first frame is asked for.
        demand_channels(latents_FChw, _LATENT)
        return self._stream(decoder, latents_FChw)

    def _stream(self, decoder: nn.Sequential, latents_FChw: Tensor) -> Iterator[Tensor]:
        before: dict[int, Tensor] = {}  # the last input of each `Memory`, by block number
        self.feature_bytes = 0
        for i, latent in enumerate(latents_FChw.split(1)):
            with torch.no_grad():
                x = latent.to(getattr(torch, self.dtype))
                frames = torch.cat(list(_run_blocks(decoder, x, before)))
            self.feature_bytes = max(self.feature_bytes, sum(x.nbytes for x in before.values()))
            # The VAE gives one pixel frame for the first latent frame. With the last of the four,
            # the video has the same length and frames stand at the same times.
            shown = frames[-1:] if i == 0 else frames
            yield shown.float().clamp(0, 1) * 2 - 1

    def _load(self) -> nn.Sequential:
        dtype = getattr(torch, self.dtype)
        if self.weights == "random":
            network = seeded(lambda: TinyAutoencoder().to(dtype))
        else:
            with torch.device("meta"):
                network = TinyAutoencoder()
            found = [path for path in self._choices() if path.is_file()]
            if not found:
                names = " nor ".join(path.name for path in self._choices())
                raise UserError(
                    f"found neither {names} in {self.folder}: get one from "
                    "github.com/madebyollin/taehv, or set model.decoder.folder to where it is"
                )
            load_weights(network, found[0], ema=False, dtype=dtype, device=torch.device("cpu"))
        return network.decoder.eval().requires_grad_(False)

    def _choices(self) -> list[Path]:
        """Return the paths at which the weights may be, in order of preference."""
        return [Path(self.folder) / f"{FILE}{suffix}" for suffix in (".safetensors", ".pth")]


def _run_blocks(
    blocks: nn.Sequential, x_BCHW: Tensor, before: dict[int, Tensor], start: int = 0
) -> Iterator[Tensor]:
    """Yield the output frames of one input frame, in order.

    before: the last input of each `Memory`, updated here. A block without one uses zeros.
    """
    # Depth first: a frame passes through all blocks before the next one begins, so only one frame
    # of the finest and largest stage exists at a time.
    for i in range(start, len(blocks)):
        block = blocks[i]
        # The later blocks take the new frames one by one, since each needs the one before it.
        if isinstance(block, Grow):
            for frame in block(x_BCHW):
                yield from _run_blocks(blocks, frame, before, i + 1)
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
