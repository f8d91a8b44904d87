"""A run: one method on one suite with one model. Defines its id and its folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.prompts.suite import Prompt, Suite
from harness.results import observation, observations
from harness.results.observation import Observation
from harness.results.observations import Twice
from harness.results.scores import Key, stem
from harness.system.errors import UserError, first_line
from harness.system.files import (
    locked,
    open_lock,
    refuse_links,
    remove_unfinished,
    write_json,
    writing,
)
from harness.system.logs import log
from harness.system.typed import shown
from harness.system.version import code_version

REQUEST = "request.json"
SUBFOLDERS = ("videos", "trace")
ENVIRONMENT = "environment.json"  # machine and versions of the child that last made videos
MAX_THREADS = 4096
MAX_TIMEOUT_S = 10**9  # clocks of the kernel accept no more
# Seeds of consecutive prompts differ by 1, so those of samples lie further apart than lists are
# long: no two videos of a suite share their noise.
SAMPLE_SEED_STEP = 1_000_003
# Keys of a method's file that describe it. They may be corrected without giving its runs new ids.
WORDS = ("family", "source")


@dataclass(frozen=True)
class Item:
    """One video to generate: a prompt, the number of the sample, and the seed of its noise."""

    prompt: Prompt
    sample: int
    seed: int

    @property
    def key(self) -> Key:
        """Prompt index and sample, which identify the video's row."""
        return self.prompt.index, self.sample

    @property
    def stem(self) -> str:
        """File name of the video without its suffix."""
        return stem(self.key)


@dataclass(frozen=True)
class Execution:
    """Execution settings. They do not affect results and are not part of the run id.

    device: auto, cpu, cuda or cuda:<n>.
    threads: threads of a child on a CPU; None for torch's default.
    timeout_s: limit per video in seconds, for the first one including set-up; None for no limit.
    retry: which failed videos to retry: `oom`, `failed` (any cause), or None.
    Raises  UserError: a setting out of range.
    """

    device: str = "auto"
    threads: int | None = None
    timeout_s: float | None = None
    retry: str | None = None

    def __post_init__(self) -> None:
        # Types are checked too: a request is read from a file, which people may edit.
        if not isinstance(self.device, str) or not self.device:
            raise UserError(f"run.device={shown(self.device)}: choose auto, cpu, cuda or cuda:<n>")
        if self.threads is not None and not (
            type(self.threads) is int and 1 <= self.threads <= MAX_THREADS
        ):
            raise UserError(
                f"run.threads={shown(self.threads)}: give a positive whole number, at most "
                f"{MAX_THREADS}, or null"
            )
        if self.timeout_s is not None and not (
            type(self.timeout_s) in (int, float) and 0 < self.timeout_s <= MAX_TIMEOUT_S
        ):
            raise UserError(
                f"run.timeout_s={shown(self.timeout_s)}: give seconds above 0, at most "
                f"{MAX_TIMEOUT_S}, or null"
            )
        if self.retry not in (None, "oom", "failed"):
            raise UserError(
                f"run.retry={shown(self.retry)}: choose oom, failed (any cause) or null"
            )

    def retries(self, failure: str) -> bool:
        """Whether to retry a video with this failure."""
        # A child killed from outside says nothing about the method, so it is always retried.
        return failure == "killed" or self.retry == "failed" or self.retry == failure


@dataclass(frozen=True)
class Run:
    """The request of a run, written to its folder as `request.json` for the child process.

    model, method, attention, integration, metrics: resolved configurations.
    settings: the overrides of the command line, so that people can distinguish runs of one name.
    reference_id: id of the run with the BF16 videos to compare with; a BF16 run's own id.
    rerun: 0, or the number of a repetition, which has an id and rows of its own.

    The selected prompts and metrics are not part of the id: requesting more of them later continues
    the run.
    """

    results_dir: str
    model_name: str
    method_name: str
    model: dict[str, Any]
    method: dict[str, Any]
    attention: dict[str, Any]
    integration: dict[str, Any]
    suite: Suite
    seed: int
    samples: int
    data_dir: str
    execution: Execution
    track: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    reference_id: str = ""
    settings: str = ""
    rerun: int = 0

    # Cached, since a sweep asks often; a run never changes.
    @cached_property
    def run_id(self) -> str:
        """Eight hex digits, a hash of everything that decides the rows.

        Included: schema version, model, method, attention, integration, suite (name, checksum of
        its prompts, length, seed, changes of prompt), and the number of a repetition.
        Not included: paths, tracking, execution, metrics, selected prompts, and the keys of the
        method's file that only describe it.
        """
        method = {name: value for name, value in self.method.items() if name not in WORDS}
        # Changing this dictionary, or how it is written, changes the id of every run.
        identity: dict[str, Any] = {
            "schema": observation.SCHEMA_VERSION,
            "model": self.model,
            "method": method,
            "attention": self.attention,
            "integration": self.integration,
            "suite": [self.suite.name, self.suite.sha256, self.suite.num_frames, self.seed],
        }
        # Left out where they do nothing, so that ordinary runs do not depend on these settings.
        if self.rerun:
            identity["rerun"] = self.rerun
        if self.suite.switches:
            identity["switches"] = [self.suite.switches, self.suite.recache]
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @cached_property
    def folder(self) -> Path:
        """`<results>/<suite>/<model>/<method>-<run_id>`."""
        # An existing folder is found by its id alone, so users may rename the rest.
        parent = Path(self.results_dir) / self.suite.name / self.model_name
        known = folder_of(parent, self.run_id)
        return known or parent / f"{self.method_name.replace('/', '-')}-{self.run_id}"

    @property
    def reference_folder(self) -> Path | None:
        """Folder of the BF16 videos to compare with (a BF16 run's own); None if not there yet."""
        # BF16 videos of the same suite and model lie beside this folder.
        if self.reference_id == self.run_id:
            return self.folder
        return folder_of(self.folder.parent, self.reference_id) if self.reference_id else None

    @property
    def track_id(self) -> str:
        """The tracker's id of this run; it stays the same when the run is resumed."""
        return f"{self.suite.name}-{self.run_id}"

    @property
    def notes(self) -> list[str]:
        """Notes that apply to all rows of this run; usually none."""
        # A model may lose quality beyond the positions that it was trained on, whatever the method.
        trained = self.model.get("trained_frames")
        window, num_frames = self.model.get("window"), self.suite.num_frames
        absolute = self.model.get("positions", "absolute") == "absolute"
        # Relative positions restart at the window's oldest frame, so the window limits them.
        reach = num_frames if absolute else min(window or num_frames, num_frames)
        if trained is None or reach <= trained:
            return []
        return [
            f"{self.model_name} was trained on {trained} latent frames and these videos have "
            f"positions of {reach}"
        ]

    @property
    def items(self) -> list[Item]:
        """All requested videos, in order."""
        return [
            Item(prompt, sample, self.seed + prompt.index + SAMPLE_SEED_STEP * sample)
            for prompt in self.suite.prompts
            for sample in range(self.samples)
        ]

    def row(self, item: Item, **values: Any) -> Observation:
        """Return the row of a video: its identity and the measured values."""
        # Names and texts too, so that the wide table needs no other file.
        identity: dict[str, Any] = {
            "run_id": self.run_id,
            "suite": self.suite.name,
            "model": self.model_name,
            "method": self.method_name,
            "settings": self.settings,
            "prompt_index": item.prompt.index,
            "sample": item.sample,
            "seed": item.seed,
            "prompt": item.prompt.text,
            "prompt_source": self.suite.source,
            "num_latent_frames": self.suite.num_frames,
            "code_version": code_version(),
        }
        return Observation(**identity, **values)

    def video(self, item: Item) -> Path:
        """Return the path of a video's files, without their suffix."""
        return self.folder / "videos" / item.stem

    def packed(self, item: Item) -> Path:
        """Return the path of a video's lossless file, which scoring writes."""
        return self.video(item).with_suffix(".mkv")

    def trace(self, item: Item) -> Path:
        """Return the path of a video's trace."""
        return self.folder / "trace" / f"{item.stem}.parquet"

    @contextmanager
    def held(self) -> Iterator[int]:
        """Lock the folder against other commands, and remove unfinished files of killed ones.

        Yields the file descriptor of the lock, so that a child can inherit it.

        Raises  UserError: the folder cannot be written, or a part of it is a link.
        """
        self.make_folders()
        with locked(
            self.folder, f"waiting for another command that works on {self.folder}"
        ) as lock:
            self.make_folders()  # the command that held the lock before may have removed them
            remove_unfinished(self.folder)
            yield lock

    @contextmanager
    def prepared(self) -> Iterator[int]:
        """Lock the folder as `held` does, and write the request for the child."""
        with self.held() as lock:
            self.leave_request()
            yield lock

    def leave_request(self) -> None:
        """Write `request.json`; the caller holds the folder's lock."""
        # With a digest, so that an edited request is refused by whoever reads it.
        content = asdict(self)
        write_json(self.folder / REQUEST, {**content, "sha256": _digest(content)})

    def make_folders(self) -> None:
        """Create the run's folders.

        Raises  UserError: they cannot be written, or one of them is a link.
        """
        with writing("results", self.folder):
            for name in SUBFOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            # Opened once here, so that a folder without permission ends in the same sentence.
            os.close(open_lock(self.folder))
        refuse_links(self.folder / name for name in SUBFOLDERS)

    def discard_if_empty(self) -> None:
        """Remove the folder if it has no row of any video."""
        # Settings that do not fit are found by the child, after the folder was made.
        if not (self.folder / observations.OBSERVATIONS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def is_requested(self) -> bool:
        """Whether request.json is readable; other runs need it to be scored against this one."""
        # Without it `score` and `check` would refuse the folder, so the run is not complete.
        try:
            Run.from_folder(self.folder)
        except UserError:
            return False
        return True

    @classmethod
    def from_folder(cls, folder: Path) -> Run:
        """Read the request that the parent process wrote.

        Raises  UserError: there is none, or it is damaged.
        """
        path = folder / REQUEST
        try:
            request = json.loads(path.read_text())
            log.debug("read %s", path)
            digest = request.pop("sha256", None)  # a request that was written by hand has none
            if digest not in (None, _digest(request)):
                raise ValueError("its content does not match the digest in it")
            prompts = tuple(Prompt(**prompt) for prompt in request["suite"].pop("prompts"))
            suite = Suite(prompts=prompts, **request["suite"])
            execution = Execution(**request["execution"])
            # From the path, not from the request: the results may have been moved since.
            place = {"results_dir": str(folder.absolute().parents[2])}
            # An unknown or missing field ends in a TypeError, so in the sentence below.
            run = cls(**{**request, **place, "suite": suite, "execution": execution})
            # Results folders are exchanged between people, so a request is not trusted:
            # none of its names may lead outside the results folder.
            for name in (run.suite.name, run.model_name, run.method_name):
                parts = name.split("/")
                if name.startswith("/") or {"", ".", ".."} & set(parts) or not name.isprintable():
                    raise ValueError(f"{name!r} is no name of a suite, a model or a method")
            if run.reference_id and not re.fullmatch("[0-9a-f]{8}", run.reference_id):
                raise ValueError(f"{run.reference_id!r} is no id of a run")
            return run
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read ({first_line(error)}): repeat the command of this run, "
                "which writes it anew"
            ) from error


def _digest(request: dict[str, Any]) -> str:
    """Return the SHA-256 of a request's content, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def folder_of(parent: Path, run_id: str) -> Path | None:
    """Return the folder of a run below `parent`; None if there is none.

    Raises  Twice: several folders have this id.
    """
    found = sorted(parent.glob(f"*-{run_id}"))
    # A link to a run's folder is another name for it, not another run.
    if len({path.resolve() for path in found}) > 1:
        raise Twice(run_id, found)
    return found[0] if found else None


def run_id_of(folder: Path) -> str:
    """Return the run id that ends the name of a run's folder."""
    return folder.name.rpartition("-")[2]
