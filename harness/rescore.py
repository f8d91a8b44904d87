"""`python -m harness score <results>...`: metrics for videos that are there, whenever asked for."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import manifest, store
from harness.cli import complain
from harness.compose import configured
from harness.errors import UserError
from harness.files import locked
from harness.hydra_errors import OF_COMPOSING
from harness.integrity import runs
from harness.isolate import INTERRUPTED, USER_ERROR
from harness.lease import leased, threads
from harness.own import own_folder
from harness.run import Execution, Run
from harness.score import built, lacking, score
from harness.scores import rows
from harness.settings import check, execution
from harness.track import mirror

USAGE = """python -m harness score FOLDER [FOLDER ...] [metrics=[psnr,ssim]] [run.threads=2]

  Scores the videos below folders of results by metrics, each video by what it lacks. It can be
  stopped anywhere and typed again. python -m harness ls metrics shows the choices. Exit code 0:
  done; 1: none of the metrics can be had here; 2: something to mend."""


def main(words: Sequence[str]) -> int:
    """Score what is lacking and say what that came to."""
    own, words = own_folder(words)
    settings = [_listed(word) for word in words if "=" in word]
    roots = [Path(word) for word in words if "=" not in word]
    try:
        if not roots or any(str(root).startswith("-") for root in roots):
            raise UserError(f"no folder of results to score: {USAGE.splitlines()[0]}")
        config = configured(*settings, folder=own)
        check(config)
        chosen = config.get("metrics") or {}
        if not chosen:
            raise UserError(
                "no metrics: type metrics=[psnr,ssim], or see python -m harness ls metrics"
            )
        found = [_run(folder, chosen) for folder in runs(roots)]
        return _score(found, execution(config["run"]))
    except (UserError, *OF_COMPOSING, ValueError) as error:
        complain(error)
        return USER_ERROR
    except OSError as error:
        complain(UserError(f"cannot go on: {error}; finished videos are kept, type the same again"))
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; finished videos are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED


def _listed(word: str) -> str:
    """metrics=psnr,ssim as Hydra wants a list; nothing sweeps here that a comma could mean."""
    name, _, value = word.partition("=")
    return f"{name}=[{value}]" if name == "metrics" and "," in value and "[" not in value else word


def _run(folder: Path, metrics: dict[str, Any]) -> Run:
    """A run as it was asked for, with these metrics; that of the reference is to be known."""
    run = Run.from_folder(folder)
    if not run.reference_id:
        raise UserError(
            f"{folder} does not say what it is held against: repeat the command of this run first"
        )
    return replace(run, metrics=metrics)


def _score(found: Sequence[Run], settings: Execution) -> int:
    """Hold all folders, score, and leave manifests and the wide table as they should be."""
    ordered = sorted(found, key=lambda run: run.run_id != run.reference_id)  # references first
    with ExitStack() as held:
        for run in ordered:
            said = f"waiting for another command that works on {run.folder}"
            held.enter_context(locked(run.folder, said))
        tasks = [task for run in ordered for task in lacking(run)]
        try:
            if tasks:
                grant = held.enter_context(leased(settings, "score"))
                score(tasks, lambda _: None, grant.device, threads(settings), "score")
        finally:
            for run in ordered:
                if manifest.is_there(run.folder):
                    manifest.write(run)
    for folder in dict.fromkeys(task.run.folder for task in tasks):
        mirror(Run.from_folder(folder))
    for root in dict.fromkeys(Path(run.results_dir) for run in ordered):
        store.write_wide(root)
        print(root / store.WIDE)
    return _told(ordered, len(tasks))


def _told(found: Sequence[Run], num_scored: int) -> int:
    """Say how many videos have each metric, and why the others have not."""
    metrics = built(json.dumps(found[0].metrics, sort_keys=True))
    counts = {metric: Counter[str | None]() for metric in metrics}
    for run in found:
        for row in rows(run.folder, [f"{metric.name}_reason" for metric in metrics]).values():
            for metric, counted in counts.items():
                counted[row.get(f"{metric.name}_reason")] += 1
    print(f"{num_scored} videos scored; now in {len(found)} runs:")
    for metric, counted in counts.items():
        print(f"{metric.name}: {counted.pop(None, 0)} videos")
        for reason, number in counted.items():
            print(f"  {number} without it: {reason}")
    return int(all(metric.missing() is not None for metric in metrics))
