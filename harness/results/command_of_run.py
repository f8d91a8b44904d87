"""The command that makes a run, or a part of it, again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.downloads.data_folder import CACHE
from harness.prompts.suite import Suite
from harness.results.run import SAMPLE_SEED_STEP, Run
from harness.results.scores import Key
from harness.system.files import shown

# Words that a run's settings keep in full; all others are of the method.
GROUPS = ("model", "method", "attention", "integration")
OWN_GROUPS = r"(model|attention|integration|rerun|attention@reference|reference)[.=]"


@dataclass(frozen=True)
class Origin:
    """What the command of a run says, as far as its files tell.

    own: the folder of `--config-dir`. more: words about how and from where it was run. suites: what
    they say about prompts and seeds; the run's id decides which of them is right.
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
        """From its request."""
        execution = run.execution
        more = [f"track.mode={run.track['mode']}"]
        more += [f"data_dir={run.data_dir}"] if run.data_dir != str(CACHE) else []
        more += [f"run.device={execution.device}"] if execution.device != "auto" else []
        more += [f"run.threads={execution.threads}"] if execution.threads else []
        more += [f"run.timeout_s={execution.timeout_s}"] if execution.timeout_s else []
        if run.suite.num_frames % run.model["chunk_frames"]:
            more.append("suite.partial_chunk=true")
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
        """From a row, where the request cannot be trusted."""
        seed = row["seed"] - row["prompt_index"] - SAMPLE_SEED_STEP * row["sample"]
        return cls(
            folder, own, row["suite"], row["model"], row["method"], row["settings"],
            row["prompt_source"], row["num_latent_frames"], seed, (), tuple(suites),
        )  # fmt: skip

    @property
    def choices(self) -> list[str]:
        """The words that decide what the run computes, prompts apart."""
        settings = [
            word if re.match(OWN_GROUPS, word) else f"method.{word}"
            for word in re.split(r"\s+(?=[\w./@]+=)", self.settings.strip())
            if word
        ]
        return [f"method={self.method}", f"suite={self.suite}", f"model={self.model}", *settings]

    def typed(self, keys: Collection[Key], *words: str) -> str:
        """The same, whether or not these words still give this run."""
        indices, samples = sorted({index for index, _ in keys}), 1 + max(key[1] for key in keys)
        chosen = [f"suite.prompts={_selection(indices)}", f"suite.frames={self.num_frames}"]
        chosen += [f"suite.samples={samples}"] if samples > 1 else []
        chosen += [f"suite.seed={self.seed}"] if self.seed else []
        chosen += ["suite.source=bundled"] if self.source == "bundled" else []
        where = f"results_dir={shown(self.folder.parents[2])}"
        every = [*self.choices, *chosen, where, *self.more, *words]
        own = ["--config-dir", shown(self.own)] if self.own is not None else []
        return shlex.join(["python", "-m", "harness", *own, *map(_for_hydra, every)])


def removing(paths: Sequence[Path], option: str = "-f") -> str:
    """What to type so that files are gone; a name may end in `.*` for all its endings."""
    quoted = [
        shlex.quote(shown(path.with_suffix(""))) + ".*"
        if path.suffix == ".*"
        else shlex.quote(shown(path))
        for path in paths
    ]
    return " ".join(["rm", option, *quoted])


def _selection(indices: Sequence[int]) -> str:
    """Prompts as `suite.prompts` takes them: a range where they are one."""
    first, end = indices[0], indices[-1] + 1
    if len(indices) == end - first:
        return f"{first}:{end}"
    return "[" + ",".join(map(str, indices)) + "]"


def _for_hydra(word: str) -> str:
    """Quote a value that Hydra's grammar would take apart: a folder with a comma or a quote."""
    name, _, value = word.partition("=")
    if name not in ("results_dir", "data_dir") or re.fullmatch(r"[\w./:@%+-]+", value, re.ASCII):
        return word
    escaped = value.replace("'", r"\'")
    return f"{name}='{escaped}'"
