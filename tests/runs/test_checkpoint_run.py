"""A run from files in the published layout: what its rows, trace and manifest say of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.models.text.stored_rows import write_rows
from harness.results import all_runs, manifest
from harness.results.run import Run
from harness.results.run_state import RunState
from harness.results.scores import SCORES
from harness.runs.generate import generate
from tests.support.geometry import configured
from tests.support.runs import run
from tests.support.tiny_wan import CHECKPOINT, DIMS, choose, write_checkpoint, write_parts


@pytest.fixture
def tiny(tmp_path: Path) -> Run:
    """Three videos of six frames, with files of its own."""
    data = tmp_path / "data"
    write_checkpoint(data)
    write_parts(data)
    config = configured("model=tiny", "method=bf16", folder=choose(tmp_path / "own"))
    return run(
        tmp_path / "results",
        model_name="tiny",
        model=config["model"],
        method=config["method"],
        data_dir=str(data),
    )


def make(this: Run) -> None:
    this.make_folders()
    generate(this, RunState.read(this.folder).missing(this), lambda key: None)


def test_rows_and_manifest_record_the_checksum(tiny: Run) -> None:
    make(tiny)
    sha256 = hashlib.sha256((Path(tiny.data_dir) / CHECKPOINT).read_bytes()).hexdigest()
    rows = all_runs.load_run(tiny.folder)
    assert rows["failure"].isna().all()
    assert set(rows["weights"]) == {f"{CHECKPOINT} {sha256}"}
    (tiny.folder / SCORES).touch()
    manifest.write(tiny)
    said = json.loads((tiny.folder / manifest.MANIFEST).read_text())
    assert said["weights"] == [f"{CHECKPOINT} {sha256}"]


@pytest.mark.slow
def test_the_trace_tells_the_decoders_feature_cache_apart(tiny: Run) -> None:
    make(tiny)
    trace = pd.concat(pd.read_parquet(tiny.trace(item)) for item in tiny.items)
    features = trace[trace["component"] == "decoder_features"]
    assert set(features["phase"]) == {"decode"} and (features["moment"] == "peak").all()
    assert features["bytes"].nunique() == 1 and features["bytes"].iloc[0] > 2 * 16 * 4 * 8 * 4
    peaks = all_runs.load_run(tiny.folder).set_index("prompt_index")["peak_decode_bytes"]
    decode = trace[(trace["phase"] == "decode") & (trace["moment"] == "peak")]
    summed = decode.groupby("prompt_index")["bytes"].sum()
    assert (summed == peaks).all()
    held = {"sink", "codes", "scales", "cross_attention", "noise"} & set(decode["component"])
    assert not held, "history is freed before the decoder runs"


@pytest.mark.slow
def test_ready_rows_stand_in_for_the_encoder(tiny: Run, tmp_path: Path) -> None:
    prompts = {item.prompt.text: torch.randn(3, DIMS.text_dim) for item in tiny.items}
    write_rows(Path(tiny.data_dir) / "rows.safetensors", prompts)
    words = ["model=tiny", "method=bf16", "+model.text.embeddings=rows.safetensors"]
    config = configured(*words, folder=tmp_path / "own")
    this = run(
        tmp_path / "results",
        model_name="tiny",
        model=config["model"],
        method=config["method"],
        data_dir=tiny.data_dir,
    )
    assert this.run_id != tiny.run_id
    make(this)
    digest = hashlib.sha256((Path(tiny.data_dir) / "rows.safetensors").read_bytes()).hexdigest()
    weights = all_runs.load_run(this.folder)["weights"]
    assert weights.str.endswith(f" + rows.safetensors {digest}").all()
    assert not (tmp_path / "results" / ".text").exists(), "nothing was encoded"


def test_new_settings_leave_old_runs_alone(tmp_path: Path) -> None:
    """Fields that were added later are not written into the presets that were there."""
    for name in ("small", "self_forcing"):
        model = configured(f"model={name}")["model"]
        assert not {"lora", "lora_source", "lora_scale"} & set(model)
        assert not {"embeddings", "lean"} & {*model["text"], *model["decoder"]}
