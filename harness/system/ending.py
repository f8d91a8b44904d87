"""How a program begins and ends: its streams, its folder, its exit code, no traceback for them."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from harness.system.errors import INTERRUPTED, USER_ERROR, UserError
from harness.system.plain import plain_streams

UNREAD = 141  # what shells report for a program whose reader left (128 + SIGPIPE)


class Lasting(io.FileIO):
    """A stream that loses what nobody takes, so that work goes on to its end.

    A reader may leave (`| head -1`) and a disk may be full while a run still has rows and tables to
    write. The first error is kept in `lost`.
    """

    lost: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write, or do as if."""
        view = memoryview(data)  # type: ignore[arg-type]
        if self.lost is None:
            try:
                return super().write(view) or 0
            except BlockingIOError:
                raise
            except OSError as error:
                self.lost = error
        return view.nbytes


def lasting_streams() -> tuple[Lasting, Lasting]:
    """Put streams that outlive their readers in place of standard output and error.

    A stream that was closed by whoever started this (`>&-`) is opened on nothing first: the next
    file would get its number, and all that is printed would go into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    raw = Lasting(1, "w", closefd=False), Lasting(2, "w", closefd=False)
    for stream, name in zip(raw, ("stdout", "stderr"), strict=True):
        encoding = getattr(getattr(sys, name), "encoding", None) or "utf-8"
        is_by_line = name == "stderr" or stream.isatty()
        text = io.TextIOWrapper(
            io.BufferedWriter(stream), encoding, "backslashreplace", line_buffering=is_by_line
        )
        setattr(sys, name, text)
    return raw


def exit_with(main: Callable[[], int]) -> None:
    """Run a program and leave with its exit code.

    A reader that has seen enough (`| head`) ends nothing: the work is done, and the exit code is
    that of a program whose reader left. One sentence for a folder that is gone and for a full disk.
    """
    raw, _ = lasting_streams()
    try:
        os.getcwd()
        with plain_streams():
            code = main()
    except FileNotFoundError as error:
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
    sys.stdout.flush()
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
