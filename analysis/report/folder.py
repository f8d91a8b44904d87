"""Writes a report's folder aside and swaps it in when complete; until then the old one stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.system.errors import UserError

MARKER = "report.json"  # lists the files of a report; no folder without it is ever replaced
MADE_BY = "video-kv-bench report"


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Yield an empty folder next to `out`; it replaces `out` if the block succeeds.

    After an interruption or failure the earlier report is unchanged. The next call removes what a
    killed process left.
    Raises  UserError: something else is there, or the disk does not take it.
    """
    out = out.resolve()
    refuse_others(out)
    # Both folders lie next to `out`, on the same file system, so that renames are atomic. Their
    # names hold the process, so that others can tell whether it still lives.
    beside = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    earlier = out.with_name(f".{out.name}.{os.getpid()}.earlier")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        beside.mkdir()
        yield beside
        # The list of files comes last: a report without it is unfinished.
        content = {"made_by": MADE_BY, "files": sorted(_files(beside))}
        (beside / MARKER).write_text(json.dumps(content, indent=1) + "\n")
        _swap(beside, out, earlier)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause = "the disk is full: make room, or give another folder with --out"
        else:
            about = f" ({error.filename})" if error.filename else ""
            cause = f"{error.strerror}{about}: give another folder with --out"
        raise UserError(f"cannot write the report to {out} ({cause})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def refuse_others(out: Path) -> None:
    """Refuse to replace anything but a report of ours.

    Raises  UserError: there is another folder or a file, or a report to which files were added.
    """
    if not out.exists():
        return
    elsewhere = "give another folder with --out"
    if not out.is_dir():
        raise UserError(f"{out} is a file: {elsewhere}")
    found = _files(out)
    # An empty folder holds nothing to lose.
    if not found and not any(out.iterdir()):
        return
    listed: set[str] = set()
    # A folder with an unreadable list of files does not count as a report.
    with suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads((out / MARKER).read_text())
        if content["made_by"] == MADE_BY:
            listed = {MARKER, *map(str, content["files"])}
    if not listed:
        raise UserError(f"{out} is not a report of this harness and is left as it is: {elsewhere}")
    # A user's notes beside the pages would be deleted with them.
    added = sorted(found - listed)
    if added:
        some = ", ".join(added[:3])
        raise UserError(f"{out} holds what no report wrote ({some}): move it away, or {elsewhere}")


def link(source: Path, target: Path) -> int:
    """Hard-link a file, or copy it where that is impossible; return its bytes.

    Symbolic links are never followed.
    """
    # A link takes no space, and a copy of the folder to another place copies the video.
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        # Another file system, one without hard links, too many links, or somebody else's file.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
    return target.lstat().st_size


def _files(folder: Path) -> set[str]:
    """List every file below a folder, relative to it."""
    # Slashes on every system, since the list is part of the report and may travel.
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _swap(whole: Path, out: Path, earlier: Path) -> None:
    """Swap the folders by two renames; if the second fails, undo the first."""
    refuse_others(out)  # another process may have written it meanwhile
    if not out.exists():
        whole.rename(out)
        return
    out.rename(earlier)
    try:
        whole.rename(out)
    except BaseException:  # Ctrl-C between the renames too must leave the earlier report
        earlier.rename(out)
        raise


def _sweep(out: Path) -> None:
    """Remove what dead processes left next to `out`, or restore an earlier report."""
    for left in out.parent.glob(f".{out.name}.*"):
        kind = left.suffix
        # Only names of our form; anything else is not ours to remove.
        pid = left.name.removeprefix(f".{out.name}.").removesuffix(kind)
        if not pid.isdigit():
            continue
        try:
            os.kill(int(pid), 0)  # signal 0 only asks whether the process exists
            continue
        except PermissionError:  # it exists and is another user's
            continue
        except ProcessLookupError:
            pass
        if kind == ".earlier" and not out.exists():
            left.rename(out)  # the process was killed between the two renames
        elif kind in (".earlier", ".unfinished"):
            shutil.rmtree(left, ignore_errors=True)
