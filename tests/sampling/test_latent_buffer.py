"""Videos of several histories: what is decoded, what is encoded again, and in which phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.cache.integration import Packed
from harness.models.decoders.wan_vae import WanCodec, WanVae
from harness.results.video_files import Frames
from harness.sampling.decoding import Codec, LatentBuffer, pixels
from harness.sampling.loop import Loop
from harness.sampling.passes import NullObserver
from harness.small_model.codec import KeyframeDecoder
from tests.support.families import made, tiny
from tests.support.geometry import BF16
from tests.support.tiny_vae import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wan")
    build().save_pretrained(root / "vae")
    return root


def new(num_frames: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, num_frames, 16, 6, 8, generator=generator)


def as_published(rollouts: list[Tensor], overlap: int) -> tuple[Frames, list[Tensor]]:
    """What CausVid's program for long videos does around its pipeline, by diffusers' own VAE.

    Every rollout is decoded whole, and loses 4 (overlap - 1) + 1 pictures to the next one, which
    begins with the first of these, encoded, and the other overlapping latents as they were. Its
    program cuts the last rollout, too; a video of the length that was asked for keeps it.
    """
    vae = build()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    cut, shown, starts = 4 * (overlap - 1) + 1, [], []
    start = torch.empty(1, 0, 16, 6, 8)
    for i, fresh in enumerate(rollouts):
        latents = torch.cat([start, fresh], dim=1)
        with torch.no_grad():
            video = vae.decode(latents.transpose(1, 2) * std + mean).sample
            z = vae.encode(video[:, :, -cut : video.shape[2] - cut + 1]).latent_dist.mode()
        first = ((z - mean) / std).transpose(1, 2)
        start = torch.cat([first, latents[:, 1 - overlap :]], dim=1)
        starts.append(start)
        shown.append(video[0] if i == len(rollouts) - 1 else video[0, :, :-cut])
    return pixels(torch.cat(shown, dim=1).transpose(0, 1).clamp(-1, 1)), starts


@pytest.mark.parametrize("lean", [True, False])
def test_histories_are_joined_as_published(lean: bool, folder: Path) -> None:
    """Two restarts: 9 frames, 6 more behind an overlap of 3, then 2 more."""
    rollouts = [new(9, 0), new(6, 1), new(2, 2)]
    codec = WanCodec(str(folder), dtype="float32", lean=lean)
    buffer = LatentBuffer(codec, NullObserver())
    buffer.latents += rollouts[0].split(3, dim=1)
    starts = []
    for fresh in rollouts[1:]:
        starts.append(buffer.rejoin(3))
        buffer.latents.append(fresh)
    video = buffer.end(lambda rest: np.concatenate(list(codec.decode(rest))))
    expected, expected_starts = as_published(rollouts, 3)
    assert video.shape == expected.shape == (4 * 16 + 1, 48, 64, 3)  # as of 17 latents in a row
    for found, start in zip(starts, expected_starts, strict=False):
        torch.testing.assert_close(found, start, atol=1e-4, rtol=0)
        assert torch.equal(found[:, 1:], start[:, 1:])
    assert (video != expected).mean() < 1e-3  # rounding between two levels
    assert np.abs(video.astype(int) - expected).max() <= 1


def test_a_codec_is_the_decoder_with_its_encoder(folder: Path) -> None:
    decoder, codec = (kind(str(folder), dtype="float32").to("cpu") for kind in (WanVae, WanCodec))
    assert isinstance(codec, Codec) and not isinstance(decoder, Codec)
    assert isinstance(KeyframeDecoder(weights="seeded"), Codec)
    assert codec.nbytes > decoder.nbytes
    assert codec.hollow().nbytes > decoder.hollow().nbytes
    latents = new(3, 0)[0]
    same = zip(decoder.decode(latents), codec.decode(latents), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)


def test_the_small_models_codec_comes_back_to_the_latents_it_decodes() -> None:
    """Encoding is a projection: what a first picture's latent says of itself is what it was."""
    codec = KeyframeDecoder(weights="seeded")
    with torch.inference_mode():
        frame = next(iter(codec.stream(0.1 * new(1, 0)[0])))
        again = codec.encode(frame)
        twice = codec.encode(next(iter(codec.stream(again))))
    assert again.shape == (1, 16, 6, 8)
    assert (twice - again).abs().mean() < 0.5 * again.abs().mean()


def test_a_loop_that_joins_demands_a_codec() -> None:
    loop = Loop(frames=21, overlap=3)
    loop.check(Packed(), BF16, KeyframeDecoder(weights="seeded"))
    with pytest.raises(ValueError, match=r"WanVae does not encode.*models\.WanCodec"):
        loop.check(Packed(), BF16, WanVae("nowhere"))


class Phases(NullObserver):
    """What a buffer says that it holds, at the end of every phase."""

    def __init__(self) -> None:
        self.buffer: Any = None
        self.seen: list[tuple[str, int, int]] = []

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        yield
        self.seen.append((name, self.buffer.nbytes, self.buffer.decoder_features))


def test_what_is_decoded_is_let_go_and_features_belong_to_the_phase(folder: Path) -> None:
    watcher = Phases()
    codec = WanCodec(str(folder), dtype="float32")
    buffer = watcher.buffer = LatentBuffer(codec, watcher)
    buffer.latents.append(new(9, 0))
    whole = buffer.nbytes
    buffer.rejoin(3)
    assert buffer.nbytes == whole // 3 and buffer.decoder_features == 0
    buffer.end(lambda rest: np.concatenate(list(codec.decode(rest))))
    assert [(name, held) for name, held, _ in watcher.seen] == 2 * [("decode", whole // 3)]
    assert all(features > 0 for *_, features in watcher.seen)
    assert buffer.decoder_features == 0


def test_a_run_of_several_histories_from_prompt_to_row(folder: Path, tmp_path: Path) -> None:
    """Frames of the length that was asked for; seconds of the joints are part of decoding."""
    this = tiny(tmp_path, "causvid", "rtn_int4", 15, "model.loop.frames=9")
    decoder = {"_target_": "harness.models.WanCodec", "folder": str(folder)}
    row = made(replace(this, model={**this.model, "decoder": decoder | {"dtype": "float32"}}))
    assert row["num_pixel_frames"] == 4 * 14 + 1
    assert row["num_passes"] == 5 * (3 + 1) + 1  # a commit of the overlap
    assert row["decode_s"] > 0
