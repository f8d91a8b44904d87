"""The log: warnings, remarks and progress, one line each on standard error.

Modules write to `log`, the logger `harness`. Only commands attach a handler. In a program that
imports the harness, that program's logging settings apply.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

log = logging.getLogger("harness")
# Shown whenever warnings are, but without a prefix: waiting for a lock is nothing to warn about.
REMARK = logging.WARNING + 1
LEVELS = ("warning", "info", "debug")  # values of `run.log`
FLAGS = {"-v": "info", "--verbose": "info", "-vv": "debug", "-q": "error", "--quiet": "error"}
VARIABLE = "HARNESS_LOG"  # passes the level to child processes
logging.addLevelName(REMARK, "REMARK")


class _Lines(logging.Handler):
    """Writes to standard error."""

    # Not a StreamHandler, which would keep the stream of its creation: tests and `plain_streams`
    # replace sys.stderr later.
    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, with the level as prefix, except for remarks."""
        prefix = "" if record.levelno == REMARK else f"{record.levelname.lower()}: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr)


def begin(level: str | None = None) -> None:
    """Attach the handler and set the level; None takes the level of the parent process.

    level: `warning`, `info`, `debug`, or `error`, which hides warnings and remarks.
    """
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
        log.propagate = False  # else a root handler of some library would print each line again
    # By the environment, so that children of this process, and of launchers, log alike.
    level = level or os.environ.get(VARIABLE) or LEVELS[0]
    os.environ[VARIABLE] = level
    log.setLevel(level.upper())


def without_flags(words: Sequence[str]) -> list[str]:
    """Set the log level from -v, -vv and -q, of which the last counts; return the other words."""
    begin(next((FLAGS[word] for word in reversed(words) if word in FLAGS), LEVELS[0]))
    return [word for word in words if word not in FLAGS]


def remark(message: str, *values: object) -> None:
    """Log a message that is not a warning, but that the user should read."""
    log.log(REMARK, message, *values)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Log the start of a stage and, unless it fails, its duration."""
    log.info("%s begins", what)
    start = time.perf_counter()
    # Without `finally`: a stage that fails has an error of its own to print.
    yield
    log.info("%s took %.1f s", what, time.perf_counter() - start)
