"""The log: warnings, remarks and what goes on, a line each on standard error.

Modules write to `log`, the logger `harness`. A command attaches the one handler; in a program that
imports the harness, Python's own rules and that program's settings decide.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

log = logging.getLogger("harness")
REMARK = logging.WARNING + 1  # as important as a warning, and printed as it is
LEVELS = ("warning", "info", "debug")  # that `run.log` takes
FLAGS = {"-v": "info", "--verbose": "info", "-vv": "debug", "-q": "error", "--quiet": "error"}
VARIABLE = "HARNESS_LOG"  # hands the level to child processes
logging.addLevelName(REMARK, "REMARK")


class _Lines(logging.Handler):
    """Writes to what is standard error at the time: tests and `plain_streams` put others there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, with the level before it."""
        prefix = "" if record.levelno == REMARK else f"{record.levelname.lower()}: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr)


def begin(level: str | None = None) -> None:
    """Attach the handler and choose what is shown; without a level, what the parent showed.

    level: `warning`, `info`, `debug`, or `error` for neither warnings nor remarks.
    """
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
        log.propagate = False  # else a root logger that a library set up would print it again
    level = level or os.environ.get(VARIABLE) or LEVELS[0]
    os.environ[VARIABLE] = level
    log.setLevel(level.upper())


def without_flags(words: Sequence[str]) -> list[str]:
    """The words of a verb without -v, -vv and -q, the last of which is obeyed."""
    begin(next((FLAGS[word] for word in reversed(words) if word in FLAGS), LEVELS[0]))
    return [word for word in words if word not in FLAGS]


def remark(message: str, *values: object) -> None:
    """Say something that is no warning, but that whoever typed the command should read."""
    log.log(REMARK, message, *values)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say that a stage of work begins and, where it comes to its end, how long it took."""
    log.info("%s begins", what)
    start = time.perf_counter()
    yield
    log.info("%s took %.1f s", what, time.perf_counter() - start)
