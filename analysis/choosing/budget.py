"""Computes the longest video that fits a card with each method, and the cost of one second.

The planner gets the settings of the run's own request, so model, method and attention are the
same. It runs no model. Measured numbers are added next to the planned ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.section import Section, cell
from harness.results.run import REQUEST, Run
from harness.system.errors import UserError, first_line

# A minute less than a day, since the planner rounds to whole chunks.
MAX_SHOWN_S = 86_340  # the planner stops at a day


@dataclass(frozen=True)
class Planned:
    """Longest video of one method on a card, and its cost per second.

    longest_s: seconds of the longest video that fits; None if unknown.
    why: the reason if `longest_s` is None, else empty.
    seconds_per_s: seconds of runtime per second of video.
    kv_gib_per_s: GiB of history at the end, per second of video.
    failures: causes of failed videos.
    """

    method: str
    longest_s: float | None
    why: str
    seconds_per_s: float
    kv_gib_per_s: float
    failures: tuple[str, ...]

    @property
    def longest(self) -> str:
        """The longest video as text."""
        if self.longest_s is None:
            return "-"
        if self.longest_s > MAX_SHOWN_S:
            return "over a day"
        return f"{self.longest_s:.0f} s" if self.longest_s else "none"


def plan(section: Section, card_gib: float) -> list[Planned]:
    """Plan every method of a section on a card with `card_gib` GiB."""
    needs: dict[str, Any] = {}
    found = []
    for method in section.methods.values():
        longest, why = None, "printed numbers only: there is no run whose settings could be planned"
        # The method stays in the table without a plan: its measured costs are still worth reading.
        if method.folder is not None:
            try:
                longest, why = longest_video(Run.from_folder(method.folder), card_gib, needs)
            except UserError as error:
                why = str(error)
        found.append(
            Planned(
                method.name,
                longest,
                why,
                _per_second(section, method.name, "runtime_s"),
                _per_second(section, method.name, "kv_gib"),
                method.failures,
            )
        )
    return found


def _per_second(section: Section, name: str, quantity: str) -> float:
    """Divide a quantity of the whole video by its seconds; NaN if either is unknown."""
    # Per second of video, so that suites of different lengths compare.
    seconds = section.seconds_generated
    return cell(section.values, name, quantity) / seconds if seconds else float("nan")


def longest_video(run: Run, card_gib: float, known: dict[str, Any]) -> tuple[float | None, str]:
    """Plan the longest video in seconds, 0 if not a chunk fits; else None and the reason.

    known: cache of model needs by model settings, filled here.
    """
    # Imports torch, which the other views of `choose` do without.
    from hydra.errors import InstantiationException

    from harness.cache.integration import Packed
    from harness.config import stored
    from harness.planning.forecast import Setting, forecast
    from harness.planning.model_needs import needs
    from harness.planning.setting import backend_of, model_of

    for part in (run.integration, run.model, run.attention, run.method):
        stored.check(part, run.folder / REQUEST)  # stored settings are data: check before building
    try:
        # Other integrations hold the history in tensors that this plan does not count.
        if not isinstance(stored.build(run.integration, run.folder), Packed):
            return None, "built in as the published study did, which the planner counts apart"
        model = model_of(run.model_name, run.model)
        # Counting a model's needs runs its network on the meta device, so runs share the count.
        if (key := repr(run.model)) not in known:
            known[key] = needs(model)
        setting = Setting(
            run.model_name, run.suite.name, model, known[key], run.suite.num_frames,
            backend_of(run.attention), None, card_gib,
            switches=run.suite.switches, recached=run.suite.recached,
        )  # fmt: skip
        found = forecast(run.method_name, stored.build(run.method, run.folder), setting)
    except (InstantiationException, ValueError) as error:
        return None, f"cannot be planned here: {first_line(error)}"
    if found.longest_frames is None:
        return None, "; ".join(found.reasons) or "memory of this method is not known"
    # None would mean unknown; a card on which not a chunk fits has an answer, 0.
    return found.longest_s or 0.0, ""


def reasons(rows: list[Planned]) -> Mapping[str, list[str]]:
    """Group methods without a longest video by reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            found.setdefault(row.why, []).append(row.method)
    return found
