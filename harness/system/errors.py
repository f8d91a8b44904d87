"""What a user can mend: one sentence, and the exit code that goes with it."""

from __future__ import annotations

import argparse
import difflib
import errno
import traceback
from collections.abc import Iterable, Sequence
from typing import Literal, NoReturn

Cause = Literal["oom", "killed", "crash", "timeout", "numerics", "error"]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
USER_ERROR = 2  # exit code of a child that has already said what the user can mend
INTERRUPTED = 130  # what shells report for Ctrl-C


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """Words about the nearest options, or nothing."""
    near = difflib.get_close_matches(name, options, cutoff=0.5)
    return f", did you mean {' or '.join(near)}" if near else ""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other error here."""

    def error(self, message: str) -> NoReturn:
        """Leave with the exit code of what the user can mend."""
        said = " ".join(message.split())
        self.exit(2, f"error: {self.prog}: {said}; {self.prog} --help says more\n")


def of_system(error: OSError) -> str:
    """What the system refused, and of which file."""
    files = [str(each) for each in (error.filename, error.filename2) if each is not None]
    return f"{' and '.join(files) or 'the system'}: {error.strerror or error}"


def last_frame(error: BaseException) -> str:
    """Where an error was raised: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"


def cause_of(error: BaseException) -> Cause:
    """`oom` for what allocators of Python, torch and the kernel say, `numerics` for `NotFinite`,
    else `error`.

    What an error was raised from counts too: libraries have words of their own for a lack of
    memory that they met.
    """
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
    """Torch has a type for CUDA only; its CPU allocator raises a RuntimeError."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error).lower()
    known = isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY)
    return known or _is_loader_without_memory(error)


def _is_loader_without_memory(error: BaseException) -> bool:
    """A library that could not be mapped: an import is where a small limit is met first."""
    return isinstance(error, ImportError) and any(
        words in str(error) for words in ("failed to map segment", "cannot allocate memory")
    )


class UserError(Exception):
    """Something the user can change.

    The message is one sentence: what was found, what is allowed, what to type next. The program
    prints it without a traceback and exits with code 2.
    """


class NotFinite(ArithmeticError):
    """NaN or infinity in a video's numbers: what it would come to means nothing.

    The message says where it began.
    """


class AlreadySaid(UserError):
    """A child process has printed the sentence; the parent only passes the exit code on."""


class RunFailed(Exception):
    """A stage of a run ended without all of its videos. Exit code 1; finished rows stay.

    cause: `oom` (an allocator, or the kernel's out-of-memory killer), `killed` (SIGKILL, SIGTERM or
    an interrupt from outside), `crash` (another signal, an exit without a word), `timeout`
    (`run.timeout_s`), `numerics` (values that are not finite), `error` (any other exception).
    video: the one in work (prompt index, sample), None if none had begun.
    """

    def __init__(self, cause: Cause, reason: str, video: tuple[int, int] | None = None) -> None:
        """The message is the reason with the cause before it."""
        super().__init__(f"{cause}: {reason}")
        self.cause: Cause = cause
        self.reason = reason
        self.video = video


def retry(causes: Iterable[str]) -> str | None:
    """The word that has failed videos tried again, if one is needed; None: nothing failed."""
    causes = set(causes) - {"settings"}
    if not causes:
        return None
    if causes == {"killed"}:
        return ""
    return "run.retry=oom" if causes <= {"oom", "killed"} else "run.retry=failed"
