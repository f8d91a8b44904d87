"""Returns the rows of a plan, from the notes of earlier plans where they have them.

A plan whose rows are all noted imports no torch, which takes longer than everything else in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.planning.predicted import Forecast
from harness.planning.rates import Ceilings
from harness.planning.request import Request
from harness.system.errors import UserError
from harness.system.notes import note, only_ours, recall

DECIDE = ("model", "suite", "method", "attention", "integration")  # the settings that a row reads
PEAKS = ("best_peak_bytes", "published_peak_bytes")


@dataclass(frozen=True)
class Plan:
    """The rows of a plan.

    ceilings: rates of the device; None without a card or a calibration.
    attention: name of the backend that was planned for; a row names another if a kernel cannot read
    what its method stores.
    refused: with `method=all`, a sentence for each method that cannot serve the model.
    """

    rows: list[Forecast]
    ceilings: Ceilings | None
    attention: str
    refused: list[str]


def planned(asked: Request) -> Plan:
    """Return the rows of all requested methods.

    Raises  UserError, HydraException, ValueError: wrong settings, or no method serves the model.
    """
    questions = {name: _question(name, asked) for name in asked.configs}
    found = {name: recall("plan", question) for name, question in questions.items() if question}
    # A method that was left out of all is an error if it is named.
    known = {name: each for name, each in found.items() if each and (each["row"] or asked.is_all)}
    if len(known) < len(asked.configs):
        for name, answer in _computed(asked, known).items():
            known[name] = answer
            # A size may be unknown because of anything that is missing here: it is asked for again.
            # A method that was left out has no row, so nothing in it is unknown.
            row = answer["row"] or {}
            unknown = None in (row.get(peak, 0) for peak in PEAKS)
            if (question := questions[name]) and not unknown:
                note("plan", question, answer)
    rows = [known[name]["row"] for name in asked.configs]
    if not any(rows):  # only if all methods were asked for: a named one raises its own error
        reason = known[next(iter(asked.configs))]["refused"]
        raise UserError(f"no method can be planned for model={asked.model_name}: {reason}")
    # JSON has no tuples. Rows and sentences keep the order in which the methods were asked for.
    return Plan(
        rows=[Forecast(**{**row, "reasons": tuple(row["reasons"])}) for row in rows if row],
        ceilings=asked.ceilings,
        attention=known[next(iter(asked.configs))]["attention"],
        refused=[each["refused"] for name in asked.configs if (each := known[name])["refused"]],
    )


def _question(name: str, asked: Request) -> list[Any] | None:
    """Return everything that a row depends on apart from code; None if code of the user's does."""
    config = {part: asked.configs[name][part] for part in DECIDE}
    if not only_ours(config):
        return None
    # The names are printed in rows and sentences, and two files may have the same settings.
    rates = asked.ceilings and asdict(asked.ceilings)
    return [name, asked.model_name, asked.suite_name, config, rates, asked.memory_gib]


def _computed(asked: Request, known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the answers that are not known, after all methods are checked as for a run."""
    # Here, so that a plan whose rows are all noted does not wait for these imports.
    import torch

    from harness.planning.forecast import forecast
    from harness.planning.model_needs import remembered_needs
    from harness.planning.setting import resolve

    # The tensors are tiny. On a busy machine, threads that wait for each other take minutes.
    torch.set_num_threads(1)
    setting, methods = resolve(asked, remembered_needs)
    return {
        name: {
            "row": asdict(forecast(name, methods[name], setting)) if name in methods else None,
            "attention": setting.backend.name,
            "refused": setting.refused.get(name),
        }
        for name in asked.configs
        if name not in known
    }
