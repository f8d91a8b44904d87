"""One job: the videos of a run, those of its BF16 reference, their scores, and how that ended."""

from __future__ import annotations

import json
import sys

from harness.results import manifest, observations, scores
from harness.results.observations import Rows
from harness.results.run import Item, Run
from harness.runs.child import run_stage
from harness.runs.sweep import State
from harness.scoring.score import built, lacking
from harness.system.errors import AlreadySaid, RunFailed
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
    before = observations.failures(run.folder)
    with run.held() as lock:
        if is_done(run):  # by the command that held it before
            return "skipped"
        manifest.verify(run.folder)
        run.leave_request()
        _warn_of_other_code(run)
        manifest.clear(run.folder)
        generate(run, lock)
        failure = None
        if observations.made(run.folder):
            if reference.run_id != run.run_id:
                failure = _reference_failure(reference)
            score(run, lock)
        failure = first_failure(run) or failure or _unscored(run)
        if failure is not None:
            raise failure
        manifest.write(run)
    return "resumed" if before else "done"


def is_done(run: Run) -> bool:
    """Whether there is nothing to do, as the manifest says and the files show."""
    return (
        manifest.is_there(run.folder)
        and manifest.is_whole(run.folder)
        and run.is_requested()
        and not (run.missing() or run.failed() or lacking(run))
    )


def generate(run: Run, lock: int) -> None:
    """First stage: a child for all videos, and another for the rest where one dies on the way.

    A child that dies before it has finished any ends it: the next would die the same way.
    Raises  AlreadySaid: the settings cannot run; nothing of the run is left behind.
    """
    todo = run.missing()
    while todo:
        try:
            run_stage("generate", run, lock, [item.key for item in todo])
            return
        except AlreadySaid:
            run.discard_if_empty()
            raise
        except RunFailed as death:
            at = next((i for i, item in enumerate(todo) if item.key == death.video), 0)
            unfinished = todo[at] in run.missing()  # else it died with its row on disk
            if unfinished:
                _record(run, todo[at], death)
            todo = [] if unfinished and not at else todo[at + 1 :]
            if todo or not unfinished:  # else the run ends by it, and says so
                print(f"{death}; finished videos are kept", file=sys.stderr)


def score(run: Run, lock: int) -> None:
    """Second stage, where anything is to do in it."""
    if todo := lacking(run):
        run_stage("score", run, lock, [task.item.key for task in todo])


def first_failure(run: Run) -> RunFailed | None:
    """The first of the videos that failed, with how many did."""
    failed = run.failed()
    for row in observations.observations(run.folder) if failed else ():
        key = scores.key(row)
        if key in failed:
            reason = f"{len(failed)} of {len(run.items)} videos failed, prompt {key[0]} by: "
            return RunFailed(row["failure"], reason + str(row["failure_reason"]), key)
    return None


def _unscored(run: Run) -> RunFailed | None:
    """The first of the videos that have no scores because they cannot be read."""
    for key, row in scores.rows(run.folder).items():
        if row["frames_sha256"] is None and key in {item.key for item in run.items}:
            tried = [x.removesuffix("_version") for x in row if x.endswith("_version") and row[x]]
            reasons = [row[f"{metric}_reason"] for metric in tried if f"{metric}_reason" in row]
            return RunFailed("error", f"prompt {key[0]} has no scores: {reasons[0]}", key)
    return None


def _reference_failure(reference: Run) -> RunFailed | None:
    """Make the reference's own run; where that fails, the others are still scored."""
    try:
        carry_out(reference, reference)
    except RunFailed as failure:
        reason = f"the reference {reference.folder.name}: {failure.reason}"
        return RunFailed(failure.cause, reason, failure.video)
    return None


def _record(run: Run, item: Item, death: RunFailed) -> None:
    """A video that took its process with it is a row as any other failure."""
    rows = Rows(run.folder / observations.OBSERVATIONS)
    rows.put(run.row(item, failure=death.cause, failure_reason=death.reason))


def _warn_of_other_code(run: Run) -> None:
    others = [
        version for version in observations.code_versions(run.folder) if version != code_version()
    ]
    if others:
        print(
            f"warning: {run.folder.name} has rows made by the code of {', '.join(others)}, this is "
            f"{code_version()}; they are kept: remove {run.folder} to make all of them by this one",
            file=sys.stderr,
        )
