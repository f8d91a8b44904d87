"""Executes one job: generates a run and its BF16 reference, scores it, writes the manifest."""

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
    """Generate missing videos, execute the BF16 reference, score, then write the manifest.

    Returns the state: skipped, resumed or done.
    Raises  RunFailed: some videos could not be made or scored; the others are complete.
    AlreadySaid: the settings cannot run. UserError: a metric refuses its settings, or a file of a
    finished run is damaged.
    """
    built(json.dumps(run.metrics, sort_keys=True))  # refuses bad settings before any work starts
    if is_done(run):
        return "skipped"
    with run.held() as lock:
        if is_done(run):  # the command that held the lock before may have finished the run
            return "skipped"
        # Before anything is added: a manifest that is written anew would cover earlier damage.
        manifest.verify(run.folder)
        run.leave_request()
        before = RunState.read(run.folder)  # only now: another command may have added rows
        others = [version for version in before.code_versions if version != code_version()]
        if others:
            log.warning(
                f"{run.folder.name} has rows made by the code of {', '.join(others)}, this is "
                f"{code_version()}; they are kept: remove {run.folder} to make all of them by this "
                "one"
            )
        manifest.clear(run.folder)  # a run that is being changed must not count as done
        generate(run, lock, before)
        after = RunState.read(run.folder)
        failure = None
        # A method that made no video needs no reference, which may take as long again.
        if after.made:
            if reference.run_id != run.run_id:
                try:
                    # BF16 is its own reference, so this goes one level deep. Its lock is taken
                    # while this run's is held; `score` locks in the same order.
                    carry_out(reference, reference)
                except RunFailed as error:  # metrics without a reference can still be scored
                    reason = f"the reference {reference.folder.name}: {error.reason}"
                    failure = RunFailed(error.cause, reason, error.video)
            if todo := lacking(run, after):
                run_stage("score", run, lock, [task.item.key for task in todo])
        # A failure of the run's own videos explains more than one of the reference or of scoring.
        failure = after.failure(run) or failure or after.unscored(run)
        if failure is not None:
            raise failure
        manifest.write(run, after)
    return "resumed" if before.videos else "done"


def is_done(run: Run) -> bool:
    """Whether the run is complete: manifest, videos and scores of everything requested."""
    # A manifest is not enough: it covers an earlier request, and this one may ask for more prompts
    # or metrics. It is asked first, because it costs one small file.
    if not (manifest.is_whole(run.folder) and run.is_requested()):
        return False
    state = RunState.read(run.folder)
    return not (state.missing(run) or state.failed(run) or lacking(run, state))


def generate(run: Run, lock: int, before: RunState) -> None:
    """Run the first stage in a child; if it dies, start another one for the remaining videos.

    Raises  AlreadySaid: the settings cannot run; an empty folder of the run is removed.
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
            # The child may have died after it wrote the row.
            unfinished = todo[at] in RunState.read(run.folder).missing(run)
            if unfinished:  # a video that killed its process gets a row like any other failure
                row = run.row(todo[at], failure=death.cause, failure_reason=death.reason)
                Rows(run.folder / observations.OBSERVATIONS).put(row)
            # Go on after the video in which the child died. A child that died in its first video
            # ends the stage: the next one would die the same way.
            todo = [] if unfinished and not at else todo[at + 1 :]
            if todo or not unfinished:  # otherwise the job ends with this failure and prints it
                remark(f"{death}; finished videos are kept")
