"""The child process: executes one stage of one run. `harness.runs.child` starts it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.errors import InstantiationException

from harness.config.messages import construction_message
from harness.results.run import Run
from harness.runs.child import Reports
from harness.system.child_process import die_with
from harness.system.ending import lasting_streams
from harness.system.errors import (
    DISK_FULL,
    INTERRUPTED,
    USER_ERROR,
    UserError,
    cause_of,
    first_line,
    last_frame,
)
from harness.system.logs import begin
from harness.system.plain import plain_streams


def main(words: Sequence[str]) -> int:
    """Run a stage; return exit code 0 for success, 1 for a failure, 2 for what users can fix."""
    parser = argparse.ArgumentParser(prog="harness.runs.worker")
    parser.add_argument("stage", choices=["generate", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--reports", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(words)
    # Nobody would read the reports of a child whose parent was killed, and it would keep the
    # run's lock and its lease.
    die_with(given.parent)
    reports = Reports(given.reports)
    try:
        _execute(given, reports)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:  # raised by a method; the harness itself never does
        reports.dies("crash", f"sys.exit({error.code!r}) ({last_frame(error)})")
        return 1
    except Exception as error:  # noqa: BLE001  the outermost frame: the cause goes to the parent
        sentence = fixable(error, given.folder)
        if sentence is None:
            reports.dies(cause_of(error), f"{first_line(error)} ({last_frame(error)})")
            traceback.print_exc()
            return 1
        print(f"error: {sentence}", file=sys.stderr)
        reports.ends(sentence)  # for the job's record: a launcher may send stderr elsewhere
        return USER_ERROR
    reports.ends()
    return 0


def _execute(given: argparse.Namespace, reports: Reports) -> None:
    """Execute the stage on the videos that the parent sends on standard input."""
    run = Run.from_folder(given.folder)
    if run.execution.device != "auto":  # `auto` finds the GPU that the lease left visible
        run = replace(run, execution=replace(run.execution, device=given.device))
    # By standard input, since a command line has a limited length.
    keys = {(index, sample) for index, sample in json.load(sys.stdin)["videos"]}
    # Each stage imports its own code: scoring needs no network, and generating no metric.
    if given.stage == "generate":
        from harness.runs.generate import generate

        items = [item for item in run.items if item.key in keys]
        generate(run, items, reports.begins)
    else:
        from harness.results.wandb_mirror import mirror
        from harness.runs.lease import threads
        from harness.scoring.score import lacking, score

        tasks = [task for task in lacking(run) if task.item.key in keys]
        label = f"{run.method_name} score"
        score(tasks, reports.begins, given.device, threads(run.execution), label)
        mirror(run)


def fixable(error: Exception, folder: Path) -> str | None:
    """Return the message for an error that the user can fix, None for a failure of the stage."""
    if cause_of(error) == "oom":  # of this video; another method or length may fit
        return None
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"no space left under {folder} ({os.strerror(error.errno)}): free some and type the "
            "same command again, finished videos are kept"
        )
    if isinstance(error, InstantiationException):
        return construction_message(error)
    # Parts refuse settings that do not fit by ValueError. One raised while a video is made becomes
    # that video's row in `generate` and never comes here.
    return str(error) if isinstance(error, UserError | ValueError) else None


if __name__ == "__main__":
    lasting_streams()
    begin()
    with plain_streams():
        sys.exit(main(sys.argv[1:]))
