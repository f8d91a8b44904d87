"""The small decoder for previews: its layers, its frames, and that nobody scores them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.config.compose import configured
from harness.models.decoders.preview import Grow, Memory, TinyAutoencoder, WanPreview
from harness.results import all_runs
from harness.sampling.decoding import Codec
from harness.scoring.score import PREVIEW, lacking, score
from harness.system.errors import UserError
from tests.support.families import made, tiny


@pytest.fixture(scope="module")
def network() -> TinyAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = TinyAutoencoder().eval()
    last = network.decoder[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.weight.data.mul_(50)  # contrast enough that some pixels are clamped
    last.bias.data.fill_(0.5)
    return network


@pytest.fixture
def folder(network: TinyAutoencoder, tmp_path: Path) -> Path:
    torch.save(network.state_dict(), tmp_path / "taew2_1.pth")
    return tmp_path


def latents(num_frames: int) -> Tensor:
    return torch.randn(num_frames, 16, 4, 6, generator=torch.Generator().manual_seed(0))


def at_once(decoder: nn.Sequential, z_FChw: Tensor) -> Tensor:
    """All frames through a layer before the next: frames as a batch, the past shifted in."""
    x = z_FChw
    with torch.no_grad():
        for block in decoder:
            if isinstance(block, Memory):
                x = block(x, F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:-1])
            elif isinstance(block, Grow):
                wide = block.conv(x)
                x = wide.reshape(-1, x.shape[1], *x.shape[2:])
            else:
                x = block(x)
    return x.clamp(0, 1)[3:] * 2 - 1


def test_the_layers_are_those_of_the_published_file(network: TinyAutoencoder) -> None:
    """Counts and some names and shapes, as published."""
    count = {
        name: sum(x.numel() for x in part.parameters()) for name, part in network.named_children()
    }
    assert count["decoder"] == 9_844_611 and sum(count.values()) == 11_315_539
    state = network.state_dict()
    assert state["decoder.1.weight"].shape == (256, 16, 3, 3)
    assert state["decoder.3.conv.0.weight"].shape == (256, 512, 3, 3)
    assert state["decoder.7.conv.weight"].shape == (256, 256, 1, 1)
    assert state["decoder.13.conv.weight"].shape == (256, 128, 1, 1)
    assert state["decoder.22.weight"].shape == (3, 64, 3, 3)
    assert "decoder.8.bias" not in state and "decoder.22.bias" in state


def test_frame_by_frame_equals_all_at_once(folder: Path, network: TinyAutoencoder) -> None:
    decoder = WanPreview(str(folder), dtype="float32")
    frames = list(decoder.stream(latents(4)))
    assert [len(each) for each in frames] == [1, 4, 4, 4]
    torch.testing.assert_close(
        torch.cat(frames), at_once(network.decoder, latents(4)), atol=1e-4, rtol=0
    )
    assert decoder.feature_bytes > 0
    shown = np.concatenate(list(decoder.decode(latents(4))))
    assert shown.shape == (13, 32, 48, 3)
    assert len(np.unique(shown)) > 10 and 0.001 < np.isin(shown, (0, 255)).mean() < 0.9
    assert not isinstance(decoder, Codec)
    assert decoder.nbytes == decoder.hollow().nbytes == 4 * 9_844_611


def test_both_formats_load_and_others_are_refused(folder: Path, tmp_path: Path) -> None:
    before = list(WanPreview(str(folder)).decode(latents(2)))
    state = torch.load(folder / "taew2_1.pth", weights_only=True)
    (folder / "taew2_1.pth").unlink()
    save_file(state, folder / "taew2_1.safetensors")
    again = WanPreview(str(folder)).decode(latents(2))
    assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))
    del state["decoder.22.bias"]
    save_file(state, folder / "taew2_1.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(decoder\.22\.bias\)"):
        WanPreview(str(folder)).to("cpu")
    assert WanPreview(str(folder)).missing() == WanPreview("nowhere", "random").missing() == []
    assert WanPreview(str(tmp_path / "nowhere")).missing() == [tmp_path / "nowhere"]
    with pytest.raises(UserError, match=r"found neither .* set model\.decoder\.folder"):
        WanPreview(str(tmp_path / "nowhere")).to("cpu")
    with pytest.raises(UserError, match="4 channels and the decoder takes 16"):
        WanPreview("", "random").decode(latents(2)[:, :4])
    with pytest.raises(UserError, match=r"decoder\.dtype=int8"):
        WanPreview("", dtype="int8")


def test_previews_are_never_scored(tmp_path: Path) -> None:
    this = tiny(tmp_path, "self_forcing", "bf16", 3)
    decoder = {"_target_": "harness.models.WanPreview", "folder": "", "weights": "random"}
    trained: dict[str, Any] = {**this.model, "decoder": decoder, "weights": "seeded"}
    this = replace(this, model=trained, metrics=configured()["metrics"])
    row = made(this)
    assert row["num_pixel_frames"] == 9 and row["decode_s"] > 0
    score(lacking(this), lambda key: None, "cpu", 1, "score")
    (scored,) = all_runs.load_run(this.folder).to_dict("records")
    assert scored["psnr_reason"] == PREVIEW and np.isnan(scored["psnr_db"])
