"""The ViT-VAE of MAGI-1 against recordings of the original, at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.models.decoders.vit_vae import (
    PART,
    SCALE,
    ViTCodec,
    ViTDims,
    ViTNetwork,
    ViTVae,
    tiled,
)
from harness.sampling.decoding import Codec, pixels
from harness.system.errors import UserError

TOLERANCE = 1e-5
TINY = ViTDims(
    dim=64,
    num_layers=2,
    num_heads=4,
    ffn_dim=128,
    latent_channels=6,
    patch=(2, 4, 4),
    clip=(8, 32, 32),
)
TILE = (4, 32, 32)


def network(weights: dict[str, Tensor]) -> ViTNetwork:
    vae = ViTNetwork(TINY)
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False)


def write(weights: dict[str, Tensor], root: Path) -> Path:
    """Write a checkpoint in the released layout."""
    (root / PART).mkdir(parents=True)
    save_file(weights, root / PART / "diffusion_pytorch_model.safetensors")
    (root / PART / "config.json").write_text('{"_class_name": "ViTVAE"}')
    return root


def tiny(root: Path, kind: type[ViTVae] = ViTVae, **changes: Any) -> Any:
    settings: dict[str, Any] = {"dims": TINY, "chunk_frames": 4, "tile": TILE, "dtype": "float32"}
    return kind(str(root), **settings | changes)


def made_up(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state = ViTNetwork(TINY).state_dict()
    return {name: 0.2 * torch.randn(x.shape, generator=draw) for name, x in state.items()}


@pytest.mark.parametrize("case", [0, 1], ids=["native size", "other size"])
@torch.inference_mode()
def test_tiles_are_those_of_the_original(golden: Any, case: int) -> None:
    recording = golden("magi/vae.pt")
    vae, each = network(recording["weights"]), recording["cases"][case]
    torch.testing.assert_close(vae.encoder(each["x"]), each["z"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(vae.decoder(each["z"]), each["decoded"], atol=TOLERANCE, rtol=0)


def test_tiled_videos_are_those_of_the_original(golden: Any, tmp_path: Path) -> None:
    """Tiles at the edges are smaller, and the last one in time has a single latent frame."""
    recording = golden("magi/vae.pt")
    each = recording["tiled"]
    assert (each["tile_frames"], each["tile_h"], each["tile_w"]) == TILE
    codec = tiny(write(recording["weights"], tmp_path), ViTCodec, chunk_frames=6)
    z = codec.encode(each["x"][0].transpose(0, 1))
    torch.testing.assert_close(z / SCALE, each["z"][0].transpose(0, 1), atol=TOLERANCE, rtol=0)
    parts = list(codec.stream(each["z"][0].transpose(0, 1) * SCALE))
    assert [len(part) for part in parts] == [2, 2, 2, 2, 1]
    expected = each["decoded"][0].transpose(0, 1).clamp(-1, 1)
    torch.testing.assert_close(torch.cat(parts), expected, atol=TOLERANCE, rtol=0)


def test_one_picture_is_encoded_as_a_still_clip() -> None:
    vae = network(made_up())
    picture = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(vae.encoder(picture), vae.encoder(picture.expand(-1, -1, 2, -1, -1)))


@pytest.mark.parametrize("chained", [False, True])
def test_tiles_of_a_function_without_borders_fit_together(chained: bool) -> None:
    x = torch.rand(2, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    found = tiled(lambda part: part.repeat_interleave(2, -1), x, (8, 8), (8, 16), chained)
    torch.testing.assert_close(found, x.repeat_interleave(2, -1))


def test_chunks_are_decoded_alone(tmp_path: Path) -> None:
    vae = tiny(write(made_up(), tmp_path))
    latents = torch.randn(8, 6, 8, 8, generator=torch.Generator().manual_seed(2))
    whole = vae.decode_whole(latents)
    assert whole.shape == (16, 3, 32, 32) and whole.abs().max() <= 1
    alone = [vae.decode_whole(chunk) for chunk in latents.split(4)]
    assert torch.equal(whole, torch.cat(alone))
    frames = list(vae.decode(latents))
    assert len(frames) == 8 and frames[0].shape == (2, 32, 32, 3)
    assert (pixels(whole)[:2] == frames[0]).all()


def test_the_encoder_is_loaded_by_the_codec_only(tmp_path: Path) -> None:
    root = write(made_up(), tmp_path)
    vae, codec = tiny(root).to("cpu"), tiny(root, ViTCodec).to("cpu")
    assert 0 < vae.nbytes < 0.6 * codec.nbytes
    assert isinstance(codec, Codec) and not isinstance(vae, Codec)
    vae.close()
    assert vae.nbytes == 0


def test_random_weights_need_no_files(tmp_path: Path) -> None:
    vae = tiny(tmp_path, weights="random", dtype="bfloat16")
    assert vae.missing() == []
    latents = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(2))
    first = list(vae.decode(latents))
    vae.close()
    assert all((a == b).all() for a, b in zip(first, vae.decode(latents), strict=True))


def test_true_size() -> None:
    with torch.device("meta"):
        vae = ViTNetwork(ViTDims())
    state = vae.state_dict()
    assert state["decoder.pos_embed"].shape == (1, 4 * 32 * 32 + 1, 1024)
    assert state["decoder.last_layer.weight"].shape == (3, 4, 3, 3, 3)
    # The released file takes about 2.4 GB, in fp32.
    assert 2.3e9 < sum(4 * x.numel() for x in state.values()) < 2.5e9


def test_missing_and_wrong_files_are_refused(tmp_path: Path) -> None:
    vae = tiny(tmp_path)
    assert vae.missing() == [tmp_path / PART]
    with pytest.raises(UserError, match="hf download sand-ai/MAGI-1 --include 'ckpt/vae/\\*'"):
        vae.to("cpu")
    weights = made_up()
    del weights["decoder.proj_in.bias"]
    write(weights, tmp_path)
    with pytest.raises(UserError, match=r"1 missing \(decoder.proj_in.bias\)"):
        vae.to("cpu")


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [({"weights": "none"}, "checkpoint or random"), ({"dtype": "int8"}, "bfloat16, float16")],
)
def test_other_words_are_refused(tmp_path: Path, changes: dict[str, str], allowed: str) -> None:
    with pytest.raises(UserError, match=allowed):
        tiny(tmp_path, **changes)


def test_latents_of_another_model_are_refused(tmp_path: Path) -> None:
    vae = tiny(tmp_path, weights="random")
    with pytest.raises(UserError, match="16 channels and the decoder takes 6"):
        vae.decode(torch.zeros(1, 16, 8, 8))
