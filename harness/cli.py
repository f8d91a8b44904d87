"""The Hydra entry: words to configuration to runs to stages to a table. Imports no torch."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from harness import store, suites, track
from harness.errors import AlreadySaid, RunFailed, UserError
from harness.isolate import INTERRUPTED, USER_ERROR, run_stage
from harness.run import Run

CONF = Path(__file__).resolve().parent.parent / "conf"
REFERENCE = "bf16"


class Command:
    """What the jobs of one command line came to: runs in order, and how they ended."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.runs: list[Run] = []
        self.codes: list[int] = []
        self._warned: set[str] = set()

    def job(self, config: DictConfig) -> None:
        """One job; what goes wrong is said and remembered, and the other jobs go on."""
        try:
            run, reference = plan(config)
            self._warn_if_bundled(run)
            self._carry_out(run, reference)
        except (UserError, OmegaConfBaseException) as error:
            complain(error)
            self.codes.append(USER_ERROR)

    def _carry_out(self, run: Run, reference: Run) -> None:
        """A failed run has a place in the table: it shows what there is."""
        try:
            carry_out(run, reference)
        except RunFailed as error:
            complain(error)
            self.codes.append(1)
        self.runs += [each for each in (reference, run) if each not in self.runs]

    def _warn_if_bundled(self, run: Run) -> None:
        """Say loudly, once, that these are not the official prompts."""
        suite = run.suite
        if suite.source == "bundled" and suite.name not in self._warned:
            self._warned.add(suite.name)
            print(
                f"warning: {suite.name} runs on prompts of our own in the same style, not on the "
                "official list (README, Prompts, says where it goes); every row is marked "
                "prompt_source=bundled",
                file=sys.stderr,
            )


def main() -> int:
    """Compose, run, print the table; exit code 0 done, 1 a run failed, 2 the user can mend it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    command = Command()
    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(command.job)
    try:
        entry()
        show(command.runs)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        complain(error)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; finished videos are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED
    return max(command.codes, default=0)


def carry_out(run: Run, reference: Run) -> None:
    """Generate what is missing, make the BF16 reference for it, score.

    Raises  RunFailed: some videos could not be made; those that could are scored before.
    """
    if not run.unscored():
        return
    failure: RunFailed | None = None
    for each in (run, reference):
        each.prepare()
        try:
            if each.missing():
                run_stage("generate", each.folder)
        except RunFailed as error:
            if not store.made(run.folder):
                raise
            failure = failure or error
    run_stage("score", run.folder, reference.folder)
    if failure:
        raise failure


def plan(config: DictConfig) -> tuple[Run, Run]:
    """The run that a configuration asks for, and the BF16 run it is held against."""
    choices = HydraConfig.get().runtime.choices
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    typed = OmegaConf.merge(OmegaConf.structured(suites.SuiteConfig), resolved["suite"])
    suite_config: suites.SuiteConfig = OmegaConf.to_object(typed)  # type: ignore[assignment]
    model = resolved["model"]
    for name in ("chunk_frames", "fps"):
        if type(model[name]) is not int or model[name] < 1:
            raise UserError(f"model.{name}={model[name]}: give a positive whole number")
    track.mode(resolved["track"]["mode"])  # before anything is generated
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
    """Print the table of the runs that have rows, and where everything lies."""
    runs = [run for run in runs if (run.folder / store.OBSERVATIONS).exists()]
    if not runs:
        return
    from analysis.tables import print_table, summarize

    selected = []
    for run in runs:
        rows = store.load_run(run.folder)
        wanted = {item.key for item in run.items}
        keys = zip(rows["prompt_index"], rows["sample"], strict=True)
        selected.append(rows[[key in wanted for key in keys]])
    print_table(summarize(selected))
    root = Path(runs[0].results_dir)
    store.write_wide(root)
    places = {"rows": root / store.WIDE} | {run.method_name: run.folder for run in runs}
    width = max(map(len, places))
    for name, path in places.items():
        print(f"{name:<{width}}  {path}")


def complain(error: Exception) -> None:
    """Print one sentence for what went wrong, unless a child has said it already."""
    if not isinstance(error, AlreadySaid):
        print(f"error: {sentence(error)}", file=sys.stderr)


def sentence(error: Exception) -> str:
    """What was found, what is allowed: Hydra's errors in one line, with near matches."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        choices = f"Choose {group}={'|'.join(sorted(error.options))}"
        return f"unknown {group} {name}{_near(name, error.options)}? {choices}"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        keys = sorted(str(key) for key in cause.parent_node)
        near = _near(str(cause.key), keys)
        return f"there is no setting {cause.full_key}{near}? Choose {', '.join(keys)}"
    return " ".join(str(error).split())


def _near(name: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, options, cutoff=0.5)
    return f", did you mean {' or '.join(near)}" if near else ""
