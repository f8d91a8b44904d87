"""The linear encoder, the learned decoder, its shipped weights and its training."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

from harness.models.checkpoints import bundled as bundled_module
from harness.models.checkpoints.bundled import bundled
from harness.planning.live_bytes import on_meta
from harness.scoring.metrics import psnr
from harness.small_model import codec
from harness.small_model.codec import CHANNELS, KeyframeDecoder, encode, fade, linear, preview
from harness.small_model.scenes.clip import clip
from harness.small_model.training import decoder as training
from harness.small_model.training.decoder import Settings, Training
from harness.system.errors import UserError

FEW = Settings(steps=8, batch=2, pool=4, fresh=1)


def latents(frames: int = 4, height: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 16, height, width, generator=generator)


def slopes() -> NDArray[np.uint8]:
    """Smooth frames [2, 32, 48, 3], each colour with a slope of its own."""
    y, x = np.mgrid[:32, :48]
    one = np.stack([40 + 3 * x, 60 + 4 * y, 200 - x - y], axis=-1)
    return np.stack([one, 255 - one]).astype(np.uint8)


def untrained() -> KeyframeDecoder:
    return KeyframeDecoder(weights="seeded")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_latents_are_scaled_dct_coefficients_of_rotated_colours() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    found = encode(frames)
    r, g, b = np.moveaxis(frames[0].astype(np.float64) / 127.5 - 1, -1, 0)
    axes = [(r + g + b) / 3**0.5, (r - b) / 2**0.5, (2 * g - r - b) / 6**0.5]
    assert found.shape == (1, 16, 2, 3) and found.dtype == torch.float32
    for number, channel in enumerate(CHANNELS):
        block = dctn(axes[channel.axis][8:16, 16:24], norm="ortho")
        expected = (block[channel.row, channel.column] - channel.mean) / channel.scale
        assert found[0, number, 1, 2] == pytest.approx(expected, abs=1e-5)


def test_smooth_frames_come_back() -> None:
    frames = slopes()
    assert psnr.per_frame(preview(encode(frames)), frames).min() > 38
    plain = np.broadcast_to(np.array([10, 128, 251], np.uint8), (1, 8, 16, 3)).copy()
    assert np.array_equal(preview(encode(plain)), plain)


def test_linear_decode_loses_nothing_that_latents_hold() -> None:
    z = latents()
    frames = linear(z)
    assert frames.shape == (4, 3, 48, 40)
    basis, mean, scale = codec._transform(torch.device("cpu"))
    again = (torch.nn.functional.conv2d(frames, basis, stride=8) - mean) / scale
    torch.testing.assert_close(again, z, atol=1e-5, rtol=0)


def test_encoding_takes_arrays_and_tensors_alike() -> None:
    frames = slopes()
    assert torch.equal(encode(frames), encode(torch.from_numpy(frames)))


@pytest.mark.parametrize("shape", [(1, 12, 16, 3), (1, 16, 12, 3), (1, 16, 16, 4), (16, 16, 3)])
def test_encoding_refuses_what_blocks_do_not_fill(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=re.escape(str(list(shape)))):
        encode(np.zeros(shape, np.uint8))


def test_constants_made_while_generating_serve_training() -> None:
    codec._transform.cache_clear()
    with torch.inference_mode():
        linear(latents())
    z = latents().requires_grad_()
    linear(z).sum().backward()
    assert z.grad is not None and z.grad.abs().sum() > 0


def test_fading_ends_at_the_keyframe() -> None:
    before, now = latents(2), latents(2, seed=1)
    frames = fade(before, now)
    torch.testing.assert_close(frames[:, 3], linear(now))
    torch.testing.assert_close(frames[:, 1], (linear(before) + linear(now)) / 2)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (6, 5), (1, 1)])
def test_decoded_shapes(height: int, width: int) -> None:
    parts = list(untrained().decode(latents(3, height, width)))
    assert untrained().stride == (4, 8)
    size = (8 * height, 8 * width, 3)
    assert [part.shape for part in parts] == [(1, *size), (4, *size), (4, *size)]
    assert all(part.dtype == np.uint8 for part in parts)


def test_streamed_equals_whole_and_the_network_over_all_pairs() -> None:
    decoder, z = untrained(), latents(5)
    whole = decoder.decode_whole(z)
    assert whole.shape == (17, 3, 48, 40) and whole.dtype == torch.float32
    assert torch.equal(torch.cat(list(decoder.stream(z))), whole)
    levels = ((whole + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.concatenate(list(decoder.decode(z))), levels)
    with torch.no_grad():
        at_once = codec.seeded()(torch.cat([z[:1], z[:-1]]), z).clamp(-1, 1)
    torch.testing.assert_close(at_once.flatten(0, 1)[3:], whole, atol=1e-5, rtol=0)


def test_decoding_needs_no_later_frame_and_starts_afresh() -> None:
    decoder, broken = untrained(), latents(4)
    broken[2:] = float("nan")
    stream, clean = decoder.decode(broken), decoder.decode(latents(4))
    for _ in range(2):
        assert np.array_equal(next(stream), next(clean))
    assert np.array_equal(next(decoder.decode(latents(4))), next(untrained().decode(latents(4))))


def test_each_pixel_frame_depends_on_both_latent_frames() -> None:
    z, other = latents(2), latents(2)
    other[0] += 1
    frames, changed = (untrained().decode_whole(x)[1:] for x in (z, other))
    assert ((frames - changed).abs().amax((1, 2, 3)) > 1e-4).all()


def test_decoder_loads_late_counts_and_frees() -> None:
    decoder = untrained()
    assert decoder.nbytes == 0
    assert decoder.to("cpu") is decoder
    assert 4 * 100_000 < decoder.nbytes < 4 * 250_000
    hollow = decoder.hollow()
    with torch.inference_mode():
        shapes = [x.shape for x in hollow.stream(on_meta((2, 16, 8, 8), torch.bfloat16))]
    assert shapes == [(1, 3, 64, 64), (4, 3, 64, 64)]
    assert hollow.nbytes == decoder.nbytes
    decoder.close()
    assert decoder.nbytes == 0


def test_seeded_weights_disturb_no_other_generator() -> None:
    before = torch.random.get_rng_state()
    one, two = untrained().decode_whole(latents()), untrained().decode_whole(latents())
    assert torch.equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())


def test_decoder_refuses_settings_and_latents_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"decoder\.weights=none: choose bundled or seeded"):
        KeyframeDecoder(weights="none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"needs decoder\.sha256"):
        KeyframeDecoder()
    for call in (untrained().decode, untrained().decode_whole, preview):
        with pytest.raises(UserError, match="4 channels and the decoder takes 16"):
            call(latents()[:, :4])


@pytest.mark.parametrize("damage", ["missing", "torn", "changed", "empty"])
def test_damaged_weights_are_one_sentence(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_module, "FOLDER", tmp_path)
    path = tmp_path / "decoder.safetensors"
    expected = training.export(codec.seeded(), path)
    assert bundled("decoder.safetensors", expected) == path
    content = path.read_bytes()
    damaged = {"torn": content[:-1000], "changed": content[:-1] + b"?", "empty": b""}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    with pytest.raises(UserError) as caught:
        KeyframeDecoder(expected).to("cpu")
    message = str(caught.value)
    assert "\n" not in message and expected in message
    assert f"git checkout -- {path}" in message
    if damage != "missing":
        assert digest(path) in message and f"{len(damaged[damage])} bytes" in message


def test_exported_weights_are_read_back_in_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_module, "FOLDER", tmp_path)
    sha256 = training.export(codec.seeded(), tmp_path / "decoder.safetensors")
    assert sha256 == digest(tmp_path / "decoder.safetensors")
    found = KeyframeDecoder(sha256).decode_whole(latents())
    torch.testing.assert_close(found, untrained().decode_whole(latents()), atol=2e-3, rtol=0)


def test_shipped_decoder_beats_the_linear_one_on_held_out_clips() -> None:
    path = bundled_module.FOLDER / "decoder.safetensors"
    assert path.stat().st_size < 1_000_000
    decoder = KeyframeDecoder(digest(path))
    key, between, plain = training.held_out(decoder, num_clips=3)
    assert key > plain + 2
    assert key > 29 and between > 26


def test_pairs_are_a_keyframe_and_the_four_frames_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = training.pair(seed=0, number=3)
    assert found.shape == (5, 128, 128, 3)
    assert np.array_equal(found, training.pair(seed=0, number=3))
    assert not np.array_equal(found, training.pair(seed=0, number=4))
    monkeypatch.setattr(training, "_STILL", 1.0)
    still = training.pair(seed=0, number=3)
    assert (still == still[0]).all()


def test_a_still_pair_keeps_equal_latents_under_noise() -> None:
    frames = torch.from_numpy(clip(1).keyframes(range(0, 20, 4)))
    still = frames[:1].expand(5, -1, -1, -1)
    before, now = training.noisy(torch.stack([still, frames]), 0.1, torch.Generator())
    clean = encode(frames)
    assert torch.equal(before[0], now[0]) and not torch.equal(now[0], clean[0])
    assert 0 < (before[1] - clean[0]).std() < 0.11
    assert not torch.allclose(before[1] - clean[0], now[1] - clean[-1], atol=1e-3)


def test_loss_counts_edges_beside_pixels() -> None:
    truth = torch.zeros(1, 1, 1, 4, 4)
    assert training.loss_of(truth, truth) == 0
    assert training.loss_of(truth + 0.1, truth) == pytest.approx(0.1)
    stripes = truth + torch.tensor([0.0, 0.2, 0.0, 0.2])
    assert training.loss_of(stripes, truth) == pytest.approx(0.1 + 0.5 * 0.2)


def test_learning_rate_rises_and_falls() -> None:
    rates = [training.rate(step, 1000) for step in range(1001)]
    assert np.argmax(rates) in range(150, 250)
    assert max(rates) < training._PEAK and rates[1000] == 0
    assert (np.diff(rates[250:]) < 0).all()


def test_a_resumed_training_equals_one_in_one_go(tmp_path: Path) -> None:
    once = Training(FEW, tmp_path / "once")
    once.run(4)
    Training(FEW, tmp_path / "twice").run(2)
    again = Training(FEW, tmp_path / "twice")
    assert again.step == 2
    again.run(4)
    start = codec.seeded().state_dict()
    for name, weight in once.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
        assert not torch.equal(weight, start[name])


def test_training_refuses_a_state_of_other_settings(tmp_path: Path) -> None:
    Training(FEW, tmp_path).run(1)
    with pytest.raises(UserError, match="give the same settings or another --state"):
        Training(Settings(steps=9, batch=2, pool=4, fresh=1), tmp_path)
