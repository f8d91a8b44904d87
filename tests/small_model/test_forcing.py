"""The preset of the teacher: prompts as rows, weights from an export, a run at tiny sizes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.config.compose import configured
from harness.models.preset import VideoModel
from harness.models.wan import Wan
from harness.prompts.suite import Prompt, Suite
from harness.small_model import SceneText
from harness.small_model.diffusion.__main__ import main
from harness.small_model.scenes.interpret import interpret
from harness.small_model.scenes.rows import rows
from harness.small_model.training.export import WEIGHTS
from harness.small_model.training.optim import initialise
from harness.small_model.training.state import Clock, State
from tests.support.families import made, planned
from tests.support.runs import run

CPU = torch.device("cpu")
CONFIG: dict[str, Any] = configured("model=small_forcing")["model"]
PROMPT = "A red car drives along a road at night"


def preset() -> VideoModel:
    model: VideoModel = instantiate(CONFIG)
    return model


def test_prompts_become_rows_and_no_prompt_is_zero() -> None:
    told, untold = SceneText().encode([PROMPT, ""])
    assert torch.equal(told, rows(interpret(PROMPT))) and not untold.any()
    free = SceneText(layout=False).encode([PROMPT])[0]
    assert torch.equal(free, rows(interpret(PROMPT), layout=False)) and not torch.equal(free, told)
    assert told.shape == (SceneText().length, preset().dims.text_dim)


def test_the_preset_is_the_network_that_is_trained() -> None:
    trained: VideoModel = instantiate(configured("+train=forcing", "method=bf16")["model"])
    assert preset().dims == trained.dims
    # Only the order of passes differs: training sees chunk after chunk.
    assert replace(preset().spec, under_way=1) == trained.spec
    assert preset().latent_size == trained.latent_size
    assert preset().num_histories == 2


def test_exported_weights_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Wan(preset().dims)
    initialise(network, 0)
    weights = network.state_dict()
    State(asdict(network.dims), weights, weights, [], Clock(1, [1], [0.5]), []).save(tmp_path)
    assert main(["export", f"train.folder={tmp_path}", f"train.out={tmp_path}/out"]) == 0
    path = tmp_path / "out" / WEIGHTS
    assert path.stat().st_size <= 25e6 and "sha256" in capsys.readouterr().out
    exported = replace(preset(), weights="checkpoint", checkpoint=str(path), sha256=None)
    built = exported.build(CPU, tmp_path).network
    assert isinstance(built, Wan) and built.dtype == torch.bfloat16
    assert torch.equal(built.head.head.weight, weights["head.head.weight"].bfloat16())


@pytest.mark.parametrize("method", ["bf16", "rtn_int4"])
def test_it_runs_with_two_branches_and_as_planned(tmp_path: Path, method: str) -> None:
    words = (
        *("model.weights=random", "model.dims.dim=64", "model.dims.num_heads=2"),
        *("model.dims.num_layers=2", "model.dims.ffn_dim=96", "model.latent_size=[8,8]"),
        *("model.schedule.num_steps=4", "model.loop.offset=1"),
        *("model.loop.frames=9", "model.loop.overlap=3"),
    )
    this = run(tmp_path, "model=small_forcing", *words, f"method={method}")
    suite = Suite("mine", (Prompt(0, PROMPT),), "custom", "0" * 64, 15)
    this = replace(this, suite=suite, method_name=method)
    row = made(this)
    model: VideoModel = instantiate(this.model)
    assert row["num_passes"] == 2 * model.loop.num_passes(model.schedule, 15, 3)
    assert row["weights"] == "random"
    assert planned(this).allocated_bytes == row["kv_stored_bytes"]
