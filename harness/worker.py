"""The child: one stage of one run. Started by `harness.isolate`, talks through files."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

from hydra.errors import InstantiationException

from harness.errors import UserError, first_line
from harness.isolate import INTERRUPTED, USER_ERROR
from harness.run import Run


def main(stage: str, folder: str, reference: str | None = None) -> int:
    """Run a stage; exit code 0 done, 1 something failed, 2 the user can mend it."""
    try:
        run = Run.from_folder(Path(folder))
        if stage == "generate":
            from harness.generate import generate

            return 1 if generate(run) else 0
        from harness.score import score
        from harness.track import mirror

        assert reference is not None
        score(run, Run.from_folder(Path(reference)))
        mirror(run)
        return 0
    except (UserError, ValueError) as error:
        return _say(str(error))
    except InstantiationException as error:
        return _say(of_construction(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _say(
            f"no space left under {folder}: free some and type the same command again, finished "
            "videos are kept"
        )
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error):
            raise
        return _say(
            f"out of memory before the first video ({first_line(error)}): choose a smaller model, "
            "fewer frames or another device"
        )
    except KeyboardInterrupt:
        return INTERRUPTED


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


def _say(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
