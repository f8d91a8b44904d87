"""How long a video a card holds with each method, and what a generated second takes.

The planner is asked with the settings of a run's own request, so that it speaks of the same model,
method and attention; it runs nothing. What was measured stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.choosing.frontiers import cell
from analysis.section import Section
from harness.results.run import REQUEST, Run
from harness.system.errors import UserError, first_line

MAX_SHOWN_S = 86_340  # the planner looks no further than a day


@dataclass(frozen=True)
class Held:
    """What one method takes.

    longest_s: of the longest video that the card holds, None where it is not known; why: then.
    seconds_per_s: seconds that a generated second took. kv_gib_per_s: history at the end of the
    video over its seconds. failures: causes of videos that were not made.
    """

    method: str
    longest_s: float | None
    why: str
    seconds_per_s: float
    kv_gib_per_s: float
    failures: tuple[str, ...]

    @property
    def longest(self) -> str:
        """In words."""
        if self.longest_s is None:
            return "-"
        if self.longest_s > MAX_SHOWN_S:
            return "over a day"
        return f"{self.longest_s:.0f} s" if self.longest_s else "none"


def held(section: Section, card_gib: float) -> list[Held]:
    """Every method of a section on a card of so many GiB; for any other card ask again."""
    needs: dict[str, Any] = {}
    found = []
    for method in section.methods.values():
        longest, why = None, "printed numbers only: there is no run whose settings could be planned"
        if method.folder is not None:
            try:
                longest, why = planned(Run.from_folder(method.folder), card_gib, needs)
            except UserError as error:
                why = str(error)
        found.append(
            Held(
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
    """A quantity of the whole video over its seconds; NaN where either is not known."""
    seconds = section.seconds_generated
    return cell(section.values, name, quantity) / seconds if seconds else float("nan")


def planned(run: Run, card_gib: float, known: dict[str, Any]) -> tuple[float | None, str]:
    """Seconds of the longest video of a run's settings, 0 if not a chunk fits; else why not.

    known: what models take, by their settings; filled here, to count each once.
    """
    from hydra.errors import InstantiationException

    from harness.cache.integration import Packed
    from harness.config import stored
    from harness.planning import request
    from harness.planning.forecast import Setting, forecast
    from harness.planning.model_needs import needs

    for part in (run.integration, run.model, run.attention, run.method):
        stored.check(part, run.folder / REQUEST)  # before any of them is built
    try:
        if not isinstance(stored.build(run.integration, run.folder), Packed):
            return None, "built in as the published study did, which the planner counts apart"
        model = request.model_of(run.model_name, run.model)
        if (key := repr(run.model)) not in known:
            known[key] = needs(model)
        setting = Setting(
            run.model_name, run.suite.name, model, known[key], run.suite.num_frames,
            request.backend_of(run.attention), None, card_gib,
        )  # fmt: skip
        found = forecast(run.method_name, stored.build(run.method, run.folder), setting)
    except (InstantiationException, ValueError) as error:
        return None, f"cannot be planned here: {first_line(error)}"
    if found.longest_frames is None:
        return None, "; ".join(found.reasons) or "memory of this method is not known"
    return found.longest_s or 0.0, ""


def reasons(rows: list[Held]) -> Mapping[str, list[str]]:
    """Why methods have no longest video: the methods by reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            found.setdefault(row.why, []).append(row.method)
    return found
