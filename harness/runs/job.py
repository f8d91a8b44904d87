"""One job: the videos of a run, those of its BF16 reference, their scores, and how that ended."""

from __future__ import annotations

import json

from harness.results import manifest, observations
from harness.results.observations import Rows
from harness.results.run import Run
from harness.results.run_state import RunState
from harness.runs.child import run_stage
from harness.runs.sweep import State
from harness.scoring.score import built, lacking
from harness.system.errors import AlreadySaid, RunFailed
from harness.system.logs import log, remark
from harness.system.version import code_version


def carry_out(run: Run, reference: Run) -> State:
    """Generate what is missing, make the BF16 reference for it, score; then write the manifest.

    Gives what that came to: skipped, resumed or done.
    Raises  RunFailed: some videos could not be made or scored; the others are there. AlreadySaid:
    the settings cannot run. UserError: a metric refuses its settings, or the run was finished and
    a file of it is damaged.
    """
    built(json.dumps(run.metrics, sort_keys=True))  # what they refuse is told before all work
    if is_done(run):
        return "skipped"
    with run.held() as lock:
        if is_done(run):  # by the command that held it before
            return "skipped"
        manifest.verify(run.folder)
        run.leave_request()
        before = RunState.read(run.folder)
        _warn_of_other_code(run, before)
        manifest.clear(run.folder)
        generate(run, lock, before)
        after = RunState.read(run.folder)
        failure = None
        if after.made:
            if reference.run_id != run.run_id:
                failure = _reference_failure(reference)
            score(run, lock, after)
        failure = after.failure(run) or failure or after.unscored(run)
        if failure is not None:
            raise failure
        manifest.write(run, after)
    return "resumed" if before.videos else "done"


def is_done(run: Run) -> bool:
    """Whether there is nothing to do, as the manifest says and the files show."""
    if not (manifest.is_whole(run.folder) and run.is_requested()):
        return False
    state = RunState.read(run.folder)
    return not (state.missing(run) or state.failed(run) or lacking(run, state))


def generate(run: Run, lock: int, before: RunState) -> None:
    """First stage: a child for all videos, and another for the rest where one dies on the way.

    A child that dies before it has finished any ends it: the next would die the same way.
    Raises  AlreadySaid: the settings cannot run; nothing of the run is left behind.
    """
    todo = before.missing(run)
    while todo:
        try:
            run_stage("generate", run, lock, [item.key for item in todo])
            return
        except AlreadySaid:
            run.discard_if_empty()
            raise
        except RunFailed as death:
            at = next((i for i, item in enumerate(todo) if item.key == death.video), 0)
            # It may have died with its row on disk.
            unfinished = todo[at] in RunState.read(run.folder).missing(run)
            if unfinished:  # a video that took its process with it is a row as any other failure
                row = run.row(todo[at], failure=death.cause, failure_reason=death.reason)
                Rows(run.folder / observations.OBSERVATIONS).put(row)
            todo = [] if unfinished and not at else todo[at + 1 :]
            if todo or not unfinished:  # else the run ends by it, and says so
                remark(f"{death}; finished videos are kept")


def score(run: Run, lock: int, made: RunState) -> None:
    """Second stage, where anything is to do in it."""
    if todo := lacking(run, made):
        run_stage("score", run, lock, [task.item.key for task in todo])


def _reference_failure(reference: Run) -> RunFailed | None:
    """Make the reference's own run; where that fails, the others are still scored."""
    try:
        carry_out(reference, reference)
    except RunFailed as failure:
        reason = f"the reference {reference.folder.name}: {failure.reason}"
        return RunFailed(failure.cause, reason, failure.video)
    return None


def _warn_of_other_code(run: Run, state: RunState) -> None:
    others = [version for version in state.code_versions if version != code_version()]
    if others:
        log.warning(
            f"{run.folder.name} has rows made by the code of {', '.join(others)}, this is "
            f"{code_version()}; they are kept: remove {run.folder} to make all of them by this one"
        )
