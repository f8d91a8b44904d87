"""Identity and what is missing: what changes a run, and what must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.results import observations
from harness.results.observations import Rows
from harness.results.run import Execution, Run
from harness.results.run_state import RunState
from harness.results.video_files import write_raw
from harness.scoring.score import lacking
from harness.system.errors import UserError
from tests.conftest import ROOT
from tests.support.observations import observation
from tests.support.runs import run, without


def test_what_decides_the_videos_decides_the_identity(tmp_path: Path) -> None:
    base = run(tmp_path).run_id
    suite = run(tmp_path).suite
    assert run(tmp_path, "method.key.bits=8").run_id != base
    assert run(tmp_path, "model.window=21").run_id != base
    assert run(tmp_path, seed=1).run_id != base
    assert run(tmp_path, suite=replace(suite, num_frames=9)).run_id != base
    assert run(tmp_path, suite=replace(suite, sha256="1" * 64)).run_id != base
    switched = [replace(suite, switches=(3,), recache=recache) for recache in (False, True)]
    ids = {run(tmp_path, suite=each).run_id for each in (*switched, replace(suite, switches=(6,)))}
    assert len(ids - {base}) == 3


def test_a_suite_of_one_prompt_a_video_keeps_its_identity(tmp_path: Path) -> None:
    """The id of before videos could change their prompt."""
    this = run(tmp_path)
    fixed = replace(this, model={"a": 1}, method={"b": 2}, attention={}, integration={})
    assert fixed.run_id == "7f605ba4"


def test_words_about_a_method_do_not(tmp_path: Path) -> None:
    base = run(tmp_path)
    method = {**base.method, "family": "another", "source": "elsewhere"}
    assert replace(base, method=method).run_id == base.run_id
    assert replace(base, method={**base.method, "keys": "pre_rope"}).run_id != base.run_id


def test_paths_trackers_devices_and_selection_do_not(tmp_path: Path) -> None:
    base = run(tmp_path).run_id
    suite = run(tmp_path).suite
    same = [
        run(tmp_path / "elsewhere"),
        run(
            tmp_path,
            data_dir="/other",
            execution=Execution("cuda", 3, 9.0, "oom"),
            track={"mode": "online"},
            metrics={},
        ),
        run(tmp_path, suite=replace(suite, prompts=suite.prompts[:1])),
        run(tmp_path, samples=2),
    ]
    assert {each.run_id for each in same} == {base}


def test_a_variant_file_equals_the_override(tmp_path: Path) -> None:
    variant = run(tmp_path, "method=rtn_int8")
    assert variant.run_id == run(tmp_path, "method=rtn_int4", "method.key.bits=8").run_id


def test_one_identity_has_one_folder_whatever_its_name(tmp_path: Path) -> None:
    variant = run(tmp_path, "method=rtn_int8", method_name="rtn_int8")
    variant.make_folders()
    override = run(tmp_path, "method=rtn_int4", "method.key.bits=8", method_name="rtn_int4")
    assert override.folder == variant.folder


def test_a_name_with_a_folder_is_one_folder(tmp_path: Path) -> None:
    study = run(tmp_path, "method=published/rtn_int4", method_name="published/rtn_int4")
    assert study.folder.name == f"published-rtn_int4-{study.run_id}"


def test_seeds_differ_between_prompts_and_samples(tmp_path: Path) -> None:
    items = run(tmp_path, samples=2, seed=7).items
    assert len({item.seed for item in items}) == 6
    assert items[0].seed == 7


@pytest.mark.parametrize(
    ("words", "reach"),
    [
        (["model.trained_frames=null"], None),
        (["model.trained_frames=6"], None),
        (["model.trained_frames=5"], 6),
        (["model.trained_frames=3", "model.window=3"], 6),  # absolute positions go on
        (["model.trained_frames=3", "model.window=3", "model.positions=relative"], None),
        (["model.trained_frames=3", "model.positions=relative"], 6),
    ],
)
def test_positions_beyond_training_are_noted(
    tmp_path: Path, words: list[str], reach: int | None
) -> None:
    notes = run(tmp_path, *words).notes
    assert len(notes) == (reach is not None)
    assert all(note.endswith(f"positions of {reach}") for note in notes)


def test_request_round_trip(tmp_path: Path) -> None:
    original = run(tmp_path)
    with original.prepared():
        assert Run.from_folder(original.folder) == original


def test_a_video_is_missing_without_its_row_or_without_its_frames(tmp_path: Path) -> None:
    this = run(tmp_path)
    this.make_folders()
    rows = Rows(this.folder / observations.OBSERVATIONS)
    for index, failure in ((0, None), (1, "oom"), (2, None)):
        rows.put(observation(index, run_id=this.run_id, failure=failure))
    write_raw(this.video(this.items[0]).with_suffix(".npy"), np.zeros((1, 2, 2, 3), np.uint8))
    assert [item.prompt.index for item in RunState.read(this.folder).missing(this)] == [2]
    assert RunState.read(this.folder).failed(this) == {(1, 0): "oom"}
    assert [task.item.prompt.index for task in lacking(this)] == [0, 2]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write results to"):
        run(tmp_path / "file").make_folders()


def test_the_parent_never_imports_torch() -> None:
    heavy = {"torch", "pandas", "pyarrow", "wandb", "skimage", "av"}
    without(heavy, "import harness.commands.run, harness.commands.ls")


@pytest.mark.parametrize("package", ["config", "results", "prompts", "downloads"])
def test_what_the_parent_works_with_needs_no_torch(package: str) -> None:
    """Every module of these packages, so that help and dry runs answer at once."""
    found = (ROOT / "harness" / package).glob("[a-z]*.py")
    modules = sorted(f"harness.{package}.{path.stem}" for path in found)
    without({"torch", "harness.api"}, f"import {', '.join(modules)}")
