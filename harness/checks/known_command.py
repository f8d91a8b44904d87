"""Checks whether the reconstructed command of a run still gives the same run id."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

from harness.config import stored
from harness.results.command_of_run import GROUPS, Origin
from harness.results.run import Execution, Run, run_id_of
from harness.results.scores import Key
from harness.system.errors import UserError


# Every finding of a run asks for its command: compose it once.
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
    groups = {name: config[name] for name in GROUPS}
    wanted = run_id_of(origin.folder)
    for suite, seed in origin.suites:
        # Only the fields that the id is computed from need values.
        run = Run(
            results_dir="", model_name="", method_name="", **groups, rerun=config["rerun"],
            suite=replace(suite, prompts=()), seed=seed, samples=1, data_dir="",
            execution=Execution(), track={},
        )  # fmt: skip
        if run.run_id == wanted:
            return True
    return False


def known_command(origin: Origin, keys: Collection[Key], *words: str) -> str | None:
    """Return the command that generates and scores these videos; None if it is not known."""
    return origin.typed(keys, *words) if is_known(origin) and keys else None
