"""A fresh child process per stage: it exits with every byte it held, and its death is named."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from harness.errors import AlreadySaid, RunFailed

USER_ERROR = 2  # exit code of a child that has already said what the user can mend
INTERRUPTED = 130  # what shells report for Ctrl-C


def run_stage(stage: str, folder: Path, reference: Path | None = None) -> None:
    """Run `generate` or `score` for the request in a run's folder and wait for it.

    Raises  AlreadySaid: the child has printed what to mend. RunFailed: it failed or was killed; the
    rows it finished stay.
    """
    command = [sys.executable, "-m", "harness.worker", stage, str(folder)]
    process = subprocess.Popen([*command, *([str(reference)] if reference else [])])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if code == USER_ERROR:
        raise AlreadySaid
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory, if nobody did it by hand)" if -code == signal.SIGKILL else ""
        raise RunFailed(
            f"{folder.name}: {stage} was killed by {name}{hint}; finished videos are kept, the "
            "same command continues"
        )
    if code:
        raise RunFailed(f"{folder.name}: {stage} failed; finished videos are kept")
