"""Writes a report's folder aside and swaps it in when complete; until then the old one stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
    beside = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    earlier = out.with_name(f".{out.name}.{os.getpid()}.earlier")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        beside.mkdir()
        yield beside
        content = {"made_by": MADE_BY, "files": sorted(_files(beside))}
        (beside / MARKER).write_text(json.dumps(content, indent=1) + "\n")
        _swap(beside, out, earlier)
    except OSError as error:
        raise UserError(f"cannot write the report to {out} ({_cause(error)})") from error
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
    if not found and not any(out.iterdir()):
        return
    listed = _listed(out)
    if listed is None:
        raise UserError(f"{out} is not a report of this harness and is left as it is: {elsewhere}")
    added = sorted(found - listed)
    if added:
        some = ", ".join(added[:3])
        raise UserError(f"{out} holds what no report wrote ({some}): move it away, or {elsewhere}")


def link(source: Path, target: Path) -> int:
    """Hard-link a file, or copy it where that is impossible; return its bytes.

    Symbolic links are never followed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
    return target.lstat().st_size


def _files(folder: Path) -> set[str]:
    """List every file below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _listed(folder: Path) -> set[str] | None:
    """Return the files that a report lists as its own; None if the folder is no report."""
    try:
        content = json.loads((folder / MARKER).read_text())
        if content["made_by"] != MADE_BY:
            return None
        return {MARKER, *map(str, content["files"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _swap(whole: Path, out: Path, earlier: Path) -> None:
    """Swap the folders by two renames; if the second fails, undo the first."""
    refuse_others(out)  # another process may have written it meanwhile
    if not out.exists():
        whole.rename(out)
        return
    out.rename(earlier)
    try:
        whole.rename(out)
    except BaseException:
        earlier.rename(out)
        raise


def _sweep(out: Path) -> None:
    """Remove what dead processes left next to `out`, or restore an earlier report."""
    for left in out.parent.glob(f".{out.name}.*"):
        kind = left.suffix
        pid = left.name.removeprefix(f".{out.name}.").removesuffix(kind)
        if not pid.isdigit() or _is_alive(int(pid)):
            continue
        if kind == ".earlier" and not out.exists():
            left.rename(out)  # a process was killed between the two renames
        elif kind in (".earlier", ".unfinished"):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cause(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room, or give another folder with --out"
    about = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{about}: give another folder with --out"
