"""Reads the rates of a device: from the bundled table of cards, or measured. Imports no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.system.errors import UserError
from harness.system.paths import shipped

CARDS = shipped("harness.planning", "cards.yaml")
# Names of fields of `Ceilings`, too: a calibration file uses the same.
RATES = ("gemm_flops_per_s", "attention_flops_per_s", "copy_bytes_per_s")
KEYS = (*RATES, "device", "date")


@dataclass(frozen=True)
class Ceilings:
    """The rates that a device reaches. memory_gib: None if unknown."""

    name: str
    source: str
    gemm_flops_per_s: float
    attention_flops_per_s: float
    copy_bytes_per_s: float
    memory_gib: float | None = None


def card(name: str) -> Ceilings:
    """Return the rates of a card of the bundled table, by its short name.

    Raises  UserError: an unknown card.
    """
    known: dict[str, dict[str, Any]] = yaml.safe_load(CARDS.read_text())
    if name not in known:
        raise UserError(
            f"unknown card {name}: choose {', '.join(known)}, or type calibration=<file>"
        )
    # PyYAML reads 85e12 as a string.
    texts = ("name", "source")
    entry: dict[str, Any] = {key: x if key in texts else float(x) for key, x in known[name].items()}
    return Ceilings(**entry)


def calibration(path: Path) -> Ceilings:
    """Read rates measured on a device, from a JSON file with KEYS.

    Raises  UserError: the file is missing, not JSON, or lacks a key; or a rate is not positive.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read calibration={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"calibration={path} is no JSON ({error}): make it again") from error
    missing = [key for key in KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise UserError(f"calibration={path} lacks {', '.join(missing)}: make it again")
    for key in RATES:
        value = found[key]
        # Python's JSON reads NaN and Infinity, and True is an int.
        positive = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
        if isinstance(value, bool) or not positive:
            raise UserError(f"calibration={path} has {key}={value}: give a positive number")
    rates = {key: float(found[key]) for key in RATES}
    return Ceilings(name=str(found["device"]), source=f"measured {found['date']}", **rates)
