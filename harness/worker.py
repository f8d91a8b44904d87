"""The child: one stage of one run. Started by `harness.isolate`, talks through files."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from hydra.errors import InstantiationException

from harness.errors import UserError
from harness.isolate import USER_ERROR
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
    except InstantiationException as error:  # Hydra wraps what a constructor raised
        return _say(str(error.__cause__ or error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _say(
            f"no space left under {folder}: free some and type the same command again, finished "
            "videos are kept"
        )


def _say(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
