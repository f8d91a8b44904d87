"""Interfaces of decoders: latents to pixels, and pixels back to a latent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from harness.results.video_files import Frames


class Decoder(Protocol):
    """Turns latents into pixels, frame by frame."""

    def locate(self, root: Path) -> None:
        """Set the folder below which the decoder looks for its files."""

    def decode(self, latents_FChw: Tensor) -> Iterator[Frames]:
        """Yield the pixels of one latent frame after the other: uint8 [1 or 4, H, W, 3].

        The first latent frame gives 1 pixel frame, or as many as the decoder's setting
        `first_pixel_frames` says; every other one gives 4.
        """

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """Return the whole video at once, on the device [T, 3, H, W] fp32 in -1..1."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""

    def close(self) -> None:
        """Free the weights."""


@runtime_checkable
class Codec(Decoder, Protocol):
    """A decoder that also encodes."""

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame, on the device [1 or 4, 3, H, W] fp32 in -1..1."""

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """Return the latent [1, C, h, w] fp32 of the first picture of a video; pixels in -1..1."""
