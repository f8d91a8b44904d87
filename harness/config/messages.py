"""Error sentences for what composing or building a configuration raises."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from hydra.errors import InstantiationException

from harness.config.hydra_errors import OF_COMPOSING, sentence
from harness.system.errors import (
    INTERRUPTED,
    USER_ERROR,
    AlreadySaid,
    UserError,
    first_line,
    of_system,
)
from harness.system.logs import begin, log

Words = ParamSpec("Words")  # what the `main` of a verb takes


def of_construction(error: InstantiationException) -> str:
    """Hydra wraps what a constructor raised, or says that there is no such class."""
    missing = re.search(r"Error locating target '([^']*)'", str(error))
    if missing:
        return (
            f"there is no class {missing[1]}: its module must lie in this folder, in that of "
            f"--config-dir or on PYTHONPATH, and import without error{_cause(error)}"
        )
    known = isinstance(error.__cause__, (UserError, ValueError))
    return " ".join(str(error.__cause__ if known else error).split())


def _cause(error: InstantiationException) -> str:
    """What the import of a class ended with, where that says more than the missing class."""
    cause: BaseException | None = error
    while cause is not None and (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__
    if cause is error or not isinstance(cause, Exception):
        return ""
    return f" ({first_line(cause)})"


def complain(error: Exception) -> None:
    """Print one sentence for what went wrong, unless a child has said it already."""
    if isinstance(error, InstantiationException):
        print(f"error: {of_construction(error)}", file=sys.stderr)
    elif not isinstance(error, AlreadySaid):
        print(f"error: {sentence(error)}", file=sys.stderr)


def verb(
    kept: str = "", also: tuple[type[Exception], ...] = ()
) -> Callable[[Callable[Words, int]], Callable[Words, int]]:
    """Have the `main` of a verb end in one sentence and exit code 2 for what the user can mend.

    kept: what an interrupt leaves, said with its exit code 130; without it, others say that.
    also: kinds of errors of this verb that the user can mend, beside `UserError`, those of
    composing a configuration and those of the system.
    """

    mendable: tuple[type[Exception], ...] = (UserError, *OF_COMPOSING, *also)

    def decorated(main: Callable[Words, int]) -> Callable[Words, int]:
        @wraps(main)
        def ended(*args: Words.args, **kwargs: Words.kwargs) -> int:
            if not log.handlers:  # of a program that does not begin at `python -m harness`
                begin()
            try:
                return main(*args, **kwargs)
            except mendable as error:
                complain(error)
            except OSError as error:
                complain(UserError(of_system(error)))
            except KeyboardInterrupt:
                if not kept:
                    raise
                print(f"interrupted; {kept}", file=sys.stderr)
                return INTERRUPTED
            return USER_ERROR

        return ended

    return decorated
