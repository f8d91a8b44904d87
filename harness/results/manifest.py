"""`run.json`, the manifest of a finished run. It is written last; its presence means done.

It holds the SHA-256 of every file of the run and of itself. Before scores or videos are added to a
finished run, its files are compared with the manifest: a new digest must not cover damage.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
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
DONE, SCORING = "done", "scoring"  # states; `scoring` while scores are added to a finished run
SEAL = "sha256"  # key of the manifest's own digest
MADE_BY_SCORING = (SCORES, ".png", ".mp4")  # suffixes of the files that scoring writes
MARKS = {"request.json", MANIFEST, observations.OBSERVATIONS}  # a folder with any of them is a run


def write(run: Run, state: RunState | None = None) -> None:
    """Write the manifest: all requested videos are generated and scored.

    state: the run's state if the caller has read it already.
    """
    state = state or RunState.read(run.folder)
    folder, environment = run.folder, None
    # The rows name the device too, so a damaged file of the machine does not undo the run.
    if (folder / ENVIRONMENT).exists():
        try:
            environment = json.loads((folder / ENVIRONMENT).read_text())
        except (OSError, ValueError) as error:
            log.warning(
                f"{folder / ENVIRONMENT} cannot be read ({str(error)[:80]}): {MANIFEST} says null "
                "for the machine and its versions"
            )
    # Without request.json: every command rewrites it, with its own prompts and metrics. Without
    # names that begin with a dot: locks, and unfinished files of killed processes.
    top = [folder / name for name in (observations.OBSERVATIONS, SCORES, ENVIRONMENT)]
    below = [path for name in SUBFOLDERS for path in sorted((folder / name).iterdir())]
    covered = [path for path in (*top, *below) if path.is_file() and path.name[0] != "."]
    content = {
        "run_id": run.run_id,
        "state": DONE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": {"name": run.suite.name, "source": run.suite.source, "seed": run.seed}
        | {"sha256": run.suite.sha256, "num_latent_frames": run.suite.num_frames}
        | {"switches": run.suite.switches, "recache": run.suite.recache},
        "num_videos": len(state.made),
        "model": {"name": run.model_name, **run.model},
        "method": {"name": run.method_name, **run.method},
        "attention": run.attention,
        "integration": run.integration,
        "weights": state.weights,
        "schema_version": observation.SCHEMA_VERSION,
        "code_versions": state.code_versions,
        "environment": environment,
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in covered},
    }
    write_json(folder / MANIFEST, sealed(content))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest with its own digest added, computed over all its other fields."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    # Sorted and without blanks, so that the digest does not depend on how the file was formatted.
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, SEAL: hashlib.sha256(canonical.encode()).hexdigest()}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether the manifest matches its own digest."""
    return bool(content.get(SEAL) == sealed(content)[SEAL])


def was_finished(folder: Path) -> bool:
    """Whether the run has been done before; its state may be `scoring` now.

    Raises  UserError: a newer version of the harness wrote its manifest.
    """
    return _finished(folder) is not None


def is_whole(folder: Path) -> bool:
    """Whether a run is done and has every file of its manifest; contents are not hashed.

    Raises  UserError: a newer version of the harness wrote its manifest.
    """
    # A repeated sweep asks this of every run, so it must not read the videos. `verify` hashes them
    # before anything is added.
    content = _finished(folder)
    if content is None or content["state"] != DONE or _fault(content):
        return False
    return all((folder / name).exists() for name in content["files"])


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run that was done before; None if missing or unreadable."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        log.debug("read %s", path)
        version = int(content["schema_version"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    # Not "unfinished": this command would then generate the videos of a newer harness again.
    if version > observation.SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer version of the harness (schema {version}, this one "
            f"writes {observation.SCHEMA_VERSION}): update the harness, or move {folder} away and "
            "type the same command again"
        )
    known = version == observation.SCHEMA_VERSION and content.get("state") in (DONE, SCORING)
    return content if known else None


def _fault(content: Mapping[str, Any]) -> str:
    """Return what is wrong with a manifest that parsed as JSON; empty if nothing is."""
    if not is_sealed(content):
        return "it is not what was written"
    if not isinstance(content.get("files"), dict) or not all(map(is_below, content["files"])):
        return "it names files outside its folder"
    return ""


def verify(folder: Path, score_only: bool = False) -> None:
    """Compare a finished run with its manifest before anything is added to it.

    A missing file is no damage if the calling command makes it again. environment.json is restored
    from the manifest.
    score_only: the calling command scores and cannot generate videos.
    Raises  UserError: a damaged file; the message says what to type.
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
    # The first damaged file ends the command; `check` lists all of them.
    for name, digest in content["files"].items():
        path = folder / name
        gone = not path.exists()
        # A file that this command writes again is no damage, such as a removed picture.
        if gone and not _stays_lost(folder, name, score_only):
            continue
        if gone or sha256(path) != digest:
            raise UserError(_sentence(folder, name, gone, score_only))
    # Only generating writes environment.json, so nothing else would restore it.
    if content.get("environment") and not (folder / ENVIRONMENT).exists():
        write_json(folder / ENVIRONMENT, content["environment"])


def is_below(name: str) -> bool:
    """Whether a name in a manifest stays inside the run's folder."""
    # A manifest may come from another machine, so `check` must not follow it to other files.
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts


def _stays_lost(folder: Path, name: str, score_only: bool) -> bool:
    """Whether the calling command does not make a missing file again."""
    path = folder / name
    if path.parent.name == "trace":
        # Only generating writes a trace, and a video that has frames is not generated again.
        frames = (folder / "videos" / path.stem).with_suffix(".mkv")
        return score_only or frames.exists()
    return score_only and name != ENVIRONMENT and not name.endswith(MADE_BY_SCORING)


def _sentence(folder: Path, name: str, gone: bool, score_only: bool) -> str:
    """Return the error message about one file: what is wrong, and what to type."""
    path = folder / name
    what = f"{path} is {'gone' if gone else 'not what the finished run left'}"
    if score_only and not name.endswith(MADE_BY_SCORING):
        check = f"python -m harness check {shlex.quote(str(folder))}"
        return f"{what}, so nothing was added to the run: type {check}, which shows what fixes it"
    # Frames and trace belong together: if one of them is damaged, both are made again.
    remove = shlex.quote(str(path))
    if path.parent.name == "trace" or path.suffix in (".mkv", ".npy"):
        remove = f"{shlex.quote(str(folder / 'videos' / path.stem))}.*"
    return (
        f"{what}, so nothing was added to the run: type rm -f {remove} and the same command again"
    )


def begin_scoring(folder: Path) -> None:
    """Set the manifest of a finished run to `scoring`, without the files that scoring rewrites."""
    content = _finished(folder)
    # A run that was never finished has no digests to keep; the command that finishes it adds them.
    if content is not None:
        # If this command is killed, the digests of all other files still protect the run.
        files = {n: x for n, x in content["files"].items() if not n.endswith(MADE_BY_SCORING)}
        write_json(folder / MANIFEST, sealed({**content, "state": SCORING, "files": files}))


def clear(folder: Path) -> None:
    """Remove the manifest, before videos are added to the run."""
    (folder / MANIFEST).unlink(missing_ok=True)


def runs(roots: Sequence[Path]) -> list[Path]:
    """Return the folders of all runs at or below some folders, sorted.

    Raises  UserError: there is none.
    """
    # Folders named twice, or reached through a link too, count once, under the first name.
    found: dict[Path, Path] = {}
    for root in roots:
        with suppress(UserError):  # a root without runs is no error if another one has some
            for folder in observations.folders_below(root, MARKS):
                found.setdefault(folder.resolve(), folder.absolute())
    if not found:
        named = " and ".join(map(str, roots))
        raise UserError(f"no runs below {named}: give a folder that python -m harness wrote")
    return sorted(found.values())
