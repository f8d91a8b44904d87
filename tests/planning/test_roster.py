"""`ls models`: what a preset is and whether its files are there, by the preset itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from harness.commands import ls
from harness.planning.model_facts import HEAD, Entry, cells, entries
from harness.system import user_folder
from tests.support.tiny_wan import CHECKPOINT, DIMS, PARTS, choose, write_checkpoint, write_parts


def told(entry: Entry) -> dict[str, str]:
    return dict(zip(HEAD, cells(entry), strict=True))


def found(name: str, data: Path, folder: Path | None = None) -> Entry:
    return next(entry for entry in entries(str(data), folder) if entry.name == name)


def test_the_published_preset_is_told_from_its_geometry(tmp_path: Path) -> None:
    entry = found("self_forcing", tmp_path)
    says = told(entry)
    assert says["weights"] == "4 missing" and len(entry.missing) == 4
    frame = 30 * 2 * 1536 * 2 * 1560 / 2**30  # of keys and values, BF16
    assert float(says["10 s GiB"]) == pytest.approx(42 * frame, rel=1e-3)
    assert float(says["held GiB"]) == pytest.approx(21 * frame, rel=1e-3)
    assert (says["window"], says["sink"], says["chunk"]) == ("21", "0", "3")
    assert (says["steps"], says["shift"], says["ema"]) == ("1000/750/500/250", "5", "yes")
    assert (says["positions"], says["keys"]) == ("absolute", "roped")
    notes = "\n".join(entry.notes)
    assert "gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt; licence: Apache-2.0" in notes
    assert f"fetch weights model=self_forcing data_dir={tmp_path}" in notes


def test_a_preset_of_ones_own_is_one_file(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "own"
    data.mkdir()
    changes = {
        "window": 9, "sink": 3, "chunk_frames": 1, "positions": "relative", "keys": "pre_rope",
        "ema": False, "lora": "lora.pt", "lora_source": "owner/name lora.pt",
        "schedule": {"steps": [1000, 500], "first_steps": [1000], "shift": 8, "warp": False},
    }  # fmt: skip
    choose(folder, **changes)
    entry = found("tiny", data, folder)
    says = told(entry)
    assert says["steps"] == "1000/500, first 1000 unwarped" and says["shift"] == "8"
    assert (says["window"], says["positions"], says["ema"]) == ("9", "relative", "no")
    layer = 2 * DIMS.dim * 2 * 8  # keys and values of eight tokens in BF16
    held = 9 * DIMS.num_layers * layer / 2**30
    assert float(says["held GiB"]) == pytest.approx(held, rel=1e-3)
    assert says["weights"] == "5 missing"
    assert any("owner/name lora.pt; licence: not described" in note for note in entry.notes)
    write_checkpoint(data)
    write_parts(data)
    torch.save({}, data / "lora.pt")
    assert told(found("tiny", data, folder))["weights"] == "there"
    (data / PARTS / "vae" / "config.json").unlink()
    shutil.rmtree(data / PARTS / "tokenizer")
    (data / PARTS / "tokenizer").mkdir()
    (data / CHECKPOINT).unlink()
    names = {path.name for path in found("tiny", data, folder).missing}
    assert names == {"tiny.pt", "tokenizer", "vae"}


def test_ls_models_prints_a_line_and_its_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls.main(["models", f"data_dir={tmp_path}"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "weights"]
    rows = {line.split()[0]: line for line in lines if not line.startswith(" ")}
    assert "ship with it" in rows["small"] and "4 missing" in rows["self_forcing"]
    assert any("trained on a procedural world" in line for line in lines)


def test_a_preset_that_cannot_be_built_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = choose(tmp_path / "own", window=2)
    assert ls.main(["models", *[user_folder.OPTIONS[0], str(folder)]]) == 2
    said = capsys.readouterr().err
    assert "model tiny: model.window=2" in said and len(said.splitlines()) == 1
