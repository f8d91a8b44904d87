"""What a user can mend: one sentence, and the exit code that goes with it."""

from __future__ import annotations

import traceback


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def last_frame(error: Exception) -> str:
    """Where an error was raised: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"


class UserError(Exception):
    """Something the user can change.

    The message is one sentence: what was found, what is allowed, what to type next. The program
    prints it without a traceback and exits with code 2.
    """


class AlreadySaid(UserError):
    """A child process has printed the sentence; the parent only passes the exit code on."""


class RunFailed(Exception):
    """A run ended without all of its videos. The program exits with code 1; finished rows stay."""
