"""The model that ships: its files are those the configuration names, and it draws what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.config.compose import configured
from harness.models.checkpoints import bundled
from harness.models.preset import VideoModel
from harness.system.errors import UserError
from tests.support.commands import SHORT, command

CPU = torch.device("cpu")
CONFIG: dict[str, Any] = configured("model=small")["model"]


def shipped() -> VideoModel:
    model: VideoModel = instantiate(CONFIG)
    return model


@pytest.mark.parametrize("name", ["small", "small_forcing"])
def test_it_is_small(name: str) -> None:
    config = configured(f"model={name}")["model"]
    files = [bundled.FOLDER / config["checkpoint"]]
    files.append(bundled.FOLDER / "decoder.safetensors")
    assert sum(path.stat().st_size for path in files) <= 25e6
    model: VideoModel = instantiate(config)
    network = model.build(CPU, Path()).network
    assert sum(weight.numel() for weight in network.state_dict().values()) <= 12e6


def test_its_digest_is_recorded_with_every_row() -> None:
    assert shipped().origin(Path()) == f"network.safetensors {CONFIG['sha256'][:16]}"


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_damaged_weights_are_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((bundled.FOLDER / "network.safetensors").read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    if damage != "gone":
        kept = content[: len(content) // 2] if damage == "cut" else content
        (tmp_path / "network.safetensors").write_bytes(bytes(kept))
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="git checkout") as refused:
        shipped().build(CPU, Path())
    assert CONFIG["sha256"] in str(refused.value)


def test_another_digest_is_one_sentence(tmp_path: Path) -> None:
    done = command(
        "method=bf16", *SHORT, "suite.num_prompts=1", "track=disabled", f"model.sha256={'0' * 64}",
        f"results_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "SHA-256" in line and "git checkout" in line


def test_weights_without_their_digest_are_refused() -> None:
    with pytest.raises(Exception, match=r"needs model\.sha256"):
        instantiate({**CONFIG, "sha256": None})
