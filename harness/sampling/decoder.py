"""What turns latents into pixels, and back where a history must begin with a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from harness.results.video_files import Frames


class Decoder(Protocol):
    """Turns latents into pixels, frame by frame."""

    def locate(self, root: Path) -> None:
        """Look for files below `root`."""

    def decode(self, latents_FChw: Tensor) -> Iterator[Frames]:
        """Per latent frame: uint8 pixels [1 or 4, H, W, 3]."""

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """The whole video at once, on the device [T, 3, H, W] fp32 in -1..1."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""

    def close(self) -> None:
        """Free what was loaded."""


@runtime_checkable
class Codec(Decoder, Protocol):
    """A decoder that encodes, too."""

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Per latent frame: pixels where the decoder lies [1 or 4, 3, H, W] fp32 in -1..1."""

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """The latent of a picture that begins a video [1, C, h, w] fp32; pixels in -1..1."""
