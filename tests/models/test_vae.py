"""Decoders: what streams out equals a decode of the whole video."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.models.decoders import module_decoder
from harness.models.decoders.wan_vae import WanVae
from harness.system.errors import UserError
from tests.support.tiny_vae import TINY, build


def latents(frames: int = 4, channels: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, channels, 6, 8, generator=generator)


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wan")
    build().save_pretrained(root / "vae")
    return root


def whole_decode(z_FChw: Tensor) -> Tensor:
    """Pixels [T, 3, H, W] in -1..1 by diffusers' own decode of the whole video."""
    model = build()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    with torch.no_grad():
        video = model.decode(z_FChw.transpose(0, 1)[None] * std + mean).sample
    return torch.as_tensor(video[0].transpose(0, 1))


def test_wan_streamed_equals_whole(wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole_decode(latents())
    pixels = ((expected + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    decoder = WanVae(str(wan_folder), dtype="float32")
    parts = list(decoder.decode(latents()))
    assert [part.shape for part in parts] == [(1, 48, 64, 3)] + 3 * [(4, 48, 64, 3)]
    differences = np.concatenate(parts) != pixels
    assert differences.mean() < 1e-3  # rounding of values that lie between two levels
    assert 0.001 < (expected.abs() == 1).float().mean() < 0.5
    monkeypatch.setattr(module_decoder, "pixels", lambda frames: frames)
    floats: Any = list(decoder.decode(latents()))
    torch.testing.assert_close(torch.cat(floats), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lean", [True, False])
def test_wan_streams_the_whole_decode_bit_for_bit(lean: bool, dtype: str, tmp_path: Path) -> None:
    """Sizes that fill the kernels' registers, as the published ones do; the lean way needs them."""
    wider: dict[str, Any] = {"base_dim": 16, "dim_mult": [1, 2, 2, 2]} if lean else {}
    build(**wider).save_pretrained(tmp_path / "vae")
    decoder = WanVae(str(tmp_path), dtype=dtype, lean=lean).to("cpu")
    whole = decoder.decode_whole(latents())
    held_by_whole = decoder.feature_bytes
    frames = list(decoder.stream(latents()))
    assert [len(frame) for frame in frames] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(frames), whole)
    assert len(whole.unique()) > 100
    if not lean:  # diffusers' modules untouched: whole is the decode of its own class
        kind = type(build())
        vae = kind.from_pretrained(tmp_path / "vae", torch_dtype=getattr(torch, dtype))
        with torch.no_grad():
            z = decoder._denormalize(latents().transpose(0, 1)[None]).to(vae.dtype)
            theirs = vae.decode(z).sample[0].transpose(0, 1)
        assert torch.equal(theirs.float(), whole)
    assert decoder.feature_bytes == held_by_whole > 0


def test_wan_says_what_it_held_of_earlier_frames(wan_folder: Path) -> None:
    """Two frames of every convolution's input: as much as was taken, and none is kept."""
    decoder = WanVae(str(wan_folder), dtype="float32")
    assert decoder.feature_bytes == 0
    list(decoder.decode(latents(1)))
    of_one = decoder.feature_bytes
    list(decoder.decode(latents(3)))
    of_three = decoder.feature_bytes
    list(decoder.decode(latents(6)))
    assert 0 < of_one < of_three == decoder.feature_bytes  # it grows no longer with the video
    rounded = WanVae(str(wan_folder), dtype="bfloat16")
    list(rounded.decode(latents(3)))
    assert 2 * rounded.feature_bytes == of_three
    first_conv = 2 * 16 * 6 * 8 * 4  # two frames of the latents, fp32
    assert of_three > first_conv


def test_wan_decodes_two_videos_in_turns(wan_folder: Path) -> None:
    decoder = WanVae(str(wan_folder), dtype="float32")
    one, two = (list(decoder.decode(latents(3, seed=seed))) for seed in (1, 2))
    turns = list(
        zip(
            decoder.decode(latents(3, seed=1)),
            decoder.decode(latents(3, seed=2)),
            strict=True,
        )
    )
    assert all(np.array_equal(a, b) for a, (b, _) in zip(one, turns, strict=True))
    assert all(np.array_equal(a, b) for a, (_, b) in zip(two, turns, strict=True))


def test_wan_needs_no_later_frame_and_starts_afresh(wan_folder: Path) -> None:
    decoder = WanVae(str(wan_folder), dtype="float32")
    whole = list(decoder.decode(latents(4)))
    abandoned = decoder.decode(latents(4, seed=9))
    next(abandoned)
    first_two = list(decoder.decode(latents(4)[:2]))
    assert all(np.array_equal(a, b) for a, b in zip(first_two, whole, strict=False))


def test_wan_in_bfloat16_is_close(wan_folder: Path) -> None:
    exact, rounded = (
        np.concatenate(list(WanVae(str(wan_folder), dtype=dtype).decode(latents(2)))).astype(int)
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - rounded).mean() < 3


def test_wan_loads_late_frees_and_carries_no_encoder(wan_folder: Path) -> None:
    decoder = WanVae(str(wan_folder), dtype="float32")
    assert decoder._module is None
    assert decoder.to("cpu") is decoder
    assert decoder._module is not None
    model = weakref.ref(decoder._module)
    assert not any(name.startswith("encoder.") for name in decoder._module.state_dict())
    assert not any(p.requires_grad for p in decoder._module.parameters())
    first = list(decoder.decode(latents(2)))
    assert all(held is None for held in decoder._module._feat_map)
    decoder.close()
    gc.collect()
    assert model() is None
    assert np.array_equal(np.concatenate(first), np.concatenate([*decoder.decode(latents(2))]))
    decoder.close()
    decoder.close()


def test_wan_random_needs_no_folder_and_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny sizes as defaults: the published ones take eight seconds to draw."""
    import diffusers

    tiny_kind = diffusers.AutoencoderKLWan
    monkeypatch.setattr(diffusers, "AutoencoderKLWan", lambda: tiny_kind(**TINY))
    videos = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            before = torch.manual_seed(seed).get_state()
            videos.append(np.concatenate(list(WanVae("/nowhere", "random").decode(latents(2)))))
            assert torch.equal(before, torch.random.get_rng_state())
    one, two = videos
    assert np.array_equal(one, two) and one.shape == (5, 48, 64, 3)


def test_wan_missing_folder_says_what_to_fetch(tmp_path: Path) -> None:
    decoder = WanVae(str(tmp_path))
    with pytest.raises(UserError) as caught:
        decoder.to("cpu")
    message = str(caught.value)
    assert str(tmp_path / "vae") in message
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --include 'vae/*'" in message


def test_wan_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'video-kv-bench\[wan\]'"):
        WanVae("", "random").to("cpu")


def test_wan_refuses_settings_and_latents_that_do_not_fit(wan_folder: Path) -> None:
    with pytest.raises(UserError, match=r"vae\.dtype=int8"):
        WanVae("", dtype="int8")
    with pytest.raises(UserError, match=r"vae\.weights=none"):
        WanVae("", "none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="4 channels and the decoder takes 16"):
        WanVae(str(wan_folder)).decode(latents(channels=4))


@pytest.mark.parametrize("damage", ["lacking", "torn", "empty"])
def test_wan_damaged_weights(damage: str, wan_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    if damage != "empty":
        build().save_pretrained(tmp_path / "vae")
        weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
        if damage == "torn":
            weights.write_bytes(weights.read_bytes()[:-1000])
        else:
            from safetensors.torch import load_file, save_file

            state = load_file(weights)
            del state["decoder.conv_out.weight"]
            save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="download it again"):
        WanVae(str(tmp_path)).to("cpu")


def test_wan_refuses_the_other_vae(tmp_path: Path) -> None:
    build(patch_size=2, in_channels=12, out_channels=12).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match=r"Wan2\.2"):
        WanVae(str(tmp_path)).to("cpu")
