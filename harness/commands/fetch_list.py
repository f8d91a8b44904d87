"""Finds the files that `fetch` should have: weights by metric or model, prompt lists by suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import yaml

from harness.config.compose import choices, composing
from harness.config.weight_readers import read_by
from harness.downloads import weights
from harness.downloads.source import addresses
from harness.downloads.target import Target
from harness.downloads.weights import Entry
from harness.prompts.suite import configured, official
from harness.system import file_hashes
from harness.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Wanted:
    """One file that should be there.

    problem: returns what is wrong with the file; None if it is there and correct.
    precious: an existing file may be the user's own, so it is kept under another name.
    """

    name: str
    target: Target
    licence: str
    problem: Callable[[], str | None]
    precious: bool = False


@dataclass(frozen=True)
class Place:
    """Destination and source of files.

    data_dir: the data folder as typed, or None. folder: its absolute path.
    base: address or folder of a copy of a data folder to take files from.
    own: the folder given with `--config-dir`.
    """

    data_dir: str | None
    folder: Path
    base: str | None = None
    own: Path | None = None


def wanted_weights(metrics: Sequence[str], models: Sequence[str], place: Place) -> list[Wanted]:
    """Return the weight files of these metrics and models; without names, all known files.

    Raises  UserError: an unknown name, or a model without any file in conf/weights.
    """
    known = weights.entries(place.own)
    if not metrics and not models:
        chosen = list(known.values())
    else:
        # `used_by` of an entry may write a metric as vbench/x or as vbench_x.
        uses = {name.replace("/", "_") for name in _with_included(metrics, place.own)}
        of_models: list[Entry] = []
        for model in models:
            _check("model", [model], list(choices("model", place.own)))
            with composing(place.own) as composer:
                config = composer.resolved([f"model={model}"])["model"]
            # A model needs the files whose paths its configuration names.
            read = read_by(config, known.values(), place.folder)
            if not read:
                raise UserError(
                    f"conf/weights describes no file of model={model}: README says where its "
                    "weights are from, and python -m harness ls weights lists what is described"
                )
            of_models += read
        chosen = [
            entry
            for entry in known.values()
            if entry in of_models or any(use.replace("/", "_") in uses for use in entry.used_by)
        ]
    found: list[Wanted] = []
    for entry in chosen:
        for file in entry.files:
            path = place.folder / weights.FOLDER / file.path
            urls = addresses(f"{weights.FOLDER}/{file.path}", file.urls, place.base)
            # A copy of a data folder (`fetch.base`) holds the extracted file, not the zip.
            member = file.member if urls == file.urls else None
            start, said = weights.expected(file, path)
            target = Target(path, urls, start, said, file.bytes, member)
            name = entry.name if len(entry.files) == 1 else f"{entry.name}/{path.name}"
            problem = partial(weights.complaint, file, place.data_dir)
            found.append(Wanted(name, target, entry.licence, problem))
    return found


def wanted_prompts(suites: Sequence[str], place: Place) -> list[Wanted]:
    """Return the official prompt lists of these suites; without names, of all that have one.

    Raises  UserError: an unknown suite.
    """
    known = choices("suite", place.own)
    _check("suite", suites, list(known))
    found: list[Wanted] = []
    with composing(place.own) as composer:
        for name in suites or known:
            config = configured(composer.resolved([f"suite={name}"])["suite"])
            target = official(config, place.folder, place.base)
            if target is not None:
                problem = partial(_problem_of_list, target)
                licence = config.licence or "unknown"
                found.append(Wanted(name, target, licence, problem, precious=True))
    return found


def _problem_of_list(target: Target) -> str | None:
    """Return what is wrong with a prompt list; None if it is the official one."""
    if not target.path.is_file():
        return f"there is no file {target.path}"
    # Hashed again only if the file has changed, since this is asked before, under the lock, and
    # at the end.
    try:
        found = file_hashes.remembered(target.path)
    except OSError as error:
        return f"{target.path} cannot be read ({error.strerror})"
    return None if found == target.start else f"{target.path} has SHA-256 {found}"


def _with_included(metrics: Sequence[str], own: Path | None) -> set[str]:
    """Return these choices of `metrics` and all choices that their defaults lists include."""
    known = choices("metrics", own)
    _check("metrics", metrics, list(known))
    # A list such as `metrics=[vbench]` includes other files, which may include others.
    found: set[str] = set()
    left = list(metrics)
    while left:
        name = left.pop()
        if name in found or name not in known:
            continue
        found.add(name)
        left += _included(known[name], PurePosixPath(name).parent)
    return found


def _included(source: Path, folder: PurePosixPath) -> Iterator[str]:
    """Yield the choices of `metrics` in the defaults list of one of its files."""
    # From the text of the file, since composing merges the lists away.
    said = yaml.safe_load(source.read_text())
    for each in (said.get("defaults") or []) if isinstance(said, dict) else []:
        options = list(each.values()) if isinstance(each, dict) else [each]
        for option in options:
            for name in option if isinstance(option, list) else [option]:
                bare = str(name).partition("@")[0]
                absolute = bare.startswith("/metrics/")
                # Hydra resolves relative names against the folder of the file that has the list.
                yield bare.removeprefix("/metrics/") if absolute else str(folder / bare)


def _check(group: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError for a name that is no choice of the group."""
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"unknown {group} {name}{near}? Choose {group}={'|'.join(known)}")
