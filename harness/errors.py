"""What a user can mend: one sentence, and the exit code that goes with it."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can change.

    The message is one sentence: what was found, what is allowed, what to type next. The program
    prints it without a traceback and exits with code 2.
    """


class RunFailed(Exception):
    """A run ended without all of its videos. The program exits with code 1; finished rows stay."""
