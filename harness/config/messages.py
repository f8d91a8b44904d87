"""Prints errors of composing or building a configuration as one sentence each."""

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
    system_message,
)
from harness.system.logs import begin, log

Words = ParamSpec("Words")  # parameters of a verb's `main`


def construction_message(error: InstantiationException) -> str:
    """Return the message for an object that Hydra could not build."""
    # Hydra wraps the constructor's exception, or reports that the class does not exist.
    missing = re.search(r"Error locating target '([^']*)'", str(error))
    if missing:
        # The innermost error says which import failed, if the module is there but cannot be read.
        cause: BaseException = error
        while (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        why = ""
        if cause is not error and isinstance(cause, Exception):
            why = f" ({first_line(cause)})"
        return (
            f"there is no class {missing[1]}: its module must lie in this folder, in that of "
            f"--config-dir or on PYTHONPATH, and import without error{why}"
        )
    # These two were written for the user; the rest of Hydra's text would only hide them.
    is_ours = isinstance(error.__cause__, (UserError, ValueError))
    return " ".join(str(error.__cause__ if is_ours else error).split())


def complain(error: Exception) -> None:
    """Print the message of an error, unless a child process has printed it already."""
    if isinstance(error, InstantiationException):
        print(f"error: {construction_message(error)}", file=sys.stderr)
    elif not isinstance(error, AlreadySaid):
        print(f"error: {sentence(error)}", file=sys.stderr)


def verb(
    kept: str = "", also: tuple[type[Exception], ...] = ()
) -> Callable[[Callable[Words, int]], Callable[Words, int]]:
    """Return a decorator for the `main` of a verb: errors that users can fix give exit code 2.

    Such errors are `UserError`, those of composing a configuration and OSError; each is printed as
    one sentence.
    kept: printed after "interrupted" (exit code 130). If empty, KeyboardInterrupt is passed on.
    also: further exception types that users of this verb can fix.
    """

    fixable: tuple[type[Exception], ...] = (UserError, *OF_COMPOSING, *also)

    def decorated(main: Callable[Words, int]) -> Callable[Words, int]:
        @wraps(main)
        def ended(*args: Words.args, **kwargs: Words.kwargs) -> int:
            # Training commands and tests call verbs without `python -m harness`, which begins it.
            if not log.handlers:
                begin()
            try:
                return main(*args, **kwargs)
            except fixable as error:
                complain(error)
            except OSError as error:
                complain(UserError(system_message(error)))
            except KeyboardInterrupt:
                # A verb that keeps what is done says so; the others end as any program does.
                if not kept:
                    raise
                print(f"interrupted; {kept}", file=sys.stderr)
                return INTERRUPTED
            return USER_ERROR

        return ended

    return decorated
