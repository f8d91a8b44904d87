"""Runs a program: robust output streams, exit codes, and messages instead of tracebacks."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from harness.system.errors import INTERRUPTED, USER_ERROR, UserError
from harness.system.plain import plain_streams

UNREAD = 141  # exit code that shells report for a closed pipe (128 + SIGPIPE)


class Lasting(io.FileIO):
    """An output stream that discards text after its first error, so that the program can finish.

    The reader may close the pipe (`| head -1`), or the disk may be full, while a run still has rows
    and tables to write. The first error is kept in `lost`.
    """

    lost: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write the data, or discard it after an error; return the number of bytes."""
        view = memoryview(data)  # type: ignore[arg-type]
        if self.lost is None:
            try:
                # None: a pipe that does not block is full. After 0 the buffer tries again.
                return super().write(view) or 0
            except OSError as error:
                self.lost = error
        return view.nbytes


def lasting_streams() -> tuple[Lasting, Lasting]:
    """Replace standard output and error by `Lasting` streams; return both."""
    # A stream may have been closed by the caller (`>&-`). It is opened on /dev/null, otherwise the
    # next opened file would get its number, and all printed text would go into that file.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    # closefd=False: children, and libraries that print by themselves, use these numbers too.
    raw = Lasting(1, "w", closefd=False), Lasting(2, "w", closefd=False)
    for stream, name in zip(raw, ("stdout", "stderr"), strict=True):
        # As Python does: standard error by line, standard output by line on a terminal only.
        # backslashreplace: a prompt with letters that the encoding lacks must not end the run.
        encoding = getattr(getattr(sys, name), "encoding", None) or "utf-8"
        is_by_line = name == "stderr" or stream.isatty()
        text = io.TextIOWrapper(
            io.BufferedWriter(stream), encoding, "backslashreplace", line_buffering=is_by_line
        )
        setattr(sys, name, text)
    return raw


def exit_with(main: Callable[[], int]) -> None:
    """Run a program and exit with its code.

    A closed pipe (`| head`) does not stop the work; the exit code is then 141. A removed current
    folder, and a full disk behind standard output, give one sentence instead of a traceback.
    """
    raw, _ = lasting_streams()
    try:
        # Fails in a folder that was removed, before a library does with a message of its own.
        os.getcwd()
        with plain_streams():
            code = main()
    except FileNotFoundError as error:
        # `getcwd` names no file in its error. Any other missing file is a defect: show it in full.
        if error.filename is not None or _has_folder():
            raise
        print("error: the current folder was removed: cd to one that is there", file=sys.stderr)
        code = USER_ERROR
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.stdout.flush()  # otherwise a full disk would show only after the exit code is decided
    # A code other than 0 says more than that of a lost output.
    if raw.lost is not None and not code:
        code = UNREAD if raw.lost.errno == errno.EPIPE else 1
        if code != UNREAD:
            print(f"error: standard output: {raw.lost.strerror}", file=sys.stderr)
    sys.exit(code)


def _has_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
