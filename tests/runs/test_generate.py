"""The first stage inside one process: failures are rows, and random weights say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import DROP, FramePolicy, History, Placement
from harness.config.compose import configured
from harness.prompts.suite import Prompt, Suite
from harness.results import all_runs
from harness.results.run import Execution
from harness.results.run_state import RunState
from harness.runs.generate import Generator
from harness.runs.meter import Meter
from harness.scoring.score import RANDOM_WEIGHTS, lacking, score
from tests.support.generation import SMALL, make_all
from tests.support.runs import run


def test_a_video_that_runs_out_of_memory_is_a_row_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = run(tmp_path, *SMALL)
    this.make_folders()
    make = Generator.make

    def starve(self, item, meter):
        if item.prompt.index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")
        return make(self, item, meter)

    monkeypatch.setattr(Generator, "make", starve)
    make_all(this)
    rows = all_runs.load_run(this.folder).set_index("prompt_index")
    assert rows.loc[1, "failure"] == "oom"
    assert "Tried to allocate 9 GiB" in rows.loc[1, "failure_reason"]
    assert rows.loc[[0, 2], "failure"].isna().all()
    missing = RunState.read(this.folder).missing(this)
    assert not missing, "what ran out of memory is not tried again unasked"

    monkeypatch.undo()
    make_all(replace(this, execution=Execution(retry="oom")))
    assert all_runs.load_run(this.folder)["failure"].isna().all()


@dataclass(frozen=True)
class DropAll(FramePolicy):
    """A policy of a user's: nothing is kept, or it breaks."""

    fails: bool = False

    def decide(self, history: History) -> dict[int, Placement]:
        if self.fails:
            raise KeyError("boom")
        return dict.fromkeys(history.frames, DROP)


@pytest.mark.parametrize("fails", [False, True])
def test_a_users_policy_cannot_end_a_run(tmp_path: Path, fails: bool) -> None:
    """One that drops everything has no ratio; one that raises has rows that say where."""
    this = run(tmp_path, *SMALL)
    retention = {"_target_": "tests.runs.test_generate.DropAll", "fails": fails}
    this = replace(this, method={**this.method, "retention": retention})
    this.make_folders()
    make_all(this)
    assert len(RunState.read(this.folder).failed(this)) == (3 if fails else 0)
    rows = all_runs.load_run(this.folder)
    if fails:
        assert rows["failure_reason"].str.contains("KeyError: 'boom'").all()
        assert rows["failure_reason"].str.contains("in decide").all()
    else:
        assert (rows["kv_stored_bytes"] == 0).all()
        assert rows["kv_ratio_full_length"].isna().all()


def test_stored_bytes_are_those_of_the_trace(tmp_path: Path) -> None:
    this = run(tmp_path, *SMALL)
    this.make_folders()
    make_all(this)
    row = all_runs.load_run(this.folder).iloc[0]
    import pandas as pd

    trace = pd.read_parquet(this.trace(this.items[0]))
    last = trace[(trace["moment"] == "chunk") & (trace["chunk"] == 1)]
    last = last[~last["component"].isin(["scratch", "in_use"])]
    assert last["bytes"].sum() == row["kv_stored_bytes"]
    assert row["kv_peak_bytes"] >= row["kv_stored_bytes"]


def test_the_text_phase_counts_the_keys_and_values_of_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Encoding all prompts may have the larger peak, and its components would be in the trace then.
    monkeypatch.setattr(Meter, "include", lambda self, other: None)
    this = run(tmp_path, *SMALL)
    this.make_folders()
    make_all(this)
    import pandas as pd

    trace = pd.read_parquet(this.trace(this.items[0]))
    at_text = trace[(trace["moment"] == "peak") & (trace["phase"] == "text")]
    assert "cross_attention" in at_text["component"].tolist()


@pytest.mark.parametrize(
    ("method", "num_reused"), [("bf16", 0), ("reuse_fixed_bf16", 2), ("reuse_drift_bf16", None)]
)
def test_the_trace_has_every_pass_with_what_was_decided(
    tmp_path: Path, method: str, num_reused: int | None
) -> None:
    """Rows and trace tell the same: passes, skips, seconds by chunk."""
    this = run(tmp_path, *SMALL, f"method={method}")
    this.make_folders()
    make_all(this)
    row = all_runs.load_run(this.folder).iloc[0]
    import pandas as pd

    trace = pd.read_parquet(this.trace(this.items[0]))
    passes = trace[trace["moment"] == "pass"]
    denoise, commit = (passes[passes["phase"] == phase] for phase in ("denoise", "commit"))
    assert len(passes) == row["num_passes"] == 2 * (4 + 1)
    assert len(commit) == row["num_commits"] == 2
    assert denoise[["chunk", "step"]].to_numpy().tolist() == [
        [chunk, step] for chunk in range(2) for step in range(4)
    ]
    assert denoise["reused"].sum() == row["num_reused"]
    assert num_reused is None or row["num_reused"] == num_reused
    assert row["skip_ratio"] == row["num_reused"] / 8
    assert (passes["branch"] == 0).all() and (commit["kv_age"] == 0).all()
    assert denoise["kv_age"].isna().all() and commit["reused"].sum() == 0
    # The first pass of a chunk and the protected last one are not decided on.
    by_drift = method == "reuse_drift_bf16"
    decided = denoise[denoise["step"].isin([1, 2])] if by_drift else denoise[:0]
    assert passes["drift"].notna().sum() == len(decided) == decided["drift"].gt(0).sum()
    assert decided["accumulated_drift"].ge(decided["drift"] - 1e-12).all()
    by_chunk = passes.groupby("chunk")["seconds"].sum()
    assert list(row["chunk_s"]) == pytest.approx(list(by_chunk))
    assert sum(row["chunk_s"]) == pytest.approx(row["denoise_s"] + row["commit_s"])
    assert list(row["kv_stored_bytes_by_branch"]) == [row["kv_stored_bytes"]]
    assert row["first_chunk_pixel_frames"] == 9


def test_a_row_says_what_its_reader_should_know(tmp_path: Path) -> None:
    suite = Suite("mine", (Prompt(0, "cut after two"), Prompt(1, "short")), "custom", "0" * 64, 6)
    this = run(tmp_path, *SMALL, "model.trained_frames=3", suite=suite)
    width = this.model["dims"]["text_dim"]
    text = {"_target_": "harness.models.HashText", "length": 2, "width": width}
    this = replace(this, model={**this.model, "text": text})
    this.make_folders()
    make_all(this)
    (trained,) = this.notes
    assert trained == "small was trained on 3 latent frames and these videos have positions of 6"
    cut, short = all_runs.load_run(this.folder)["notes"]
    assert cut == f"{trained}; the prompt fills the text encoder's 2 rows and may have been cut"
    assert short == trained
    assert run(tmp_path, *SMALL).notes == []


def test_quality_of_random_weights_is_null_with_that_reason(tmp_path: Path) -> None:
    """True-size networks run without a checkpoint, for systems measurements only."""
    metrics = configured()["metrics"]
    small = {"metrics": metrics}
    reference = run(tmp_path, *SMALL, "model.weights=random", "method=bf16", **small)
    words = (*SMALL, "model.weights=random")
    this = run(tmp_path, *words, reference_id=reference.run_id, **small)
    for each in (this, reference):
        each.make_folders()
        make_all(each)
    score(lacking(this), lambda key: None, "cpu", 1, "score")
    rows = all_runs.load_run(this.folder)
    assert (rows["psnr_reason"] == RANDOM_WEIGHTS).all()
    assert rows[["psnr_db", "ssim", "lpips"]].isna().all().all()
    assert rows["generate_s"].gt(0).all()
    assert np.array_equal(rows["weights"].unique(), ["random"])
