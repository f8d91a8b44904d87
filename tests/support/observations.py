"""Rows of results for tests."""

from __future__ import annotations

from pathlib import Path

from harness.results import observations
from harness.results.observation import Observation
from harness.results.observations import Rows


def observation(index: int, **changes: object) -> Observation:
    base = {
        "run_id": "abc",
        "suite": "s",
        "model": "m",
        "method": "x",
        "settings": "",
        "prompt_index": index,
        "sample": 0,
        "seed": index,
        "prompt": "p",
        "prompt_source": "bundled",
        "num_latent_frames": 3,
    }
    return Observation(**{**base, **changes})  # type: ignore[arg-type]


def folder_with(tmp_path: Path, name: str, num_rows: int = 3) -> Path:
    folder = tmp_path / "s" / "m" / name
    folder.mkdir(parents=True)
    rows = Rows(folder / observations.OBSERVATIONS)
    for index in range(num_rows):
        rows.put(observation(index, run_id=name, generate_s=1.5 if index else None))
    return folder
