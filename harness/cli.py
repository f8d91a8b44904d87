"""The Hydra entry: words to configuration to runs to stages to a table. Imports no torch."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import suites
from harness.errors import RunFailed, UserError
from harness.isolate import USER_ERROR, run_stage
from harness.run import Run

CONF = Path(__file__).resolve().parent.parent / "conf"
REFERENCE = "bf16"


class Session:
    """What the jobs of one command came to: runs in order, and how they ended."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.runs: list[Run] = []
        self.codes: list[int] = []

    def job(self, config: DictConfig) -> None:
        """One job of the command; what goes wrong is said and remembered, and the others go on."""
        try:
            runs = carry_out(config)
        except UserError as error:
            complain(str(error))
            self.codes.append(USER_ERROR)
        except RunFailed as error:
            complain(str(error))
            self.codes.append(1)
        else:
            self.runs += [run for run in runs if run not in self.runs]


def main() -> int:
    """Compose, run, print the table; exit code 0 done, 1 a run failed, 2 the user can mend it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    session = Session()
    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(session.job)
    try:
        entry()
    except MissingConfigException as error:
        complain(unknown_choice(error))
        return USER_ERROR
    except (HydraException, OmegaConfBaseException) as error:
        complain(" ".join(str(error).split()))
        return USER_ERROR
    except KeyboardInterrupt:
        complain("interrupted; finished videos are kept, the same command continues")
        return 130
    if session.runs:
        show(session.runs)
    return max(session.codes, default=0)


def carry_out(config: DictConfig) -> list[Run]:
    """Generate what is missing, make the BF16 reference for it, score; returns both runs."""
    run, reference = plan(config)
    warn_if_bundled(run)
    if run.unscored():
        for each in (run, reference):
            each.prepare()
            if each.missing():
                run_stage("generate", each.folder)
        run_stage("score", run.folder, reference.folder)
    return [run] if reference.run_id == run.run_id else [reference, run]


def plan(config: DictConfig) -> tuple[Run, Run]:
    """The run that a configuration asks for, and the BF16 run it is held against."""
    choices = HydraConfig.get().runtime.choices
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    suite_config = suites.SuiteConfig(**resolved["suite"])
    model = resolved["model"]
    data_dir, _ = suites.data_folder(resolved["data_dir"])
    suite = suites.resolve(
        choices["suite"], suite_config, resolved["data_dir"], model["chunk_frames"], model["fps"]
    )
    shared: dict[str, Any] = {
        "results_dir": str(Path(resolved["results_dir"]).absolute()),
        "model_name": choices["model"],
        "model": model,
        "suite": suite,
        "seed": suite_config.seed,
        "samples": suite_config.samples,
        "data_dir": str(data_dir.absolute()),
        "device": resolved["run"]["device"],
        "track": resolved["track"],
    }
    bf16: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.load(CONF / "method" / f"{REFERENCE}.yaml"), resolve=True
    )
    run = Run(method_name=choices["method"], method=resolved["method"], **shared)
    return run, Run(method_name=REFERENCE, method=bf16, **shared)


def show(runs: list[Run]) -> None:
    """Print the table of these runs and where everything lies."""
    from analysis.tables import print_table, summarize
    from harness import store

    selected = []
    for run in runs:
        rows = store.load_run(run.folder)
        wanted = {item.key for item in run.items}
        keys = zip(rows["prompt_index"], rows["sample"], strict=True)
        selected.append(rows[[key in wanted for key in keys]])
    print_table(summarize(selected))
    root = Path(runs[0].results_dir)
    store.write_wide(root)
    print(f"rows      {root / store.WIDE}")
    for run in runs:
        print(f"{run.method_name:<9} {run.folder}")


def warn_if_bundled(run: Run) -> None:
    """Say loudly that these are not the official prompts."""
    if run.suite.source == "bundled":
        print(
            f"warning: the official {run.suite.name} prompts were not found and cannot be "
            "downloaded; using prompts of our own in the same style, every row is marked "
            "prompt_source=bundled",
            file=sys.stderr,
        )


def unknown_choice(error: MissingConfigException) -> str:
    """One sentence for an option that does not exist: near matches first, then all."""
    missing, options = error.missing_cfg_file, sorted(error.options or [])
    if missing is None or not options:
        return " ".join(str(error).split())
    group, _, name = missing.rpartition("/")
    near = difflib.get_close_matches(name, options, cutoff=0.5)
    hint = f", did you mean {' or '.join(near)}" if near else ""
    return f"unknown {group} {name}{hint}? Choose {group}={'|'.join(options)}"


def complain(sentence: str) -> None:
    """Print what went wrong, unless a child has said it already."""
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
