"""Generates short videos with the small model."""

from __future__ import annotations

from harness.results.run import Run
from harness.results.run_state import RunState
from harness.runs.generate import generate


def make_all(this: Run) -> None:
    """Run the first stage in this process."""
    generate(this, RunState.read(this.folder).missing(this), lambda key: None)


SMALL = ("model.latent_size=[8,8]", "method=rtn_int4")
