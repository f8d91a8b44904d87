"""Prompt sets: find, fetch, verify, select. Imports no torch: it runs in the parent."""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import whole_file

TEMPORAL_STRIDE = 4  # pixel frames per latent frame after the first, the same in every Wan VAE
BUNDLED = Path(__file__).parent / "prompts"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "video-kv-bench"
TIMEOUT_S = 10
MAX_SECONDS = 24 * 3600
_unreachable: dict[str, OSError] = {}


@dataclass(frozen=True)
class Prompt:
    """One line of a suite; the index is its line from 0, also its id."""

    index: int
    text: str


@dataclass(frozen=True)
class Suite:
    """Prompts as selected, and where they came from.

    source: `official` (data folder or download, checksum verified; or a list that only we have),
    `bundled` (ours, in the same style) or `custom` (a file of the user's). sha256 is that of the
    file.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    sha256: str
    num_frames: int


@dataclass(frozen=True)
class SuiteConfig:
    """What `conf/suite/*.yaml` says; see the comments there."""

    file: str
    sha256: str | None = None
    url: str | None = None
    bundled: str | None = None
    source: str = "auto"
    prompts: Any = None  # line indices, or a range start:stop
    num_prompts: int | None = None
    seconds: float | None = None
    frames: int | None = None
    partial_chunk: bool = False
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        """Refuse what no run could use."""
        if self.source not in ("auto", "official", "bundled"):
            raise UserError(
                f"suite.source={self.source} is unknown: choose auto, official or bundled"
            )
        if self.seconds is None and self.frames is None:
            raise UserError("the videos have no length: type suite.seconds=10 or suite.frames=42")
        if not 0 <= self.seed < 2**62:
            raise UserError(f"suite.seed={self.seed}: give a whole number from 0 to 2**62")
        if self.samples < 1:
            raise UserError(f"suite.samples={self.samples}: give at least 1 sample per prompt")


def data_folder(configured: str | None) -> tuple[Path, bool]:
    """The data folder, and whether the user named it (`data_dir=...` or HARNESS_DATA)."""
    named = configured or os.environ.get("HARNESS_DATA")
    if not named:
        return CACHE, False
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"the data folder {folder} does not exist or is no folder: create it with "
            "prompts/moviegen.txt inside, or drop data_dir and HARNESS_DATA"
        )
    return folder, True


def resolve(
    name: str, config: SuiteConfig, data_dir: str | None, chunk_frames: int, fps: int
) -> Suite:
    """Find the prompts of a suite, verify them and select.

    Raises  UserError: missing or corrupt file, wrong checksum, index out of range, a length that
    is no multiple of the chunk.
    """
    num_frames = latent_frames(config, chunk_frames, fps)
    content, source = _content(config, *data_folder(data_dir))
    lines = _lines(content, config.file)
    chosen = _select(config, len(lines), name, source)
    prompts = tuple(Prompt(index, lines[index]) for index in chosen)
    return Suite(name, prompts, source, hashlib.sha256(content).hexdigest(), num_frames)


def pixel_frames(num_frames: int) -> int:
    """Pixel frames of a video of so many latent frames."""
    return TEMPORAL_STRIDE * (num_frames - 1) + 1


def latent_frames(config: SuiteConfig, chunk_frames: int, fps: int) -> int:
    """Latent frames of a suite's videos: whole chunks, unless the last one may be partial.

    Raises  UserError: no positive length, or frames that are no multiple of the chunk.
    """
    if config.frames is None:
        assert config.seconds is not None
        if not 0 < config.seconds <= MAX_SECONDS:
            raise UserError(
                f"suite.seconds={config.seconds}: give a positive length of at most {MAX_SECONDS}"
            )
        latent = math.ceil((config.seconds * fps + TEMPORAL_STRIDE - 1) / TEMPORAL_STRIDE)
        return latent if config.partial_chunk else math.ceil(latent / chunk_frames) * chunk_frames
    if config.frames > 0 and config.partial_chunk:
        return config.frames
    if config.frames < 1 or config.frames % chunk_frames:
        below = max(chunk_frames, config.frames // chunk_frames * chunk_frames)
        raise UserError(
            f"suite.frames={config.frames} is no multiple of the model's chunk of {chunk_frames} "
            f"latent frames: choose {below} or {below + chunk_frames}, or suite.partial_chunk=true"
        )
    return config.frames


def _content(config: SuiteConfig, folder: Path, named: bool) -> tuple[bytes, str]:
    """The prompt file and its source, as the configuration prefers."""
    if config.source == "bundled":  # without an address there is no other list to stand in for
        return _bundled(config), "bundled" if config.url else "official"
    path = folder / config.file
    if path.is_file():
        content = path.read_bytes()
        if config.sha256 is None:
            return content, "custom"
        found = hashlib.sha256(content).hexdigest()
        if found != config.sha256:
            raise UserError(
                f"{path} has checksum {found[:12]}, expected {config.sha256[:12]}: replace it by "
                "the official list, or type suite.source=bundled"
            )
        return content, "official"
    try:
        content = _download(config)
    except OSError as error:
        if named or config.source == "official" or config.bundled is None:
            raise UserError(
                f"no prompt file {path} and no download ({error}): put the file there, or type "
                f"suite.source={'bundled' if config.bundled else 'auto suite=moviegen'}"
            ) from error
        return _bundled(config), "bundled"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
    return content, "official"


def _bundled(config: SuiteConfig) -> bytes:
    if config.bundled is None:
        raise UserError(
            f"the suite of {config.file} has no bundled prompts: type suite.source=auto"
        )
    return (BUNDLED / config.bundled).read_bytes()


def _download(config: SuiteConfig) -> bytes:
    """Fetch the official list; OSError when that is not possible."""
    if config.url is None or config.sha256 is None:
        raise OSError("the suite names no address")
    content = _fetch(config.url)
    found = hashlib.sha256(content).hexdigest()
    if found != config.sha256:
        raise UserError(
            f"{config.url} now has checksum {found[:12]}, expected {config.sha256[:12]}: fetch the "
            f"list by hand into the data folder as {config.file}, or type suite.source=bundled"
        )
    return content


def _fetch(url: str) -> bytes:
    """Read an address; one that failed is not tried again in this process."""
    if url in _unreachable:
        raise _unreachable[url]
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        _unreachable[url] = OSError(str(error))
        raise _unreachable[url] from error
    return content


def _lines(content: bytes, name: str) -> list[str]:
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text ({error}): replace the file") from error
    if not lines or not all(line.strip() for line in lines):
        raise UserError(f"{name} has no prompts or blank lines: give one prompt a line")
    return lines


def _select(config: SuiteConfig, num_lines: int, name: str, source: str) -> list[int]:
    """Line indices by `suite.prompts` (list or start:stop), else the first `num_prompts`."""
    chosen = _indices(config.prompts, num_lines)
    wrong = [index for index in chosen if not 0 <= index < num_lines]
    if wrong:
        raise UserError(
            f"suite.prompts has {wrong[0]}, but {name} ({source}) has prompts 0 to {num_lines - 1}"
        )
    if config.prompts is None and config.num_prompts is not None:
        if not 1 <= config.num_prompts <= len(chosen):
            raise UserError(
                f"suite.num_prompts={config.num_prompts}: {name} ({source}) offers 1 to "
                f"{len(chosen)} prompts here"
            )
        chosen = chosen[: config.num_prompts]
    return list(dict.fromkeys(chosen))


def _indices(prompts: Any, num_lines: int) -> list[int]:
    if prompts is None:
        return list(range(num_lines))
    if isinstance(prompts, str):
        span = re.fullmatch(r"(\d+):(\d+)", prompts.strip())
        if span is None or int(span[1]) >= int(span[2]):
            raise UserError(
                f"suite.prompts={prompts}: give indices like [0,4,9] or a range like 0:10"
            )
        return list(range(int(span[1]), int(span[2])))
    if not isinstance(prompts, Sequence) or not prompts or not all(type(i) is int for i in prompts):
        raise UserError(f"suite.prompts={prompts}: give indices like [0,4,9] or a range like 0:10")
    return list(prompts)
