"""A run: one method on one suite with one model, its identity and its folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import store
from harness.errors import UserError
from harness.files import locked, write_json
from harness.suites import Prompt, Suite
from harness.video import frames_file

SAMPLE_SEED_STEP = 1_000_003  # apart from the step of 1 between prompts
WORDS = ("family", "source")  # what a method's file says about it, not what it does


@dataclass(frozen=True)
class Item:
    """One video to make: a prompt and a sample of it."""

    prompt: Prompt
    sample: int
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        """What a row of this video is found by."""
        return self.prompt.index, self.sample

    @property
    def stem(self) -> str:
        """File name of the video without its ending."""
        return f"{self.prompt.index:04d}-{self.sample}"


@dataclass(frozen=True)
class Run:
    """What a child process needs to know; written to the run's folder as `request.json`.

    model, method, attention and integration are resolved configurations; settings are the words
    that changed them on the command line, for people to tell runs of one name apart. Which prompts
    are asked for is not part of the identity: asking for more of them later continues the run.
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
    device: str
    track: dict[str, Any]
    settings: str = ""

    @cached_property
    def run_id(self) -> str:
        """Eight hex digits of what decides the rows: model, method and its integration, attention
        as configured, prompts, length, seeds.

        Paths, tracking, device, the selection of prompts and words about the method are outside it.
        """
        method = {name: value for name, value in self.method.items() if name not in WORDS}
        identity = {
            "schema": store.SCHEMA_VERSION,
            "model": self.model,
            "method": method,
            "attention": self.attention,
            "integration": self.integration,
            "suite": [self.suite.name, self.suite.sha256, self.suite.num_frames, self.seed],
        }
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @cached_property
    def folder(self) -> Path:
        """`<results>/<suite>/<model>/<method>-<run_id>`; the id decides, whatever its name."""
        parent = Path(self.results_dir) / self.suite.name / self.model_name
        known = next(parent.glob(f"*-{self.run_id}"), None)
        return known or parent / f"{self.method_name.replace('/', '-')}-{self.run_id}"

    @property
    def track_id(self) -> str:
        """The tracker's id of this run: the same whenever the run continues."""
        return f"{self.suite.name}-{self.run_id}"

    @property
    def items(self) -> list[Item]:
        """All videos asked for, in order."""
        return [
            Item(prompt, sample, self.seed + prompt.index + SAMPLE_SEED_STEP * sample)
            for prompt in self.suite.prompts
            for sample in range(self.samples)
        ]

    def missing(self) -> list[Item]:
        """Videos asked for that have no row, a failed one, or no frames any more.

        Raises  UserError: the rows cannot be read.
        """
        done = store.made(self.folder)
        return [
            item
            for item in self.items
            if item.key not in done or frames_file(self.video(item)) is None
        ]

    def unscored(self) -> list[Item]:
        """Videos asked for that are not made, not scored, or without packed frames.

        Scoring packs the frames, so raw ones were made after it.
        """
        done = store.made(self.folder) & store.scored(self.folder)
        return [
            item
            for item in self.items
            if item.key not in done or frames_file(self.video(item)) != self.packed(item)
        ]

    def video(self, item: Item) -> Path:
        """Where the files of a video lie, without their endings."""
        return self.folder / "videos" / item.stem

    def packed(self, item: Item) -> Path:
        """The lossless file of a video that has been scored."""
        return self.video(item).with_suffix(".mkv")

    def trace(self, item: Item) -> Path:
        """Where the memory trace of a video lies."""
        return self.folder / "trace" / f"{item.stem}.parquet"

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Hold the folder alone among commands, with the request in it for the child.

        Raises  UserError: the folder cannot be written.
        """
        self.make_folders()
        with locked(self.folder, f"waiting for another command that works on {self.folder}"):
            self.make_folders()  # whoever held it may have discarded it
            write_json(self.folder / "request.json", asdict(self))
            yield

    def make_folders(self) -> None:
        """Make the run's folders.

        Raises  UserError: they cannot be written.
        """
        try:
            for name in ("videos", "trace"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / ".lock").touch()
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.folder} ({error.strerror}): type "
                "results_dir=<a folder you may write>"
            ) from error

    def discard_if_empty(self) -> None:
        """Remove the folder if no video was ever tried in it."""
        if not (self.folder / store.OBSERVATIONS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    @classmethod
    def from_folder(cls, folder: Path) -> Run:
        """Read the request that the parent left."""
        request = json.loads((folder / "request.json").read_text())
        prompts = tuple(Prompt(**prompt) for prompt in request["suite"].pop("prompts"))
        return cls(**{**request, "suite": Suite(prompts=prompts, **request["suite"])})
