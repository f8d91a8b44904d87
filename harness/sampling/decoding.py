"""Decoders: their interface, and the buffer that decodes the finished latents of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.cache.numerics import are_finite
from harness.results.video_files import Frames
from harness.sampling.passes import Observer
from harness.system.errors import NotFinite


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


@dataclass
class LatentBuffer:
    """Buffer of the latents of one video (batch 1), which it decodes.

    Normally the whole video is decoded once, after the cache is freed. A loop that restarts
    histories decodes each one before it starts the next (`rejoin`); only the prompt's keys and
    values stay in memory.

    latents: chunks [1, F, C, h, w] that are not decoded yet.
    finished: decoded pixels.
    decoder_features: most bytes that the decoder held for features of earlier frames; 0 except at
        the end of a decoding phase.
    """

    decoder: Decoder
    observer: Observer
    latents: list[Tensor] = field(default_factory=list)
    finished: list[Frames] = field(default_factory=list)
    decoder_features: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the latents that are not decoded yet."""
        return sum(x.nbytes for x in self.latents)

    def rejoin(self, overlap: int) -> Tensor:
        """Decode a history and return the latents that the next history starts from.

        Decodes up to the first of the newest `overlap` latents and encodes the last picture again
        as the first latent of the next history. The other overlapping latents stay as they are.

        Shapes  -> [1, overlap, C, h, w] in the dtype of the latents.
        """
        with self._decoding():
            codec, latents = cast(Codec, self.decoder), torch.cat(self.latents, dim=1)
            # The first overlapping latent is decoded too: its last picture starts the next history.
            end = latents.shape[1] - overlap + 1
            self.latents.clear()
            with torch.inference_mode():
                for frames_T3HW in codec.stream(latents[0, :end]):
                    self.finished.append(pixels(frames_T3HW))
                first = codec.encode(frames_T3HW[-1:]).to(latents)
            # The next history decodes this picture from its new latent; do not show it twice. The
            # remaining latents of the overlap were not decoded here, so they stay as they are.
            self.finished[-1] = self.finished[-1][:-1]
            self.latents.append(torch.cat([first[None], latents[:, end:]], dim=1))
        return self.latents[0]

    def end(self, decode: Callable[[Tensor], Frames]) -> Frames:
        """Return all pixels of the video; `decode` turns the remaining [F, C, h, w] into pixels."""
        with self._decoding():
            # Batch 1: a session holds one video.
            rest = decode(torch.cat(self.latents, dim=1)[0])
            return np.concatenate([*self.finished, rest]) if self.finished else rest

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Surround a decoding phase; `decoder_features` is set while the observer ends it."""
        with self.observer.phase("decode"):
            yield
            # Set it before the phase ends, because the phase's ledger is read then.
            self.decoder_features = getattr(self.decoder, "feature_bytes", 0)
        self.decoder_features = 0


def pixels(frames_T3HW: Tensor) -> NDArray[np.uint8]:
    """Convert pixels [T, 3, H, W] in -1..1 to uint8 [T, H, W, 3] on the host, rounded to nearest.

    Raises  NotFinite: pixels that are not finite.
    """
    # As bytes, NaN would become black and look like a picture.
    if not are_finite(frames_T3HW):
        raise NotFinite("the decoder gives pixels that are not finite, of latents that are")
    # Rounded to nearest: a cast alone would cut off, half a level darker on average.
    levels = ((frames_T3HW + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
