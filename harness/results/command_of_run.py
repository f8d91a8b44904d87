"""Reconstructs the command line that repeats a run, or some of its videos."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.prompts.suite import Suite
from harness.results.run import SAMPLE_SEED_STEP, Run
from harness.results.scores import Key
from harness.system.files import shown
from harness.system.paths import CACHE

GROUPS = ("model", "method", "attention", "integration")  # what a run id covers besides the suite
# Settings of these groups are stored with their prefix; settings of the method without it.
OWN_GROUPS = r"[+~]*(model|attention|integration|rerun|attention@reference|reference)[.=]"


@dataclass(frozen=True)
class Origin:
    """The settings of a run's command line, as far as its files record them.

    own: the folder given with `--config-dir`, or None.
    more: settings of execution, tracking and data folder, which do not affect the run id.
    suites: candidates for prompts and seed; the run id decides which of them is right.
    """

    folder: Path
    own: Path | None
    suite: str
    model: str
    method: str
    settings: str
    source: str
    num_frames: int
    seed: int
    more: tuple[str, ...]
    suites: tuple[tuple[Suite, int], ...]

    @classmethod
    def of_run(
        cls, folder: Path, own: Path | None, run: Run, others: Iterable[tuple[Suite, int]]
    ) -> Origin:
        """Read the settings from the run's request."""
        # Settings at their defaults are left out, to keep the command short.
        execution = run.execution
        more = [f"track.mode={run.track['mode']}"]
        more += [f"data_dir={run.data_dir}"] if run.data_dir != str(CACHE) else []
        more += [f"run.device={execution.device}"] if execution.device != "auto" else []
        more += [f"run.threads={execution.threads}"] if execution.threads else []
        more += [f"run.timeout_s={execution.timeout_s}"] if execution.timeout_s else []
        # Without this word, a length that is no multiple of the chunk would be refused.
        if run.suite.num_frames % run.model["chunk_frames"]:
            more.append("suite.partial_chunk=true")
        if run.suite.switches:
            more.append(f"suite.switch_frames=[{','.join(map(str, run.suite.switches))}]")
            more.append(f"suite.recache={str(run.suite.recache).lower()}")
        return cls(
            folder, own, run.suite.name, run.model_name, run.method_name, run.settings,
            run.suite.source, run.suite.num_frames, run.seed, tuple(more),
            ((run.suite, run.seed), *others),
        )  # fmt: skip

    @classmethod
    def of_row(
        cls,
        folder: Path,
        own: Path | None,
        row: Mapping[str, Any],
        suites: Iterable[tuple[Suite, int]],
    ) -> Origin:
        """Read the settings from one observation, for runs whose request is damaged."""
        # Inverts the formula of `Run.items`: the seed of the command is not in the row.
        seed = row["seed"] - row["prompt_index"] - SAMPLE_SEED_STEP * row["sample"]
        return cls(
            folder, own, row["suite"], row["model"], row["method"], row["settings"],
            row["prompt_source"], row["num_latent_frames"], seed, (), tuple(suites),
        )  # fmt: skip

    @property
    def choices(self) -> list[str]:
        """The overrides that decide what the run computes, except the selection of prompts."""
        # A row stores settings in one text. A new one starts at a blank before `name=` or `~`, so a
        # value may contain blanks.
        settings = [
            word if re.match(OWN_GROUPS, word) else re.sub(r"^([+~]*)", r"\1method.", word, count=1)
            for word in re.split(r"\s+(?=[+]{0,2}[\w./@]+=|~)", self.settings.strip())
            if word
        ]
        return [f"method={self.method}", f"suite={self.suite}", f"model={self.model}", *settings]

    def typed(self, keys: Collection[Key], *words: str) -> str:
        """Return the command for these videos; it may no longer give the same run id."""
        # `suite.samples` has no range: it asks for all samples up to the largest one of `keys`.
        indices, samples = sorted({index for index, _ in keys}), 1 + max(key[1] for key in keys)
        first, end = indices[0], indices[-1] + 1
        is_range = len(indices) == end - first
        prompts = f"{first}:{end}" if is_range else f"[{','.join(map(str, indices))}]"
        chosen = [f"suite.prompts={prompts}", f"suite.frames={self.num_frames}"]
        chosen += [f"suite.samples={samples}"] if samples > 1 else []
        chosen += [f"suite.seed={self.seed}"] if self.seed else []
        # The official list may have been fetched since, and its prompts have another checksum.
        chosen += ["suite.source=bundled"] if self.source == "bundled" else []
        # A run lies in <results>/<suite>/<model>/<method>-<id>.
        where = f"results_dir={shown(self.folder.parents[2])}"
        every = [*self.choices, *chosen, where, *self.more, *words]
        own = ["--config-dir", shown(self.own)] if self.own is not None else []
        return shlex.join(["python", "-m", "harness", *own, *map(_for_hydra, every)])


def rm_command(paths: Sequence[Path], option: str = "-f") -> str:
    """Return the shell command that removes these files; the suffix `.*` means any suffix."""
    quoted = [  # `.*` stays outside the quotes, so that the shell expands it
        shlex.quote(shown(path.with_suffix(""))) + ".*"
        if path.suffix == ".*"
        else shlex.quote(shown(path))
        for path in paths
    ]
    return " ".join(["rm", option, *quoted])


def _for_hydra(word: str) -> str:
    """Quote a folder that Hydra's grammar would split, such as one with a comma or a quote."""
    # Only folders: all other words were typed by a user and went through this grammar before.
    name, _, value = word.partition("=")
    if name not in ("results_dir", "data_dir") or re.fullmatch(r"[\w./:@%+-]+", value, re.ASCII):
        return word
    escaped = value.replace("'", r"\'")
    return f"{name}='{escaped}'"
