"""Errors of the harness, their causes and exit codes."""

from __future__ import annotations

import argparse
import difflib
import errno
import traceback
from collections.abc import Iterable, Sequence
from typing import Literal, NoReturn

Cause = Literal["oom", "killed", "crash", "timeout", "numerics", "error"]
# Words in messages of torch: of CUDA, and two of its CPU allocator.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
USER_ERROR = 2  # exit code for something that the user can fix
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # codes of an OSError: disk, quota, file size
INTERRUPTED = 130  # exit code that shells report for Ctrl-C


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """Return ", did you mean ..." with similar options; empty if there are none."""

    near = difflib.get_close_matches(name, options, cutoff=0.5)
    return f", did you mean {' or '.join(near)}" if near else ""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one sentence, like all other errors here."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        # argparse would print the usage first, which hides the sentence.
        said = " ".join(message.split())
        self.exit(USER_ERROR, f"error: {self.prog}: {said}; {self.prog} --help says more\n")


def system_message(error: OSError) -> str:
    """Return which file an OSError is about, and the system's message."""
    # Two files if it is about renaming or linking one to the other.
    files = [str(each) for each in (error.filename, error.filename2) if each is not None]
    return f"{' and '.join(files) or 'the system'}: {error.strerror or error}"


def last_frame(error: BaseException) -> str:
    """Return where an error was raised: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"


def cause_of(error: BaseException) -> Cause:
    """Classify an error: `oom` for lack of memory, `numerics` for `NotFinite`, else `error`."""
    # The chain of causes counts too: libraries wrap out-of-memory errors in errors of their own.
    # A chain can be a circle, if an error is raised from one that it caused.
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if _is_oom(at):
            return "oom"
        if isinstance(at, NotFinite):
            return "numerics"
        seen.append(at)
        at = at.__cause__ or at.__context__
    return "error"


def _is_oom(error: BaseException) -> bool:
    """Whether an error means that memory ran out, in Python, torch or the kernel."""
    # Torch has an exception type for CUDA only; its CPU allocator raises a plain RuntimeError.
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError):
        return any(words in str(error).lower() for words in OUT_OF_MEMORY)
    # With a small memory limit, imports are the first to fail: a library cannot be mapped.
    return isinstance(error, ImportError) and any(
        words in str(error) for words in ("failed to map segment", "cannot allocate memory")
    )


class UserError(Exception):
    """Something the user can fix.

    The message is one sentence: what was found, what is allowed, what to type next. The program
    prints it without a traceback and exits with code 2.
    """


class NotFinite(ArithmeticError):
    """NaN or infinity in a video's numbers, so its pixels would be meaningless.

    The message says where the first one occurred.
    """


class AlreadySaid(UserError):
    """A child process has printed the message; the parent only passes the exit code on."""


class RunFailed(Exception):
    """A stage of a run ended without all of its videos. Exit code 1; finished rows stay.

    cause: one of
    `oom`       an allocator failed, or the kernel's out-of-memory killer
    `killed`    SIGKILL, SIGTERM or an interrupt from outside
    `crash`     another signal, or an exit without a report
    `timeout`   `run.timeout_s`
    `numerics`  values that are not finite
    `error`     any other exception
    video: the current one (prompt index, sample); None if none had begun.
    """

    def __init__(self, cause: Cause, reason: str, video: tuple[int, int] | None = None) -> None:
        """Build the message: the cause, then the reason."""
        super().__init__(f"{cause}: {reason}")
        self.cause: Cause = cause
        self.reason = reason
        self.video = video


def retry(causes: Iterable[str]) -> str | None:
    """Return the setting that retries failed videos; "" if none is needed, None if none failed."""
    # A run that its settings forbid has no failed video, and repeating it would not help.
    causes = set(causes) - {"settings"}
    if not causes:
        return None
    if causes == {"killed"}:  # these are retried without a setting
        return ""
    return "run.retry=oom" if causes <= {"oom", "killed"} else "run.retry=failed"
