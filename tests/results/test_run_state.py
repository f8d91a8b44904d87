"""What a look at a run's folder says of its videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.results import observations
from harness.results.observations import Rows
from harness.results.run import Execution
from harness.results.run_state import RunState
from tests.support.observations import observation
from tests.support.runs import run


def test_an_empty_folder_has_everything_to_make(tmp_path: Path) -> None:
    this = run(tmp_path)
    state = RunState.read(this.folder)
    assert not (state.videos or state.made or state.code_versions or state.weights)
    assert state.missing(this) == this.items
    assert state.failed(this) == {} and state.failure(this) is None


def test_the_first_failure_of_those_asked_for_is_named(tmp_path: Path) -> None:
    this = run(tmp_path)
    this.make_folders()
    rows = Rows(this.folder / observations.OBSERVATIONS)
    for index, failure in ((0, None), (1, "oom"), (2, "killed"), (7, "crash")):
        about = {"failure": failure, "failure_reason": failure and f"by {failure}"}
        rows.put(observation(index, frames_sha256="0", code_version="v", weights="w", **about))
    state = RunState.read(this.folder)
    assert state.made == {(0, 0): "0"}
    assert (state.code_versions, state.weights) == (["v"], ["w"])
    failure = state.failure(this)
    assert failure is not None and (failure.cause, failure.video) == ("oom", (1, 0))
    assert failure.reason == "2 of 3 videos failed, prompt 1 by: by oom"


@pytest.mark.parametrize(("retry", "again"), [(None, [0, 2]), ("oom", [0, 1, 2])])
def test_what_is_tried_again_is_missing(
    tmp_path: Path, retry: str | None, again: list[int]
) -> None:
    this = replace(run(tmp_path), execution=Execution("cpu", retry=retry))
    this.make_folders()
    rows = Rows(this.folder / observations.OBSERVATIONS)
    for index, failure in ((0, None), (1, "oom"), (2, "killed")):  # the first has lost its frames
        rows.put(observation(index, failure=failure))
    missing = RunState.read(this.folder).missing(this)
    assert [item.prompt.index for item in missing] == again
