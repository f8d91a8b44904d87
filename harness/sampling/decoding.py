"""A video between network and file: latents that wait for the decoder, pixels that are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.cache.numerics import are_finite
from harness.results.video_files import Frames
from harness.sampling.decoder import Codec, Decoder
from harness.sampling.passes import Observer
from harness.system.errors import NotFinite


@dataclass
class Reel:
    """Collects the latents of one video of one sample, and decodes them.

    Most loops have all decoded at the end, once history is freed. A loop that begins histories
    anew has each decoded before the next (`rejoin`); only the prompt's keys and values live beside.
    decoder_features: bytes that the decoder held of earlier frames, while a phase is decoding.
    """

    decoder: Decoder
    observer: Observer
    latents: list[Tensor] = field(default_factory=list)
    finished: list[Frames] = field(default_factory=list)
    decoder_features: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the latents that wait."""
        return sum(x.nbytes for x in self.latents)

    def rejoin(self, overlap: int) -> Tensor:
        """Decode up to the first of the newest latents, and begin a video with its last picture.

        That picture is encoded and not shown: the next history shows what becomes of it. The other
        overlapping latents stay as they are, for both the network and the decoder.

        Shapes  -> [1, overlap, C, h, w] in the dtype of the latents.
        """
        with self._decoding():
            codec, latents = cast(Codec, self.decoder), torch.cat(self.latents, dim=1)
            end = latents.shape[1] - overlap + 1
            self.latents.clear()
            with torch.inference_mode():
                for frames_T3HW in codec.stream(latents[0, :end]):
                    self.finished.append(pixels(frames_T3HW))
                first = codec.encode(frames_T3HW[-1:]).to(latents)
            self.finished[-1] = self.finished[-1][:-1]
            self.latents.append(torch.cat([first[None], latents[:, end:]], dim=1))
        return self.latents[0]

    def end(self, decode: Callable[[Tensor], Frames]) -> Frames:
        """All pixels of the video; `decode` makes those of the latents [F, C, h, w] that wait."""
        with self._decoding():
            rest = decode(torch.cat(self.latents, dim=1)[0])
            return np.concatenate([*self.finished, rest]) if self.finished else rest

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """A phase in which what the decoder holds of earlier frames is known."""
        with self.observer.phase("decode"):
            yield
            self.decoder_features = getattr(self.decoder, "feature_bytes", 0)
        self.decoder_features = 0


def pixels(frames_T3HW: Tensor) -> NDArray[np.uint8]:
    """[T, 3, H, W] in -1..1 -> uint8 [T, H, W, 3] on the host, rounded to nearest.

    Raises  NotFinite: NaN, of which bytes would make black.
    """
    if not are_finite(frames_T3HW):
        raise NotFinite("the decoder gives pixels that are not finite, of latents that are")
    levels = ((frames_T3HW + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
