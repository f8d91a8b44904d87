"""Checks a resolved configuration in the parent process. Imports no torch.

Objects that are built in the child (method, model, metrics, attention) are checked there against
their annotations, by `harness.system.typed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.hydra_errors import LS
from harness.config.renamed import with_new_names
from harness.prompts.suite import SuiteConfig
from harness.results import wandb_mirror
from harness.results.run import Execution
from harness.system.errors import UserError
from harness.system.logs import LEVELS
from harness.system.typed import TARGET, demand, demand_fields, demand_known, shown

# Config groups that every run has, with the file that a user's own file should extend.
BUILT = {"model": "small", "method": "bf16", "attention": "auto", "integration": "packed"}
KNOWN = (*BUILT, "suite", "metrics", "track", "reference", "judge", "rerun", "results_dir",
         "data_dir", "run")  # fmt: skip
# Far above any useful value, to refuse slips of the keyboard.
MOST_RERUNS = 10**9
MOST_FPS = 1000
MOST_CHUNK_FRAMES = 10_000


def check(config: Mapping[str, Any]) -> None:
    """Check the settings that the parent process reads; the child checks the rest.

    Raises  UserError: a missing group, an unknown setting, or one of the wrong type.
    """
    demand_known("", config, KNOWN)
    for name in (*BUILT, "suite", "track", "run"):
        _demand_group(name, config.get(name))
    for name, base in {**BUILT, "reference": "auto"}.items():
        if name == "reference" and config.get(name) is None:  # null: the run's own attention
            continue
        _demand_group(name, config[name])
        if TARGET not in config[name]:
            raise UserError(
                f"the {name}'s file names no {TARGET}: begin it with defaults: [{base}, _self_] "
                "and change what differs"
            )
    for name, most in (("chunk_frames", MOST_CHUNK_FRAMES), ("fps", MOST_FPS)):
        _demand_count(f"model.{name}", config["model"].get(name), 1, most)
    _demand_count("rerun", config.get("rerun", 0), 0, MOST_RERUNS)
    for name in ("results_dir", "data_dir"):
        value = config.get(name)
        if not (isinstance(value, str) and value) and not (name == "data_dir" and value is None):
            raise UserError(f"{name}={shown(value)}: give the name of a folder")
    _check_metrics(config.get("metrics"))
    demand_fields("suite", config["suite"], SuiteConfig)
    execution(config["run"])
    track = config["track"]
    demand_known("track", track, ("mode", "project"))
    for name in ("mode", "project"):
        value = track.get(name)
        if not (isinstance(value, str) and value.strip()):
            raise UserError(f"track.{name}={shown(value)}: give a word, or type track=disabled")
    wandb_mirror.mode(track["mode"])


def resolve(config: DictConfig) -> dict[str, Any]:
    """Resolve the interpolations of a composed configuration, and check it.

    Raises  UserError, OmegaConfBaseException: a group or a setting that cannot be used.
    """
    # Before resolving: a missing group would otherwise give an error about an interpolation.
    for name in (*BUILT, "suite", "track", "run"):
        if name not in config:
            _demand_group(name, None)
    values: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        config, resolve=True, throw_on_missing=True
    )
    resolved = with_new_names(values)
    check(resolved)
    return resolved


def execution(settings: Any) -> Execution:
    """Return the execution settings of the group `run`.

    Raises  UserError: a setting is missing, of the wrong type, or out of range.
    """
    _demand_group("run", settings)
    known = {field.name: field.type for field in fields(Execution)}
    # `dry` and `log` are read elsewhere and are no part of `Execution`.
    demand_known("run", settings, [*known, "dry", "log"])
    for name in ("dry", "log", *known):
        if name not in settings:
            raise UserError(f"run.{name} was removed: leave it as it is, or give it a value")
    if type(settings["dry"]) is not bool:
        raise UserError(f"run.dry={shown(settings['dry'])}: choose true or false")
    if settings["log"] not in LEVELS:
        raise UserError(f"run.log={shown(settings['log'])}: choose {', '.join(LEVELS)}")
    return Execution(**{name: settings[name] for name in known})


def _demand_group(name: str, value: Any) -> None:
    """Raise UserError if a config group is missing or holds something other than settings."""
    if isinstance(value, Mapping):
        return
    if name == "run":
        raise UserError(f"run={shown(value)}: give its settings one by one, as run.device=cpu")
    # A file without a class, as opposed to a missing group below.
    if value is not None and name in BUILT:
        raise UserError(
            f"{name}={shown(value)} names no {TARGET}: begin its file with defaults: "
            f"[{BUILT[name]}, _self_] and change what differs"
        )
    listed = f", python -m harness ls {LS[name]} shows them" if name in LS else ""
    example = {"suite": "moviegen", "track": "disabled", "reference": "null"}
    raise UserError(
        f"{name}={shown(value)}: every run needs one; type {name}=<name>, as "
        f"{name}={example.get(name) or BUILT[name]}{listed}"
    )


def _check_metrics(metrics: Any) -> None:
    """Raise UserError unless each metric names the class to build."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise UserError(f"metrics={shown(metrics)}: give names in brackets, as metrics=[psnr,ssim]")
    for name, each in (metrics or {}).items():
        if not isinstance(each, Mapping) or TARGET not in each:
            raise UserError(
                f"metrics.{name}={shown(each)} names no {TARGET}: choose metrics by name, as "
                "metrics=[psnr,ssim]; python -m harness ls metrics shows them"
            )
        demand(f"metrics.{name}.{TARGET}", str, each[TARGET])


def _demand_count(name: str, value: Any, least: int, most: int) -> None:
    """Raise UserError unless a value is a whole number from `least` to `most`."""
    # The exact type, because True is an int too.
    if type(value) is not int or not least <= value <= most:
        kind = "a positive whole number" if least else "a whole number, 0 for none"
        raise UserError(f"{name}={shown(value)}: give {kind}, at most {most}")
