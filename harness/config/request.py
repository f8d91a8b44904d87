"""Builds the run of a composed configuration, and its BF16 reference. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import REFERENCE
from harness.config.settings import execution, resolve
from harness.downloads import data_folder
from harness.prompts import suite as suites
from harness.results.run import Run
from harness.system.paths import CONF
from harness.system.user_folder import checked

OF_REFERENCE = "attention@reference"  # the choice of the reference's attention backend
OF_METHOD = re.compile(r"^([+~]*)method\.(.*)$", re.DOTALL)


def requested_runs(config: DictConfig) -> tuple[Run, Run]:
    """Return the run of a configuration, and the BF16 run to compare it with.

    Raises  UserError, OmegaConfBaseException: a setting that cannot be used.
    """
    # Hydra searches the user's folder (`--config-dir`), and perhaps more of them.
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file" and Path(source.path) != CONF and source.path:
            checked(Path(source.path))
    resolved = resolve(config)
    choices = HydraConfig.get().runtime.choices
    suite_config = suites.configured(resolved["suite"])
    model = resolved["model"]
    data_dir, _ = data_folder.data_folder(resolved["data_dir"])
    # Read from the settings: importing the decoder's class would import torch.
    decoder = model.get("decoder")
    first = decoder.get("first_pixel_frames", 1) if isinstance(decoder, dict) else 1
    suite = suites.resolve(
        choices["suite"],
        suite_config,
        resolved["data_dir"],
        model["chunk_frames"],
        model["fps"],
        first,
    )
    # Overrides are kept as text in the column `settings`, so that people can distinguish runs of
    # one name.
    words = HydraConfig.get().overrides.task
    of_model = [word for word in words if re.match(r"[+~]*model\.", word)]
    of_build = [word for word in words if re.match(r"(attention|integration)[.=]", word)]
    of_rerun = [f"rerun={resolved['rerun']}"] if resolved["rerun"] else []
    of_reference, as_reference = _reference_attention(resolved, words)
    # Hydra's signs stay: `+method.x=1` adds a key, `~method.x` removes one.
    of_method = [sign + rest for word in words for sign, rest in OF_METHOD.findall(word)]
    shared: dict[str, Any] = {
        "results_dir": str(Path(resolved["results_dir"]).absolute()),
        "model_name": choices["model"],
        "model": model,
        "suite": suite,
        "seed": suite_config.seed,
        "samples": suite_config.samples,
        "data_dir": str(data_dir.absolute()),
        "execution": execution(resolved["run"]),
        "track": resolved["track"],
        "metrics": resolved.get("metrics") or {},
    }
    # The method as it ships: what the command line changes of a method belongs to the run alone, so
    # one BF16 run serves every method of its suite and model.
    reference = Run(
        method_name=REFERENCE,
        method=_shipped("method", REFERENCE),
        attention=resolved["reference"] or resolved["attention"],
        integration=_shipped("integration", "packed"),
        settings=" ".join(of_model + as_reference),
        **shared,
    )
    # A BF16 run is its own reference; its id is known only now, and does not depend on this field.
    reference = replace(reference, reference_id=reference.run_id)
    run = Run(
        method_name=choices["method"],
        method=resolved["method"],
        attention=resolved["attention"],
        integration=resolved["integration"],
        settings=" ".join(of_method + of_model + of_rerun + of_build + of_reference),
        rerun=resolved["rerun"],
        reference_id=reference.run_id,
        **shared,
    )
    return run, reference


def _reference_attention(
    config: dict[str, Any], words: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the overrides about the reference's attention: for the run, and for the reference."""
    # The reference attends like the run unless `attention@reference` says otherwise. In its own
    # settings the group is called `attention`, as in every run.
    if config["reference"] in (None, config["attention"]):
        return [], [word for word in words if re.match(r"attention[.=]", word)]
    choice = HydraConfig.get().runtime.choices[OF_REFERENCE]
    changes = [word for word in words if word.startswith("reference.")]
    own = [word.replace("reference", "attention", 1) for word in changes]
    return [f"{OF_REFERENCE}={choice}", *changes], [f"attention={choice}", *own]


def _shipped(group: str, name: str) -> dict[str, Any]:
    """Return a bundled configuration file, without changes by the command line."""
    file = OmegaConf.load(CONF / group / f"{name}.yaml")
    resolved: dict[str, Any] = OmegaConf.to_container(file, resolve=True)  # type: ignore[assignment]
    return resolved
