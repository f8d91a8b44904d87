"""Checks whether the reconstructed command of a run still gives the same run id."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from harness.config import stored
from harness.prompts.suite import Suite
from harness.results.command_of_run import GROUPS, Origin
from harness.results.run import Execution, Run, run_id_of
from harness.results.scores import Key
from harness.system.errors import UserError


@lru_cache(maxsize=8)
def is_known(origin: Origin) -> bool:
    """Whether the command of `origin` still gives the id of the run in its folder.

    False if configuration files have changed or lie in another `--config-dir`, or if the original
    command had settings that are not stored.
    """
    from harness.config.compose import configured
    from harness.config.hydra_errors import OF_COMPOSING

    # The settings of a custom suite are not stored. An interpolation could read other settings now.
    if origin.source == "custom" or any("${" in word for word in origin.choices):
        return False
    try:
        config = configured(*origin.choices, folder=origin.own)
        for group in GROUPS:  # never suggest a command that builds classes outside the allow-list
            stored.check(config[group], origin.folder, origin.own)
    except (UserError, *OF_COMPOSING):
        return False
    wanted = run_id_of(origin.folder)
    return any(_identity(config, suite, seed) == wanted for suite, seed in origin.suites)


def known_command(origin: Origin, keys: Collection[Key], *words: str) -> str | None:
    """Return the command that generates and scores these videos; None if it is not known."""
    return origin.typed(keys, *words) if is_known(origin) and keys else None


def _identity(config: Mapping[str, Any], suite: Suite, seed: int) -> str:
    """Return the run id of a configuration."""
    # Only the fields that the id is computed from need values.
    groups = {name: config[name] for name in GROUPS}
    return Run(
        results_dir="", model_name="", method_name="", **groups, suite=replace(suite, prompts=()),
        rerun=config["rerun"], seed=seed, samples=1, data_dir="", execution=Execution(), track={},
    ).run_id  # fmt: skip
