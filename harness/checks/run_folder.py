"""Checks one run: its request, manifest and rows, and each of its videos."""

from __future__ import annotations

import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.checks import files as tables
from harness.checks import video
from harness.checks.files import Newer, Older, Wrong
from harness.checks.known_command import known_command
from harness.prompts.suite import Suite
from harness.results import manifest, observations
from harness.results.command_of_run import Origin, rm_command
from harness.results.observation import Observation
from harness.results.older import command_of
from harness.results.run import Run, folder_of, run_id_of
from harness.results.run_state import RunState
from harness.results.scores import SCORES, Key, key, stem
from harness.system.errors import UserError, retry
from harness.system.files import LOCK

NOT_KNOWN = (
    "the command that made it, which cannot be told from here (its files were changed since, or "
    "lie in a folder: give that to check as --config-dir)"
)


@dataclass(frozen=True)
class Finding:
    """One problem: what is wrong, the command that fixes it, and whether it is only unfinished."""

    what: str
    fix: str
    unfinished: bool = False

    def __str__(self) -> str:
        return f"{self.what}; type {self.fix} to fix it"


@dataclass
class Report:
    """All findings of a folder; counts its rows by device and by version of the code."""

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    run_ids: set[str] = field(default_factory=set)
    devices: Counter[str] = field(default_factory=Counter)
    code_versions: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> Literal["complete", "unfinished", "problem"]:
        """The worst state among the findings."""
        if not self.findings:
            return "complete"
        return "unfinished" if all(each.unfinished for each in self.findings) else "problem"


def examine(folder: Path, own: Path | None = None) -> Report:
    """Return everything that is wrong with a run.

    own: the folder given with `--config-dir`.
    """
    report = Report(folder)
    if _in_work(folder):  # files that change while they are read would look damaged
        waiting = "`python -m harness check` again when that is done"
        report.findings.append(Finding("another command works on it now", waiting, True))
        return report
    examined = _Folder(folder, own)
    report.findings += examined.findings()
    report.run_ids.update(str(row.get("run_id")) for row in examined.rows)
    report.run_ids = report.run_ids or {examined.run_id}
    report.devices.update(row["device"] for row in examined.rows if row.get("device"))
    report.code_versions.update(
        row["code_version"] for row in examined.rows if row.get("code_version")
    )
    return report


class _Folder:
    """Reads the files of one run in turn; a damaged one skips the checks that depend on it."""

    def __init__(self, folder: Path, own: Path | None) -> None:
        self.folder = folder
        self._own = own
        self.run_id = run_id_of(folder)
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[Key, dict[str, Any]] = {}
        self._run: Run | None = None
        self._manifest: dict[str, Any] | None = None
        self._suites: list[tuple[Suite, int]] = []  # suite and base seed, from the manifest
        self._origin: Origin | None = None
        self._made: dict[str, set[Key] | None] = {}  # videos of other runs, by run id
        self._reported: set[str] = set()  # files with a finding, without suffix: reported only once

    def findings(self) -> list[Finding]:
        """Return all findings."""
        try:
            return list(self._findings())
        # A file of another version makes all other findings meaningless, so it is the only one.
        except Newer as newer:
            return [Finding(str(newer), tables.UPDATE)]
        except Older as older:
            removal, command = rm_command([self.folder], "-r"), command_of(self.folder, self._own)
            again = f"`{removal} && {command}`" if command else f"`{removal}` and {NOT_KNOWN}"
            return [Finding(str(older), again)]

    def _findings(self) -> Iterator[Finding]:
        wrong: list[tuple[str, Sequence[str]]] = []  # problem, and files to remove to fix it

        # One damaged file must not hide what is wrong with the others.
        def attempt(read: Callable[[], None], *files: str) -> bool:
            try:
                read()
            except (Newer, Older):
                raise
            except Wrong as error:
                wrong.append((str(error), files))
                return False
            return True

        # The manifest comes first: the others are compared with its digests.
        attempt(self._read_manifest, manifest.MANIFEST)
        has_rows = attempt(self._read_rows, observations.OBSERVATIONS)
        attempt(self._read_request, manifest.MANIFEST)
        has_scores = attempt(self._read_scores, SCORES)
        # The request has all settings; without it, a row still has those that were typed.
        if self._run is not None:
            self._origin = Origin.of_run(self.folder, self._own, self._run, self._suites)
        elif self.rows:
            self._origin = Origin.of_row(self.folder, self._own, self.rows[0], self._suites)
        # The fixes are built last: the command and its videos are known only now.
        everything = self._asked() | self._files("videos").keys() | {key(row) for row in self.rows}
        for what, files in wrong:
            yield Finding(what, self._fix([self.folder / name for name in files], everything))
        if has_rows:
            yield from self._videos()
            if has_scores and self._run is not None:
                yield from self._progress()
        yield from self._leftovers()
        if self._manifest is not None:
            reported = {*self._reported, *(name for _, files in wrong for name in files)}
            yield from self._against_manifest(self._manifest, reported)

    def _read_manifest(self) -> None:
        path = self.folder / manifest.MANIFEST
        if not path.exists():
            return
        content = tables.json_file(path)
        tables.check_version(content.get("schema_version"), path.name)
        if content.get("run_id") != self.run_id or not isinstance(content.get("files"), dict):
            raise Wrong(
                f"{path.name} is not of this run (found {content.get('run_id')}, expected "
                f"{self.run_id} and the digests of its files)"
            )
        # A second source of the suite, in case the request is damaged. An id needs no prompts.
        try:
            stored = content["suite"]
            suite = Suite(stored["name"], (), "", stored["sha256"], stored["num_latent_frames"])
            self._suites.append((suite, stored["seed"]))
        except (KeyError, TypeError) as error:
            raise Wrong(f"{path.name} is damaged (its suite has no {error})") from error
        self._manifest = content

    def _read_rows(self) -> None:
        path = self.folder / observations.OBSERVATIONS
        if path.exists():
            self.rows = tables.rows(path, Observation)
            tables.check_keys(self.rows, self.run_id, path.name)
        if self._manifest is not None:
            tables.check_digest(path, self._manifest["files"].get(path.name))

    def _read_scores(self) -> None:
        path = self.folder / SCORES
        if path.exists():
            found = tables.scored(path)
            tables.check_keys(found, self.run_id, path.name)
            self.scores = {key(score): score for score in found}
        # A manifest in the state `scoring` has no digest of the scores, which are being written.
        if self._manifest is not None and self._manifest.get("state") != manifest.SCORING:
            tables.check_digest(path, self._manifest["files"].get(path.name))
        known = {key(row) for row in self.rows} | self._asked()
        if self.rows and (strange := self.scores.keys() - known):
            raise Wrong(f"{path.name} has scores of {len(strange)} videos that have no row")
        for score in self.scores.values():
            reference = score["reference_run_id"]
            made = self._made_by(reference)
            # If the reference's rows are damaged (None), that run has the finding.
            held = score["reference_frames_sha256"] is not None
            if held and made is not None and key(score) not in made:
                raise Wrong(
                    f"{path.name} holds {stem(key(score))} against a video of {reference} that is "
                    "not there"
                )

    def _read_request(self) -> None:
        tables.json_file(self.folder / "request.json")
        # Whatever JSON the file holds, it must not end the check of other runs.
        try:
            run = Run.from_folder(self.folder)
            found = run.run_id
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise Wrong(f"request.json is damaged ({str(error)[:80]})") from error
        if found != self.run_id:
            raise Wrong(
                f"request.json asks for another run (found {found}, expected {self.run_id})"
            )
        self._run = run
        if self._manifest is None:
            return
        # The manifest repeats the settings for readers; the id is computed from the request.
        for name in ("model", "method", "attention", "integration"):
            if _unnamed(self._manifest.get(name)) != _unnamed(getattr(run, name)):
                self._reported.add(manifest.MANIFEST)
                raise Wrong(f"run.json tells another {name} than request.json, which has the id")

    def _fix(self, remove: Sequence[Path], keys: set[Key], *words: str) -> str:
        """Return the command that removes files and then generates these videos again."""
        command = known_command(self._origin, keys, *words) if self._origin else None
        first = rm_command(remove) if remove else ""
        if command is None:
            return f"`{first}` and {NOT_KNOWN}" if first else NOT_KNOWN
        return f"`{first} && {command}`" if first else f"`{command}`"

    def _asked(self) -> set[Key]:
        return {item.key for item in self._run.items} if self._run is not None else set()

    def _videos(self) -> Iterator[Finding]:
        """Yield the findings of each video, compared with request, frames and trace."""
        for row in self.rows:
            # A failed video has no frames and no bytes; `_progress` counts it.
            if row["failure"] is not None:
                continue
            name = stem(key(row))
            wrong = list(video.request_differences(row, self._run)) if self._run is not None else []
            score = self.scores.get(key(row))
            wrong += video.frame_problems(self.folder / "videos" / name, row, score)
            wrong += video.byte_problems(row, self.folder / "trace" / f"{name}.parquet")
            if wrong:
                # One command makes all requested videos and skips finished ones.
                keys = self._asked() if key(row) in self._asked() else {key(row)}
                self._reported |= {f"videos/{name}", f"trace/{name}"}
                finding = f"video {name}: {', and '.join(wrong)}"
                yield Finding(finding, self._fix([self._frames(name)], keys))

    def _progress(self) -> Iterator[Finding]:
        """Yield what is missing of the requested videos and scores."""
        asked, rows = self._asked(), {key(row): row["failure"] for row in self.rows}
        failed = Counter(rows[each] for each in asked if rows.get(each) is not None)
        made = {each for each in asked if each in rows and rows[each] is None}
        scored = set()
        for each in made & self.scores.keys():
            score = self.scores[each]
            # A video that was scored before its reference video existed lacks scores against it.
            is_early = score["reference_frames_sha256"] is None
            if not (is_early and each in (self._made_by(score["reference_run_id"]) or ())):
                scored.add(each)
        counts = [f"{len(made)} of {len(asked)} videos made", f"{len(scored)} scored"]
        if failed:
            causes = ", ".join(f"{count} {cause}" for cause, count in sorted(failed.items()))
            counts.append(f"{failed.total()} failed ({causes})")
        is_whole = scored == asked
        is_scoring = (self._manifest or {}).get("state") == manifest.SCORING
        if is_scoring:
            counts.append("scores were being added when its command ended")
        elif is_whole and (self.folder / manifest.MANIFEST).exists():
            # Complete. A damaged manifest has a finding already.
            counted, rows_made = (self._manifest or {}).get("num_videos"), len(self._made_here())
            if self._manifest is not None and counted != rows_made:
                self._reported.add(manifest.MANIFEST)
                again = self._fix([self.folder / manifest.MANIFEST], asked)
                yield Finding(f"run.json counts {counted} videos, its rows {rows_made}", again)
            return
        elif is_whole:
            counts.append("run.json not written")
        # Failed videos are made again only on request, killed ones always.
        word = retry(failed)
        fix = self._fix([], asked, *([word] if word else []))
        if self._manifest is None or is_scoring:
            yield Finding(f"unfinished, {', '.join(counts)}", fix, unfinished=True)
        else:
            yield Finding(f"run.json says done, but only {', '.join(counts)}", fix)

    def _against_manifest(self, content: dict[str, Any], reported: set[str]) -> Iterator[Finding]:
        """Yield files that differ from the manifest and have no finding yet."""
        asked = self._asked() | self._made_here()
        if manifest.MANIFEST not in reported and not manifest.is_sealed(content):
            what = f"{manifest.MANIFEST} is damaged (it is not what was written)"
            yield Finding(what, self._fix([self.folder / manifest.MANIFEST], asked))
            return
        # Scored videos were compared with the checksum in their scores already.
        by_score = {f"videos/{stem(video)}.mkv" for video in self.scores}
        for name, digest in content["files"].items():
            path = self.folder / name
            of_video = f"{path.parent.name}/{path.stem}"
            if name in reported or of_video in reported or name in by_score:
                continue
            # A manifest may come from anybody: never read or remove what lies elsewhere.
            if not manifest.is_below(name):
                yield Finding(f"{manifest.MANIFEST} names {name}, outside the run", "nothing")
            elif wrong := tables.digest_difference(path, digest):
                # A trace is written with its video only, so the video has to go with it.
                remove = [path] if path.parent.name != "trace" else [path, self._frames(path.stem)]
                yield Finding(f"{name}: {wrong}", self._fix(remove, asked))

    def _frames(self, stem: str) -> Path:
        """Return a path with suffix `.*` for all files of a video; see `rm_command`."""
        return self.folder / "videos" / f"{stem}.*"

    def _made_here(self) -> set[Key]:
        return {key(row) for row in self.rows if row["failure"] is None}

    def _made_by(self, run_id: str) -> set[Key] | None:
        """Return the videos of another run next to this one; None if its rows are damaged."""
        # Scores of a run name the same reference: read its rows once.
        if run_id not in self._made:
            try:
                folder = folder_of(self.folder.parent, run_id)
                self._made[run_id] = set(RunState.read(folder).made) if folder else set()
            except UserError:
                self._made[run_id] = None
        return self._made[run_id]

    def _leftovers(self) -> Iterator[Finding]:
        """Yield a finding for files that no row mentions and no request needs."""
        lost: list[Path] = []
        videos, traces = self._files("videos"), self._files("trace")
        for paths in videos.values():
            endings = {path.suffix: path for path in paths}
            # A process that was killed while packing leaves the raw file next to the lossless one.
            lost += [endings[".npy"]] if {".npy", ".mkv"} <= endings.keys() else []
        known = self._made_here() | self._asked()  # generating replaces files of requested videos
        # Without rows (damaged, or none yet) every file would look like a leftover.
        if self.rows:
            for files in (videos, traces):
                lost += [path for each in files.keys() - known for path in files[each]]
        if lost:
            names = ", ".join(str(path.relative_to(self.folder)) for path in lost)
            yield Finding(f"{names}: nothing needs what was left here", f"`{rm_command(lost)}`")

    def _files(self, name: str) -> dict[Key, list[Path]]:
        """Return the files of a subfolder by video."""
        found: dict[Key, list[Path]] = {}
        for path in sorted((self.folder / name).glob("[0-9]*-*.*")):
            if parts := re.fullmatch(r"(\d+)-(\d+)", path.stem):
                found.setdefault((int(parts[1]), int(parts[2])), []).append(path)
        return found


def _unnamed(settings: Any) -> Any:
    """Return the settings without their key `name`, which only the manifest has."""
    if not isinstance(settings, dict):
        return settings
    return {name: value for name, value in settings.items() if name != "name"}


def _in_work(folder: Path) -> bool:
    """Whether a command holds the folder's lock."""
    # Read-only and without O_CREAT: checking must work in folders that are not writable. A pipe in
    # place of the file would wait for a writer without O_NONBLOCK.
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # the folder was never locked
    # A shared lock, so that two checks of one folder do not take each other for a command.
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False
