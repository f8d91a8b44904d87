"""Helpers for tests of kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tiered(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Mark all values but those in `quick` as slow where kernels run in the interpreter."""
    slow = [pytest.mark.slow] if DEVICE.type == "cpu" else []
    return [x if x in quick else pytest.param(x, marks=slow) for x in values]
