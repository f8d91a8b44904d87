"""Runs and plans models of the Wan family at tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from harness.api import Method
from harness.models.preset import VideoModel
from harness.planning.forecast import Setting, forecast
from harness.planning.model_needs import Needs, network
from harness.planning.setting import backend_of
from harness.prompts.suite import Prompt, Suite
from harness.results import all_runs
from harness.results.run import Run
from tests.support.generation import make_all
from tests.support.geometry import configured
from tests.support.runs import run
from tests.support.tiny_wan import DIMS

TINY = (
    "model.weights=random",
    *(f"model.dims.{name}={getattr(DIMS, name)}" for name in ("dim", "num_layers", "num_heads")),
    *(f"model.dims.{name}={getattr(DIMS, name)}" for name in ("ffn_dim", "text_dim", "freq_dim")),
    f"model.text.width={DIMS.text_dim}",
    "model.text.length=8",
    "model.latent_size=[8,8]",
)


TINY_MAGI = (
    "model.weights=random",
    *("model.dims.dim=64", "model.dims.num_layers=2", "model.dims.num_heads=4"),
    *("model.dims.num_kv_heads=2", "model.dims.head_dim=16", "model.dims.ffn_dim=96"),
    *("model.dims.text_dim=32", "model.dims.text_rows=60"),
    *("model.text.width=32", "model.text.length=8"),
    *("model.latent_size=[8,8]", "model.schedule.num_steps=8"),
)


def tiny(tmp_path: Path, name: str, method: str, num_frames: int, *words: str) -> Run:
    """Return a run of one video; the small model's decoder saves the seconds of the true one."""
    sizes = TINY_MAGI if name.startswith("magi") else TINY
    this = run(tmp_path, f"model={name}", *sizes, f"method={method}", *words)
    suite = Suite("mine", (Prompt(0, "a red fox"),), "custom", "0" * 64, num_frames)
    decoder = configured("model=small")["model"]["decoder"]
    return replace(this, suite=suite, model={**this.model, "decoder": decoder}, method_name=method)


def made(this: Run) -> Any:
    this.make_folders()
    make_all(this)
    row = all_runs.load_run(this.folder).iloc[0]
    assert row.isna()["failure"], row["failure_reason"]
    return row


def planned(this: Run) -> Any:
    model: VideoModel = instantiate(this.model)
    method: Method = instantiate(this.method)
    setting = Setting(
        model_name="x",
        suite_name="mine",
        model=model,
        needs=Needs(network(model), 0, None, ("no decoder",)),
        num_frames=this.suite.num_frames,
        backend=backend_of(configured("attention=portable")["attention"]),
        ceilings=None,
        memory_gib=None,
    )
    return forecast("x", method, setting)
