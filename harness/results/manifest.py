"""`run.json`: what a finished run is made of. Written last; its presence means done.

It holds the SHA-256 of every file of the run and of itself. Before anything is added to a finished
run its files are held against it, so that damage is never taken into new digests.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from harness.results import observation, observations
from harness.results.run import ENVIRONMENT, SUBFOLDERS, Run
from harness.results.run_state import RunState
from harness.results.scores import SCORES
from harness.system.errors import UserError
from harness.system.files import sha256, write_json
from harness.system.logs import log

MANIFEST = "run.json"
DONE, SCORING = "done", "scoring"  # its states; the second while scores are added to a finished run
SEAL = "sha256"  # the digest of the manifest itself
MADE_BY_SCORING = (SCORES, ".png", ".mp4")  # ends of names
MARKS = {"request.json", MANIFEST, observations.OBSERVATIONS}  # any of them makes a folder a run


def write(run: Run, state: RunState | None = None) -> None:
    """Say that all videos asked for are made and scored, and by what.

    state: of the run, where it is known already.
    """
    state = state or RunState.read(run.folder)
    content = {
        "run_id": run.run_id,
        "state": DONE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": {"name": run.suite.name, "source": run.suite.source, "seed": run.seed}
        | {"sha256": run.suite.sha256, "num_latent_frames": run.suite.num_frames},
        "num_videos": len(state.made),
        "model": {"name": run.model_name, **run.model},
        "method": {"name": run.method_name, **run.method},
        "attention": run.attention,
        "integration": run.integration,
        "weights": state.weights,
        "schema_version": observation.SCHEMA_VERSION,
        "code_versions": state.code_versions,
        "environment": _environment(run.folder),
        "files": {name: sha256(run.folder / name) for name in _files(run.folder)},
    }
    write_json(run.folder / MANIFEST, sealed(content))


def _files(folder: Path) -> Iterator[str]:
    """What a run consists of, relative to its folder; requests differ from command to command."""
    top = [folder / name for name in (observations.OBSERVATIONS, SCORES, ENVIRONMENT)]
    below = [path for name in SUBFOLDERS for path in sorted((folder / name).iterdir())]
    for path in (*top, *below):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(folder).as_posix()


def _environment(folder: Path) -> Any:
    """What the child that made the videos ran on; null, and said, where that cannot be read."""
    path = folder / ENVIRONMENT
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        log.warning(
            f"{path} cannot be read ({str(error)[:80]}): {MANIFEST} says null for the "
            "machine and its versions"
        )
        return None


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the digest of all else in it."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, SEAL: hashlib.sha256(canonical.encode()).hexdigest()}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether a manifest is what was written, to the letter."""
    return bool(content.get(SEAL) == sealed(content)[SEAL])


def is_there(folder: Path) -> bool:
    """Whether a run says that it is done; a damaged manifest says nothing.

    Raises  UserError: it is of a version to come.
    """
    return (_finished(folder) or {}).get("state") == DONE


def was_finished(folder: Path) -> bool:
    """Whether a run was done once, and scores may be on their way into it now.

    Raises  UserError: its manifest is of a version to come.
    """
    return _finished(folder) is not None


def is_whole(folder: Path) -> bool:
    """Whether a run is done and has every file that it names; their bytes are not looked at.

    Raises  UserError: its manifest is of a version to come.
    """
    content = _finished(folder)
    if content is None or content["state"] != DONE or _fault(content):
        return False
    return all((folder / name).exists() for name in content["files"])


def _finished(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run that was done once; None where there is none that can be read."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        log.debug("read %s", path)
        version = int(content["schema_version"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if version > observation.SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer version of the harness (schema {version}, this one "
            f"writes {observation.SCHEMA_VERSION}): update the harness, or move {folder} away and "
            "type the same command again"
        )
    known = version == observation.SCHEMA_VERSION and content.get("state") in (DONE, SCORING)
    return content if known else None


def _fault(content: Mapping[str, Any]) -> str:
    """In what way a manifest that is whole JSON is not what was written; empty if it is."""
    if not is_sealed(content):
        return "it is not what was written"
    if not isinstance(content.get("files"), dict) or not all(map(is_below, content["files"])):
        return "it names files outside its folder"
    return ""


def verify(folder: Path, score_only: bool = False) -> None:
    """Hold a finished run against its manifest before anything is added to it.

    Files that are gone are made again by what follows, so they are no damage, except where only
    making the video again brings them back. environment.json comes back from the manifest.
    score_only: no video can be made by what follows.
    Raises  UserError: a damaged file, and what to type.
    """
    content = _finished(folder)
    if content is None:
        if (folder / MANIFEST).exists():
            log.warning(
                f"{folder / MANIFEST} is torn or of an older version, so the files beside "
                "it were not held against it"
            )
        return
    if fault := _fault(content):
        path = shlex.quote(str(folder / MANIFEST))
        raise UserError(
            f"{folder / MANIFEST} is damaged ({fault}): type rm {path} and the command of this run "
            f"again (python -m harness check {shlex.quote(str(folder))} shows it)"
        )
    for name, digest in content["files"].items():
        path = folder / name
        gone = not path.exists()
        if gone and not _stays_lost(folder, name, score_only):
            continue
        if gone or sha256(path) != digest:
            raise UserError(_sentence(folder, name, gone, score_only))
    if content.get("environment") and not (folder / ENVIRONMENT).exists():
        write_json(folder / ENVIRONMENT, content["environment"])


def is_below(name: str) -> bool:
    """Whether a name in a manifest is that of a file inside the folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts


def _stays_lost(folder: Path, name: str, score_only: bool) -> bool:
    """Whether a file that is gone is not made again by itself."""
    path = folder / name
    if path.parent.name == "trace":
        frames = (folder / "videos" / path.stem).with_suffix(".mkv")
        return score_only or frames.exists()
    return score_only and name != ENVIRONMENT and not name.endswith(MADE_BY_SCORING)


def _sentence(folder: Path, name: str, gone: bool, score_only: bool) -> str:
    """What is wrong with a file, and what to type."""
    path = folder / name
    what = f"{path} is {'gone' if gone else 'not what the finished run left'}"
    if score_only and not name.endswith(MADE_BY_SCORING):
        check = f"python -m harness check {shlex.quote(str(folder))}"
        return f"{what}, so nothing was added to the run: type {check}, which shows what mends it"
    remove = shlex.quote(str(path))
    if path.parent.name == "trace" or path.suffix in (".mkv", ".npy"):
        remove = f"{shlex.quote(str(folder / 'videos' / path.stem))}.*"
    return (
        f"{what}, so nothing was added to the run: type rm -f {remove} and the same command again"
    )


def begin_scoring(folder: Path) -> None:
    """Note in the manifest of a finished run that files of scoring are about to change.

    A command that is killed meanwhile leaves a run of which everything else is still sealed.
    """
    content = _finished(folder)
    if content is not None:
        files = {n: x for n, x in content["files"].items() if not n.endswith(MADE_BY_SCORING)}
        write_json(folder / MANIFEST, sealed({**content, "state": SCORING, "files": files}))


def clear(folder: Path) -> None:
    """A run that is worked on is not done."""
    (folder / MANIFEST).unlink(missing_ok=True)


def runs(roots: Sequence[Path]) -> list[Path]:
    """Every folder of a run at or below some folders, in order.

    Raises  UserError: there is none.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        with suppress(UserError):
            for folder in observations.folders_below(root, MARKS):
                found.setdefault(folder.resolve(), folder.absolute())
    if not found:
        named = " and ".join(map(str, roots))
        raise UserError(f"no runs below {named}: give a folder that python -m harness wrote")
    return sorted(found.values())
