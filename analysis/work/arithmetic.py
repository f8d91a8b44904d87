"""Counts the arithmetic of finished videos: the planner's FLOPs of the passes that really ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.section import Method
from harness.api import Method as Parts
from harness.cache.attention.portable import Portable
from harness.config import stored
from harness.models.preset import VideoModel
from harness.planning.history import Moment
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs, Network, network
from harness.planning.roofline import realised_flops
from harness.system import parquet


def flops(methods: Sequence[Method]) -> dict[str, float]:
    """Return the FLOPs of a video by method, mean over videos; methods of one model.

    Text encoder and decoder are not counted, nor the work of policies and quantizers. A method is
    left out if its request or its traces are missing, or if it was not built in as `packed`.
    Raises  UserError: a trace is damaged; a run names a class that is not allowed.
    """
    found: dict[str, float] = {}
    counted = None
    for method in methods:
        request, folder = method.request, method.folder
        if request is None or folder is None or method.build != "packed":
            continue
        model: VideoModel = stored.build(request.model, str(folder))
        parts = stored.build(request.method, str(folder))
        counted = counted or network(model)
        num_frames, recached = request.suite.num_frames, request.suite.recached
        histories = _histories(model, parts, num_frames, counted)
        totals = []
        for path in sorted((folder / "trace").glob("*.parquet")):
            table = parquet.read(path, None, f"remove it: rm {path}").to_pandas()
            passes = table[table["moment"] == "pass"]
            totals.append(
                sum(
                    realised_flops(
                        model,
                        counted,
                        parts.reuse,
                        histories,
                        model.passes(num_frames, recached),
                        list(of["reused"] == 1),
                        model.roles[int(branch)],
                    )
                    for branch, of in passes.groupby("branch")
                )
            )
        if totals:
            found[method.name] = float(np.mean(totals))
    return found


def without_skips(
    model: VideoModel,
    parts: Parts,
    num_frames: int,
    counted: Network,
    recached: Sequence[int] = (),
) -> float:
    """Return the FLOPs of a video whose passes all run.

    parts: the method. counted: needs of the model's network (`harness.planning.model_needs`).
    recached: as in `VideoModel.passes`.
    """
    histories = _histories(model, parts, num_frames, counted)
    passes = list(model.passes(num_frames, recached))
    return sum(
        realised_flops(
            model, counted, None, histories, passes,
            [False] * sum(role in model.roles_of(each) for each in passes), role,
        )
        for role in model.roles
    )  # fmt: skip


def _histories(
    model: VideoModel, parts: Parts, num_frames: int, counted: Network
) -> Sequence[Sequence[Moment]]:
    """Return what each history of a video holds, chunk by chunk."""
    budget = Budget(model, Needs(counted, None, None, ()), parts, Portable())
    return budget.histories(Contract(best=True, window=model.window), num_frames)
