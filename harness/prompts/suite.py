"""Finds, downloads, verifies and selects prompts. Imports no torch: it runs in the parent."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.downloads.data_folder import data_folder
from harness.downloads.download import Mismatch, download
from harness.downloads.source import addresses
from harness.downloads.target import Target
from harness.prompts.story_events import split
from harness.system.errors import UserError
from harness.system.files import locked
from harness.system.paths import shipped
from harness.system.typed import demand_fields, shown

TEMPORAL_STRIDE = 4  # pixel frames per latent frame after the first; the same for all Wan VAEs
BUNDLED = shipped("harness", "prompts")
MAX_SECONDS = 24 * 3600
MAX_SAMPLES = 10_000  # videos per prompt
SWITCH = "||"  # between the prompts of one line, in suites whose prompts change during a video


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite.

    index: its line from 0, which is also its id.
    text: the line.
    events: the events of a story, in order; empty in other suites.
    scored_as: the wording by which metrics know the video; empty: `text`.
    parts: the prompts that the video follows one after the other; empty if it follows `text`.
    """

    index: int
    text: str
    events: tuple[str, ...] = ()
    scored_as: str = ""
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Store lists as tuples."""
        # JSON returns lists, which would make this frozen dataclass unhashable.
        for name in ("events", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the network reads, in the order of the video."""
        return self.parts or (self.text,)


@dataclass(frozen=True)
class Suite:
    """The selected prompts of a suite and their origin.

    source: `official` (data folder or download with verified checksum, or a list that exists only
    here), `bundled` (our own prompts in the same style) or `custom` (a file of the user).
    sha256: checksum of the file. num_frames: latent frames per video.
    switches: first latent frame of each later prompt of a video; each begins a chunk.
    recache: whether the history is computed again under the new prompt there.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    sha256: str
    num_frames: int
    switches: tuple[int, ...] = ()
    recache: bool = False

    def __post_init__(self) -> None:
        """Store the switches as a tuple; JSON returns a list."""
        object.__setattr__(self, "switches", tuple(self.switches))

    @property
    def recached(self) -> tuple[int, ...]:
        """The switches at which the history is computed again."""
        return self.switches if self.recache else ()


@dataclass(frozen=True)
class SuiteConfig:
    """The settings of `conf/suite/*.yaml`; see the comments there."""

    file: str
    sha256: str | None = None
    url: str | None = None
    licence: str | None = None
    bundled: str | None = None
    source: str = "auto"
    prompts: Any = None  # line indices, or a range start:stop
    num_prompts: int | None = None
    seconds: float | None = None
    frames: int | None = None
    partial_chunk: bool = False
    seed: int = 0
    samples: int = 1
    events: bool = False  # whether each line is a story of consecutive events
    switch_s: list[float] | None = None  # when each later prompt of a line starts
    switch_frames: list[int] | None = None  # or its first latent frame
    recache: bool = False  # whether the history is computed again there
    scored_as: str | None = None  # a file with the wording that metrics know, line by line
    scored_as_sha256: str | None = None
    needs: str | None = None  # what the benchmark needs and the harness does not have

    def __post_init__(self) -> None:
        if self.source not in ("auto", "official", "bundled"):
            raise UserError(
                f"suite.source={self.source} is unknown: choose auto, official or bundled"
            )
        if self.seconds is None and self.frames is None:
            raise UserError("the videos have no length: type suite.seconds=10 or suite.frames=42")
        if not 0 <= self.seed < 2**62:
            raise UserError(f"suite.seed={self.seed}: give a whole number from 0 to 2**62")
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise UserError(
                f"suite.samples={self.samples}: give at least 1 sample per prompt, at most "
                f"{MAX_SAMPLES}"
            )
        if not self.file or "\0" in self.file:
            raise UserError(f"suite.file={self.file!r}: give the path of a list of prompts")
        if self.recache and self.switch_s is None and self.switch_frames is None:
            raise UserError(
                "suite.recache=true computes the history again where the prompt changes, but it "
                "never does: give suite.switch_s=[10] too, or choose suite=switches"
            )


def configured(values: Any) -> SuiteConfig:
    """Build the settings from the group `suite` of a resolved configuration.

    Raises  UserError: a setting is unknown or missing, has the wrong type, or is out of range.
    """
    demand_fields("suite", values, SuiteConfig)
    return SuiteConfig(**values)


def resolve(
    name: str,
    config: SuiteConfig,
    data_dir: str | None,
    chunk_frames: int,
    fps: int,
    first: int = 1,
) -> Suite:
    """Find, verify and select the prompts of a suite.

    chunk_frames: latent frames per chunk of the model. fps: pixel frames per second.
    first: as in `pixel_frames`.
    Raises  UserError: a missing or corrupt file, a wrong checksum, an index out of range, a length
    that is not a multiple of the chunk, or switches that do not fit the videos or the lines; or the
    benchmark needs what the harness lacks.
    """
    # A benchmark that cannot run here is listed all the same, with what it would need.
    if config.needs is not None:
        raise UserError(
            f"suite={name} cannot run: it needs {config.needs}. Choose suite=moviegen, or another "
            "of python -m harness ls suites"
        )
    # Wrong settings are refused before a list is looked for or downloaded, or the command would
    # wait for the network first.
    num_frames = latent_frames(config, chunk_frames, fps, first)
    changes = switches(config, num_frames, chunk_frames, fps, first)
    # As bytes: the checksum is of the file, before line ends and encoding are read.
    content, source = _content(config, *data_folder(data_dir))
    lines = _lines(content, config.file)
    chosen = _select(config, len(lines), name, source)
    events = {index: split(lines[index]) if config.events else () for index in chosen}
    # Two lists that belong together: generated from one wording, scored by the other.
    scored = scored_as(config, data_folder(data_dir)[0])
    if scored and len(scored) != len(lines):
        raise UserError(
            f"{config.scored_as} has {len(scored)} prompts and {config.file} {len(lines)}: line i "
            "of one must be line i of the other"
        )
    parts = {index: _parts(lines[index], index, config, changes) for index in chosen}
    prompts = tuple(
        Prompt(i, lines[i], events[i], scored[i] if scored else "", parts[i]) for i in chosen
    )
    # Of the whole file, so that more prompts of it continue the same run.
    digest = hashlib.sha256(content).hexdigest()
    return Suite(name, prompts, source, digest, num_frames, changes, config.recache)


def pixel_frames(num_frames: int, first: int = 1) -> int:
    """Return the pixel frames of a video of `num_frames` latent frames.

    first: pixel frames of the first latent frame: 1 with Wan's VAEs, 4 with MAGI-1's.
    """
    return TEMPORAL_STRIDE * (num_frames - 1) + first


def latent_frames(config: SuiteConfig, chunk_frames: int, fps: int, first: int = 1) -> int:
    """Return the latent frames of a suite's videos: whole chunks, unless the last may be partial.

    first: as in `pixel_frames`.
    Raises  UserError: the length is not positive or too large, or not a multiple of the chunk.
    """
    most = MAX_SECONDS * fps // TEMPORAL_STRIDE
    if config.frames is None:
        assert config.seconds is not None
        if not 0 < config.seconds <= MAX_SECONDS:
            raise UserError(
                f"suite.seconds={config.seconds}: give a positive length of at most {MAX_SECONDS}"
            )
        # Seconds are rounded up: nobody means a number of chunks by them. Frames are exact.
        latent = _lasting(config.seconds, fps, first)
        return latent if config.partial_chunk else math.ceil(latent / chunk_frames) * chunk_frames
    if config.frames > most:
        raise UserError(
            f"suite.frames={config.frames}: give at most {most} latent frames, a day of video"
        )
    # Rounding frames would make another video than the one asked for, so they are refused.
    if config.frames > 0 and config.partial_chunk:
        return config.frames
    if config.frames < 1 or config.frames % chunk_frames:
        below = max(chunk_frames, config.frames // chunk_frames * chunk_frames)
        raise UserError(
            f"suite.frames={config.frames} is no multiple of the model's chunk of {chunk_frames} "
            f"latent frames: choose {below} or {below + chunk_frames}, or suite.partial_chunk=true"
        )
    return config.frames


def switches(
    config: SuiteConfig, num_frames: int, chunk_frames: int, fps: int, first: int = 1
) -> tuple[int, ...]:
    """Return the first latent frame of each later prompt of a video; () if prompts never change.

    A time is rounded up to the next chunk, because a chunk is denoised under one prompt.

    num_frames: latent frames of a video. first: as in `pixel_frames`.
    Raises  UserError: no rising times, frames inside a chunk, or switches outside the video.
    """
    # As with the length: frames are exact and count before seconds, which are rounded up.
    if config.switch_frames is not None:
        said, given = f"suite.switch_frames={config.switch_frames}", config.switch_frames
        inside = next((frame for frame in given if frame % chunk_frames), None)
        if inside is not None:
            below = max(chunk_frames, inside // chunk_frames * chunk_frames)
            raise UserError(
                f"{said}: latent frame {inside} lies inside a chunk of {chunk_frames}, which is "
                f"denoised under one prompt: choose {below} or {below + chunk_frames}"
            )
        found = given
    elif config.switch_s is not None:
        said, times = f"suite.switch_s={config.switch_s}", config.switch_s
        late = [time for time in times if not 0 < time <= MAX_SECONDS]
        if late or any(time >= later for time, later in pairwise(times)):
            raise UserError(f"{said}: give rising seconds above 0, as suite.switch_s=[5,10]")
        latents = [_lasting(time, fps, first) for time in times]
        found = [math.ceil(latent / chunk_frames) * chunk_frames for latent in latents]
    else:
        return ()
    if not found:
        raise UserError(f"{said}: give one switch or more, or null for a single prompt")
    # Rising times may still fall into one chunk, and the first prompt needs a chunk too.
    if found[0] < 1 or any(frame >= later for frame, later in pairwise(found)):
        raise UserError(
            f"{said} begins prompts at latent frames {found}: give rising places, each in a chunk "
            f"of {chunk_frames} frames of its own"
        )
    if found[-1] >= num_frames:
        raise UserError(
            f"{said} begins a prompt at latent frame {found[-1]}, but the videos end after "
            f"{num_frames}: give earlier switches, or longer videos by suite.seconds"
        )
    return tuple(found)


def _lasting(seconds: float, fps: int, first: int) -> int:
    """Return the latent frames that last some seconds at least; `first` as in `pixel_frames`."""
    # The inverse of `pixel_frames`, rounded up.
    return math.ceil((seconds * fps + TEMPORAL_STRIDE - first) / TEMPORAL_STRIDE)


def _parts(line: str, index: int, config: SuiteConfig, changes: Sequence[int]) -> tuple[str, ...]:
    """Return the prompts of a line; () if the suite has no switches.

    Raises  UserError: another number of prompts than the switches begin, or an empty one.
    """
    if not changes:
        return ()
    # Every line has as many prompts, so that all videos of a suite change at the same places.
    parts = tuple(part.strip() for part in line.split(SWITCH))
    if len(parts) != len(changes) + 1 or not all(parts):
        filled = sum(map(bool, parts))
        raise UserError(
            f"{config.file} has {filled} prompt{'s' * (filled != 1)} in line {index + 1}, but "
            f"{len(changes) + 1} follow each other in a video: give as many in every line with "
            f"{SWITCH} between, or choose suite=switches"
        )
    return parts


def _content(config: SuiteConfig, folder: Path, named: bool) -> tuple[bytes, str]:
    """Return the content of the prompt file and its source, as configured."""
    if config.source == "bundled":  # without a URL, the bundled list is the official one
        return _bundled(config), "bundled" if config.url else "official"
    # A list that is there counts before a download. Without a checksum nothing says whether it is
    # the official one.
    path = folder / config.file
    if path.is_file():
        content = path.read_bytes()
        if config.sha256 is None:
            return content, "custom"
        found = hashlib.sha256(content).hexdigest()
        if found != config.sha256:
            other = "suite.source=bundled" if config.bundled else f"suite.sha256={found}"
            raise UserError(
                f"{path} has checksum {found[:12]}, expected {config.sha256[:12]}: replace it by "
                f"the official list, or type {other}"
            )
        return content, "official"
    try:
        _download(config, folder)
    except OSError as error:  # `Unavailable` too: offline, or the host does not answer
        # Who names a data folder, or the official list, wants no other prompts.
        if named or config.source == "official" or config.bundled is None:
            raise UserError(
                f"no prompt file {path} and no download ({error}): put the file there, or type "
                f"suite.source={'bundled' if config.bundled else 'auto suite=moviegen'}"
            ) from error
        return _bundled(config), "bundled"
    return path.read_bytes(), "official"


def scored_as(config: SuiteConfig, folder: Path) -> list[str]:
    """Return the wording that metrics know, of every prompt; [] if it is that of the prompts.

    folder: the data folder.
    Raises  UserError: there is no such file, it is no list of prompts, or not the pinned one.
    """
    if config.scored_as is None:
        return []
    path = folder / config.scored_as
    if not path.is_file():
        raise UserError(
            f"no file {path}, whose line i is the wording by which prompt i of {config.file} is "
            "scored: put it there"
        )
    # No checksum of these lists is published, so a user may pin the one of a known copy.
    content = path.read_bytes()
    found, pinned = hashlib.sha256(content).hexdigest(), config.scored_as_sha256
    if pinned not in (None, found):
        raise UserError(
            f"{path} has checksum {found[:12]}, expected {pinned[:12]}: replace it, or type "
            f"suite.scored_as_sha256={found}"
        )
    return _lines(content, config.scored_as)


def official(config: SuiteConfig, folder: Path, base: str | None = None) -> Target | None:
    """Return the download target of the official list, or None if the suite has none."""
    # Without a checksum nothing could tell the list from another, so it is not fetched.
    if config.url is None or config.sha256 is None:
        return None
    urls = addresses(config.file, [config.url], base)
    return Target(folder / config.file, urls, config.sha256, f"expected {config.sha256}")


def _bundled(config: SuiteConfig) -> bytes:
    if config.bundled is None:
        raise UserError(
            f"the suite of {config.file} has no bundled prompts: type suite.source=auto"
        )
    return (BUNDLED / config.bundled).read_bytes()


def _download(config: SuiteConfig, folder: Path) -> None:
    """Download the official list.

    Raises  OSError: the download is not possible. UserError: the checksum is wrong.
    """
    target = official(config, folder)
    if target is None:
        raise OSError(
            f"{config.url} has no published checksum and is not fetched"
            if config.url
            else "the suite names no address"
        )
    target.path.parent.mkdir(parents=True, exist_ok=True)
    # Jobs of a sweep begin at the same time and look for the same list.
    try:
        with locked(target.path.parent, f"waiting for another that fetches {target.path}"):
            # Whoever waited for the lock finds the list. Without retries: offline, a run goes on
            # with bundled prompts at once.
            if not target.path.is_file():
                download(target, pauses=())
    except Mismatch as error:
        raise UserError(
            f"{error.url} now has checksum {error.found[:12]}, expected {target.start[:12]}: fetch "
            f"the list by hand as {target.path}, or type suite.source=bundled"
        ) from error


def _lines(content: bytes, name: str) -> list[str]:
    """Return the prompts of a file: its lines, or the `prompt_en` fields of VBench's JSON list."""
    try:
        text = content.decode("utf-8-sig")  # some editors add a byte order mark
        is_list = name.endswith(".json")
        # str.splitlines would also split prompts at U+2028, form feeds and similar characters.
        lines = [x["prompt_en"] for x in json.loads(text)] if is_list else re.split(r"\r?\n", text)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text ({error}): replace the file") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{name} is no list of prompts of VBench: replace the file") from error
    if not is_list and lines[-1] == "":  # after the final newline
        del lines[-1]
    if not lines:
        raise UserError(f"{name} has no prompts: give one a line")
    # A blank line is refused, not skipped: prompts are numbered by line, and other lists by line
    # (`scored_as`) would no longer match.
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str) or not line.strip():
            raise UserError(
                f"{name} has no prompt in {'entry' if is_list else 'line'} {number}: give one "
                "prompt a line, with no blank lines between"
            )
    return lines


def _select(config: SuiteConfig, num_lines: int, name: str, source: str) -> list[int]:
    """Return line indices by `suite.prompts` (list or start:stop), or the first `num_prompts`."""
    prompts = config.prompts
    chosen: Sequence[int] = ()
    if prompts is None:
        chosen = range(num_lines)
    elif isinstance(prompts, str):
        # At most 18 digits: longer numbers are no index, and Python refuses to read very long ones.
        span = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", prompts.strip())
        chosen = range(int(span[1]), int(span[2])) if span is not None else ()
    elif isinstance(prompts, Sequence) and all(type(i) is int for i in prompts):
        chosen = prompts
    if not chosen:  # also a range that ends before it begins
        raise UserError(
            f"suite.prompts={shown(prompts)}: give indices like [0,4,9] or a range like 0:10"
        )
    wrong = next((index for index in chosen if not 0 <= index < num_lines), None)
    if wrong is not None:
        raise UserError(
            f"suite.prompts has {wrong}, but {name} ({source}) has prompts 0 to {num_lines - 1}"
        )
    if config.prompts is None and config.num_prompts is not None:
        # Fewer prompts than asked for would look like the whole sample. The bundled list is short.
        if not 1 <= config.num_prompts <= len(chosen):
            more = (
                f": type python -m harness fetch prompts suite={name}, which gets the official "
                f"list, or suite.num_prompts={len(chosen)}"
            )
            raise UserError(
                f"suite.num_prompts={config.num_prompts}: {name} ({source}) offers 1 to "
                f"{len(chosen)} prompts here{more if source == 'bundled' else ''}"
            )
        chosen = chosen[: config.num_prompts]
    return list(dict.fromkeys(chosen))  # an index given twice is one prompt
