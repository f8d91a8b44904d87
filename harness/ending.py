"""How a program ends: with its exit code, also where nobody reads on what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from harness.isolate import INTERRUPTED
from harness.plain import plain_streams

UNREAD = 141  # what shells report for a program whose reader left (128 + SIGPIPE)


def exit_with(main: Callable[[], int]) -> None:
    """Run a program and leave; a reader that has seen enough (`| head`) ends it without a word."""
    try:
        with plain_streams():
            code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more while it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNREAD
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
