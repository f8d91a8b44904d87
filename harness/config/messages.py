"""Error sentences for what composing or building a configuration raises."""

from __future__ import annotations

import re
import sys

from hydra.errors import InstantiationException

from harness.config.hydra_errors import sentence
from harness.system.errors import AlreadySaid, UserError, first_line


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
    if not isinstance(error, AlreadySaid):
        print(f"error: {sentence(error)}", file=sys.stderr)
