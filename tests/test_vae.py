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
import torch.nn.functional as F
from torch import Tensor

from harness.errors import UserError
from harness.models import vae as vae_module
from harness.models.vae import BlobDecoder, WanVae

TINY = {
    "base_dim": 3,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}


def latents(frames: int = 4, channels: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, channels, 6, 8, generator=generator)


def test_blobs_have_the_shapes_of_a_video() -> None:
    decoder = BlobDecoder(channels=16)
    parts = list(decoder.decode(latents()))
    assert decoder.stride == (4, 8)
    assert [part.shape for part in parts] == [(1, 48, 64, 3)] + 3 * [(4, 48, 64, 3)]
    assert all(part.dtype == np.uint8 for part in parts)
    assert BlobDecoder(16, spatial=4).stride == (4, 4)
    assert next(BlobDecoder(16, spatial=4).decode(latents())).shape == (1, 24, 32, 3)


def test_blobs_streamed_equal_blobs_at_once() -> None:
    """Against a decode of the whole video: time and space interpolated in one call each."""
    z = latents(5)
    decoder = BlobDecoder(channels=16, seed=2)
    rgb = torch.einsum("fchw,cr->rfhw", z, decoder._colours())
    for _ in range(2):
        rgb = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    times = F.interpolate(
        rgb.permute(2, 3, 0, 1).flatten(0, 1), 17, mode="linear", align_corners=True
    )
    frames = times.reshape(6, 8, 3, 17).permute(3, 2, 0, 1)
    whole = F.interpolate(3 * frames, scale_factor=8, mode="bicubic").tanh()
    expected = ((whole + 1) * 127.5).permute(0, 2, 3, 1)
    streamed = torch.from_numpy(np.concatenate(list(decoder.decode(z)))).float()
    assert streamed.shape == expected.shape
    assert (streamed - expected).abs().max() < 0.501  # rounded, not cut


def test_blobs_need_no_later_frame() -> None:
    z = latents(5)
    z[3:] = float("nan")
    decoder = BlobDecoder(channels=16)
    stream, clean = decoder.decode(z), decoder.decode(latents(5))
    for _ in range(3):
        assert np.array_equal(next(stream), next(clean))


def test_blobs_are_colourful_smooth_and_depend_on_seed_only() -> None:
    frames = np.concatenate(list(BlobDecoder(16).decode(latents()))).astype(float)
    again = np.concatenate(list(BlobDecoder(16).decode(latents())))
    assert np.array_equal(frames, again)
    assert not np.array_equal(frames, np.concatenate(list(BlobDecoder(16, 1).decode(latents()))))
    assert frames.std((0, 1, 2)).min() > 30  # every colour varies
    assert np.ptp(frames, axis=3).mean() > 50  # far from grey
    assert np.abs(np.diff(frames, axis=2)).mean() < 10  # no steps between neighbours


def test_blobs_refuse_other_channels() -> None:
    with pytest.raises(UserError, match="16 channels and the decoder takes 4"):
        BlobDecoder(4).decode(latents())
    with pytest.raises(UserError, match="at least 3 channels"):
        BlobDecoder(2)


def build(**changes: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = diffusers.AutoencoderKLWan(**(TINY | changes))
    model.decoder.conv_out.weight.data.mul_(8)  # contrast enough that some pixels are clamped
    return model


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
    monkeypatch.setattr(vae_module, "pixels", lambda frames: frames)
    floats: Any = list(decoder.decode(latents()))
    torch.testing.assert_close(torch.cat(floats), expected, atol=1e-5, rtol=0)


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
    assert decoder._vae is None
    assert decoder.to("cpu") is decoder
    assert decoder._vae is not None
    model = weakref.ref(decoder._vae)
    assert not any(name.startswith("encoder.") for name in decoder._vae.state_dict())
    assert not any(p.requires_grad for p in decoder._vae.parameters())
    first = list(decoder.decode(latents(2)))
    assert all(held is None for held in decoder._vae._feat_map)
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
    with pytest.raises(UserError, match=r"pip install -e '\.\[wan\]'"):
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
