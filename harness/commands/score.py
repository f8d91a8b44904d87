"""`python -m harness score <results>...`: add missing scores to existing videos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import stored
from harness.config.compose import configured
from harness.config.messages import verb
from harness.config.settings import check, execution
from harness.results import all_runs, manifest, observations
from harness.results.manifest import runs
from harness.results.older import without_older
from harness.results.run import REQUEST, Execution, Run
from harness.results.scores import rows
from harness.results.wandb_mirror import mirror
from harness.runs.lease import leased, threads
from harness.scoring.score import built, lacking, score
from harness.system.errors import UserError
from harness.system.logs import LEVELS, begin, stage
from harness.system.typed import TARGET
from harness.system.user_folder import own_folder

USAGE = """python -m harness score FOLDER [FOLDER ...] [metrics=[psnr,ssim]] [run.threads=2]

  Scores the videos below folders of results by metrics, each video by what it lacks. It can be
  stopped anywhere and typed again. python -m harness ls metrics shows the choices. Exit code 0:
  done; 1: none of the metrics can be had here; 2: something to fix."""


@verb("finished videos are kept, the same command continues", also=(ValueError,))
def main(words: Sequence[str]) -> int:
    """Add missing scores and print how many videos have each metric.

    Exit code 1: none of the metrics can run here; 2: something that the user can fix.
    """
    # Folders and settings may stand in any order.
    own, words = own_folder(words)
    settings = []
    for word in words:
        name, equals, value = word.partition("=")
        # To Hydra a comma means a sweep, which this command does not have: metrics=psnr,ssim is
        # passed on as metrics=[psnr,ssim].
        if name == "metrics" and "," in value and "[" not in value:
            word = f"{name}=[{value}]"
        if equals:
            settings.append(word)
    roots = [Path(word) for word in words if "=" not in word]
    if not roots or any(str(root).startswith("-") for root in roots):
        raise UserError(f"no folder of results to score: {USAGE.splitlines()[0]}")
    config = configured(*settings, folder=own)
    check(config)
    if config["run"]["log"] != LEVELS[0]:  # the default leaves the choice to -v and -q
        begin(config["run"]["log"])
    chosen = config.get("metrics") or {}
    if not chosen:
        raise UserError("no metrics: type metrics=[psnr,ssim], or see python -m harness ls metrics")
    try:
        # All requests are read, and copies refused, before the first folder is changed.
        found = [_run(folder, chosen, own) for folder in without_older(roots[0], runs(roots))]
        observations.refuse_twice((run.run_id, run.folder) for run in found)
        own_words = any(word.startswith("track") for word in settings)
        return _score(found, execution(config["run"]), config["track"], own_words)
    except OSError as error:
        raise UserError(
            f"cannot go on: {error}; finished videos are kept, type the same again"
        ) from error


def _run(folder: Path, metrics: dict[str, Any], own: Path | None) -> Run:
    """Read the request of a run and replace its metrics.

    Raises  UserError: the folder was moved, or its request names no decoder or no reference.
    """
    # Scores are written to the folder that the request stands for, so it must be this one.
    run = Run.from_folder(folder)
    if not (run.folder.exists() and run.folder.samefile(folder)):
        raise UserError(
            f"{folder} says in its {REQUEST} that it is {run.folder}: it was copied or renamed, or "
            "is not of this harness; move it to that place, or away from the results"
        )
    stored.check(run.model, folder / REQUEST, own)  # scoring imports the decoder's class
    if not (isinstance(decoder := run.model.get("decoder"), dict) and TARGET in decoder):
        raise UserError(f"{folder / REQUEST} names no decoder: repeat the command of this run")
    if not run.reference_id:
        raise UserError(
            f"{folder} does not say what it is held against: repeat the command of this run first"
        )
    return replace(run, metrics=metrics)


def _score(
    found: Sequence[Run], settings: Execution, track: dict[str, Any], track_is_typed: bool
) -> int:
    """Lock all folders, add scores, rewrite manifests and wide tables; return the exit code.

    track: tracking settings of this command; those in the requests are not used.
    track_is_typed: the command line has a tracking setting. Without one, a run made with
    `track=disabled` is not sent.
    """
    # References first: the other videos are scored against theirs.
    ordered = sorted(found, key=lambda run: run.run_id != run.reference_id)
    with ExitStack() as held:
        # References last, as in a job, which takes its reference's lock while it holds its own.
        # In the other order, each of the two could wait for the other forever.
        for run in reversed(ordered):
            held.enter_context(run.held())
        for run in ordered:  # all are verified before the first one changes
            manifest.verify(run.folder, score_only=True)
        tasks = [task for run in ordered for task in lacking(run)]
        changed = {run.run_id: run for run in ordered if manifest.was_finished(run.folder)}
        for run in changed.values():
            manifest.begin_scoring(run.folder)
        try:
            if tasks:
                # After the locks, as in a job: no command waits for a lock while it holds cores.
                grant = held.enter_context(leased(settings, "score"))
                with stage(f"score {len(tasks)} videos"):
                    score(tasks, lambda _: None, grant.device, threads(settings), "score")
        finally:  # an interrupt keeps the scores so far, so the manifests must cover them
            for run in changed.values():
                manifest.write(run)
    # From the stored request: it has the settings of tracking that the run was made with.
    for folder in dict.fromkeys(task.run.folder for task in tasks):
        run = Run.from_folder(folder)
        if track_is_typed or run.track.get("mode") != "disabled":
            mirror(replace(run, track=track))
    # The wide table of a results folder has all of its runs, also those that were not scored now.
    for root in dict.fromkeys(Path(run.results_dir) for run in ordered):
        all_runs.write_wide(root)
        print(root / all_runs.WIDE)
    return _print_counts(ordered, len(tasks))


def _print_counts(found: Sequence[Run], num_scored: int) -> int:
    """Print how many videos have each metric, and the reasons; return exit code 1 if none can run.

    Reasons may also stand next to values, such as for constant videos.
    """
    # All runs were given the same metrics.
    metrics = built(json.dumps(found[0].metrics, sort_keys=True))
    counts = {metric: Counter[tuple[bool, str | None]]() for metric in metrics}
    # The first column of a metric stands for all of them; only the needed columns are read.
    of_metrics = [f"{metric.name}_reason" for metric in metrics]
    of_metrics += [metric.columns()[0].name for metric in metrics]
    for run in found:
        for row in rows(run.folder, of_metrics).values():
            for metric, counted in counts.items():
                reason = row.get(f"{metric.name}_reason")
                has_value = reason is None or row.get(metric.columns()[0].name) is not None
                counted[has_value, reason] += 1
    print(f"{num_scored} videos scored; now in {len(found)} runs:")
    for metric, counted in counts.items():
        print(f"{metric.name}: {sum(n for (has, _), n in counted.items() if has)} videos")
        for (has_value, reason), number in counted.items():
            if reason is not None:
                print(f"  {number} {'with' if has_value else 'without'} it: {reason}")
    return int(all(metric.missing() is not None for metric in metrics))
