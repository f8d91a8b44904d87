"""Predicts the memory of a resolved run, for dry runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hydra.errors import InstantiationException

from harness.api import Method
from harness.cache.integration import Integration, Packed
from harness.cache.published import FullBuffers, Published
from harness.config.messages import construction_message
from harness.models.preset import VideoModel
from harness.planning.forecast import Setting, forecast
from harness.planning.memory import pixels_per_latent
from harness.planning.method_facts import NUM_FRAMES, TRUE
from harness.planning.model_needs import Needs, needs
from harness.planning.setting import backend_of, model_of
from harness.planning.study_peaks import catalogue, geometry, row
from harness.prompts.suite import pixel_frames
from harness.results.run import Run
from harness.system.errors import UserError, first_line
from harness.system.typed import build

STUDY = "published/"  # prefix of the names of the published study's methods


@dataclass(frozen=True)
class Memory:
    """Bytes of one video. Unknown sizes are None; `reasons` says why.

    kv_bytes: history at the end.
    peak_bytes: largest of denoise, commit and decode, under the run's integration.
    raw_bytes: pixels before they are packed.
    """

    kv_bytes: int | None
    peak_bytes: int | None
    raw_bytes: int | None
    reasons: tuple[str, ...]


def memory(run: Run) -> Memory:
    """Predict the memory of a run's videos; errors become reasons."""
    raw_bytes: int | None = None  # known even if what the method stores is not
    try:
        # As JSON text, which is hashable, so that it can be the key of a cache.
        model, need = _model(run.model_name, json.dumps(run.model, sort_keys=True))
        height, width = (pixels_per_latent(model) * side for side in model.latent_size)
        num_pixels = pixel_frames(run.suite.num_frames, model.first_pixel_frames)
        raw_bytes = 3 * num_pixels * height * width  # RGB, one byte each
        kv_bytes, peak_bytes, reasons = _history_and_peak(run, model, need)
        return Memory(kv_bytes, peak_bytes, raw_bytes, reasons)
    except (UserError, ValueError) as error:
        reason = str(error)
    except InstantiationException as error:
        reason = construction_message(error)
    except Exception as error:  # noqa: BLE001  a user's method may raise anything; others go on
        reason = first_line(error)
    return Memory(None, None, raw_bytes, (f"KV and peak are unknown: {' '.join(reason.split())}",))


@cache
def _model(name: str, config: str) -> tuple[VideoModel, Needs]:
    """Build a model and count its needs."""
    # Cached: the jobs of a sweep share their model, and some models take seconds to count.
    model = model_of(name, json.loads(config))
    return model, needs(model)


def _history_and_peak(
    run: Run, model: VideoModel, need: Needs
) -> tuple[int | None, int | None, tuple[str, ...]]:
    """Return the bytes of history and of the peak, and notes on them."""
    method: Method = build("method", run.method)
    integration: Integration = build("integration", run.integration)
    method.check(model.spec)
    integration.check(model.spec, method)
    # Other integrations than `Packed` hold memory in ways that the two contracts do not describe.
    if isinstance(integration, Published):
        return _in_study(run, model)
    if isinstance(integration, FullBuffers):
        num_held = model.loop.histories(run.suite.num_frames)[0]
        kv_bytes = model.num_histories * integration.history_bytes(model.spec, num_held)
        return kv_bytes, None, (f"peak is not planned for integration={integration.name}",)
    if not isinstance(integration, Packed):
        raise UserError(f"nothing is known of what {type(integration).__name__} stores")
    setting = Setting(
        model_name=run.model_name,
        suite_name=run.suite.name,
        model=model,
        needs=need,
        num_frames=run.suite.num_frames,
        backend=backend_of(run.attention),
        ceilings=None,
        memory_gib=None,
        switches=run.suite.switches,
        recached=run.suite.recached,
    )
    found = forecast(run.method_name, method, setting)
    # The planner knows two contracts, best practice and as published; an integration that follows
    # neither gets no peak.
    saving = (integration.free_before_decode, integration.stream_decode)
    if all(saving) and not integration.keep_previous:
        return found.stored_bytes, found.best_peak_bytes, found.reasons
    if any(saving) or not integration.keep_previous:
        reason = "peak is unknown: this integration mixes the two contracts that are planned"
        return found.stored_bytes, None, (*found.reasons, reason)
    # That contract stores the whole video.
    if model.window is not None:
        reason = "peak is unknown: as published is planned for model.window=null only"
        return found.stored_bytes, None, (*found.reasons, reason)
    return found.stored_bytes, found.published_peak_bytes, found.reasons


def _in_study(run: Run, model: VideoModel) -> tuple[int, int, tuple[str, ...]]:
    """Return history and peak of a method of the published study, as its program held them.

    Raises  UserError: another method, model or length, or changed settings.
    """
    # Its peaks are counted from descriptions of the study's rows, so they hold for those alone.
    book = catalogue()
    name, suite = run.method_name.removeprefix(STUDY).upper(), run.suite.name
    known = run.method_name.startswith(STUDY) and name in book.methods
    # Any setting of the method would change what it stores; its program ran without a window.
    changed = [word for word in run.settings.split() if not word.lstrip("+~").startswith("model.")]
    size: Any = replace(model.spec, window=None)
    if not known or changed or size != TRUE or run.suite.num_frames != NUM_FRAMES:
        raise UserError(
            "integration=published is counted for the study's own methods on its model and length "
            "only: type python -m harness plan integration=published"
        )
    if suite not in book.methods[name].suites:
        raise UserError(f"the study has no row {name} on {suite}")
    found = row(name, suite, book, geometry(model, NUM_FRAMES, book.vae_parameters))
    note = "KV and peak as counted for the study's program (plan integration=published)"
    return found.kv_bytes, found.peak_bytes, (note,)
