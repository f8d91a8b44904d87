"""Requests of runs on the small model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.prompts.suite import Prompt, Suite
from harness.results.run import Execution, Run
from tests.support.geometry import configured


def run(tmp_path: Path, *overrides: str, **changes: Any) -> Run:
    config = configured(*overrides)
    prompts = tuple(Prompt(i, f"prompt {i}") for i in range(3))
    base: dict[str, Any] = {
        "results_dir": str(tmp_path),
        "model_name": "small",
        "method_name": "x",
        "model": config["model"],
        "method": config["method"],
        "attention": config["attention"],
        "integration": config["integration"],
        "suite": Suite("mine", prompts, "custom", "0" * 64, 6),
        "seed": 0,
        "samples": 1,
        "data_dir": "/data",
        "execution": Execution("cpu"),
        "track": {"mode": "disabled"},
        "metrics": {"grey": {"_target_": "tests.support.metrics.Grey"}},
    }
    return Run(**{**base, **changes})


def without(heavy: set[str], code: str) -> str:
    """Run code in a new process and return its output; fail if it imports one of these modules."""
    check = f"{code}\nimport sys\nsys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
