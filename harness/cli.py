"""The Hydra entry: words to configuration to runs to stages to a table. Imports no torch."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
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
        self.num_jobs = 0
        self._warned: set[str] = set()

    def job(self, config: DictConfig) -> None:
        """One job; what goes wrong is said and remembered, and the other jobs go on."""
        self.num_jobs += 1
        try:
            run, reference = plan(config)
            self._warn_if_bundled(run)
            self._carry_out(run, reference)
        except (UserError, OmegaConfBaseException) as error:
            complain(error)
            self.codes.append(USER_ERROR)
        except OSError as error:  # a full disk, a file system that went away
            complain(UserError(f"cannot go on: {error}; finished videos are kept"))
            self.codes.append(USER_ERROR)

    def _carry_out(self, run: Run, reference: Run) -> None:
        """A failed run has a place in the table: it shows what there is."""
        try:
            carry_out(run, reference)
        except RunFailed as error:
            complain(error)
            self.codes.append(1)
        for each in (reference, run):
            if all(each.run_id != known.run_id for known in self.runs):
                self.runs.append(each)

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
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        complain(error)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; finished videos are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED
    if command.num_jobs > 1 and command.codes:
        print(
            f"{len(command.codes)} of {command.num_jobs} jobs ended with an error, said above",
            file=sys.stderr,
        )
    return max(command.codes, default=0)


def carry_out(run: Run, reference: Run) -> None:
    """Generate what is missing, make the BF16 reference for it, score.

    Raises  RunFailed: some videos could not be made; those that could are scored before.
    """
    with run.prepared():
        if not run.unscored():
            return
        failures = generate(run)
        if not store.made(run.folder):
            raise failures[0]
        if reference.run_id != run.run_id:
            try:
                carry_out(reference, reference)
            except RunFailed as error:
                failures.append(error)
        run_stage("score", run.folder, reference.folder)
    if failures:
        raise failures[0]


def generate(run: Run) -> list[RunFailed]:
    """First stage, if anything is missing; what failed of it.

    Raises  AlreadySaid: the settings cannot run; nothing of the run is left behind.
    """
    try:
        if run.missing():
            run_stage("generate", run.folder)
    except AlreadySaid:
        run.discard_if_empty()
        raise
    except RunFailed as error:
        return [error]
    return []


def plan(config: DictConfig) -> tuple[Run, Run]:
    """The run that a configuration asks for, and the BF16 run it is held against."""
    choices = HydraConfig.get().runtime.choices
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    typed = OmegaConf.merge(OmegaConf.structured(suites.SuiteConfig), resolved["suite"])
    suite_config: suites.SuiteConfig = OmegaConf.to_object(typed)  # type: ignore[assignment]
    check(resolved)
    model = resolved["model"]
    data_dir, _ = suites.data_folder(resolved["data_dir"])
    suite = suites.resolve(
        choices["suite"], suite_config, resolved["data_dir"], model["chunk_frames"], model["fps"]
    )
    words = HydraConfig.get().overrides.task
    of_model = [word for word in words if word.startswith("model.")]
    of_build = [word for word in words if re.match(r"(attention|integration)[.=]", word)]
    of_method = [word.removeprefix("method.") for word in words if word.startswith("method.")]
    shared: dict[str, Any] = {
        "results_dir": str(Path(resolved["results_dir"]).absolute()),
        "model_name": choices["model"],
        "model": model,
        "attention": resolved["attention"],
        "suite": suite,
        "seed": suite_config.seed,
        "samples": suite_config.samples,
        "data_dir": str(data_dir.absolute()),
        "device": resolved["run"]["device"],
        "track": resolved["track"],
    }
    run = Run(
        method_name=choices["method"],
        method=resolved["method"],
        integration=resolved["integration"],
        settings=" ".join(of_method + of_model + of_build),
        **shared,
    )
    reference = Run(
        method_name=REFERENCE,
        method=_shipped("method", REFERENCE),
        integration=_shipped("integration", "packed"),
        settings=" ".join(of_model + [w for w in of_build if w.startswith("attention")]),
        **shared,
    )
    return run, reference


def _shipped(group: str, name: str) -> dict[str, Any]:
    """A file of ours as it is, whatever the command line changed."""
    file = OmegaConf.load(CONF / group / f"{name}.yaml")
    resolved: dict[str, Any] = OmegaConf.to_container(file, resolve=True)  # type: ignore[assignment]
    return resolved


def check(config: dict[str, Any]) -> None:
    """Refuse what the parent needs and cannot use; the child checks the rest.

    Raises  UserError: a setting of the wrong kind.
    """
    model = config["model"]
    for name in ("chunk_frames", "fps"):
        if type(model[name]) is not int or model[name] < 1:
            raise UserError(f"model.{name}={model[name]}: give a positive whole number")
    for name in ("results_dir", "data_dir"):
        value = config[name]
        if not (isinstance(value, str) and value) and not (name == "data_dir" and value is None):
            raise UserError(f"{name}={value}: give the name of a folder")
    for name, base in (("method", "bf16"), ("attention", "auto"), ("integration", "packed")):
        if not isinstance(config[name], dict) or "_target_" not in config[name]:
            raise UserError(
                f"the {name}'s file names no _target_: begin it with defaults: [{base}, _self_] "
                "and change what differs"
            )
    track.mode(config["track"]["mode"])


def show(runs: list[Run]) -> None:
    """Print the table of the runs that have rows, and where everything lies."""
    runs = [run for run in runs if (run.folder / store.OBSERVATIONS).exists()]
    if not runs:
        return
    from analysis.tables import print_section, sections

    selected = []
    for run in runs:
        rows = store.load_run(run.folder)
        wanted = {item.key for item in run.items}
        keys = zip(rows["prompt_index"], rows["sample"], strict=True)
        selected.append(rows[[key in wanted for key in keys]])
    for section in sections([rows for rows in selected if len(rows)]):
        print_section(section)
    root = Path(runs[0].results_dir)
    store.write_wide(root)
    for path in (root / store.WIDE, *(run.folder for run in runs)):
        print(path)


def complain(error: Exception) -> None:
    """Print one sentence for what went wrong, unless a child has said it already."""
    if not isinstance(error, AlreadySaid):
        print(f"error: {sentence(error)}", file=sys.stderr)


def sentence(error: Exception) -> str:
    """What was found, what is allowed: Hydra's errors in one line, with near matches."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        choices = f"Choose {group}={'|'.join(sorted(error.options))}"
        return f"unknown {group} {name}{did_you_mean(name, error.options)}? {choices}"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        keys = sorted(str(key) for key in cause.parent_node)
        near = did_you_mean(str(cause.key), keys)
        return f"there is no setting {cause.full_key}{near}? Choose {', '.join(keys)}"
    return " ".join(str(error).split())


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """Words about the nearest options, or nothing."""
    near = difflib.get_close_matches(name, options, cutoff=0.5)
    return f", did you mean {' or '.join(near)}" if near else ""
