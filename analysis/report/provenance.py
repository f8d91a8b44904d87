"""Builds the provenance page: commands, runs, machines, versions, and missing results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report import links
from analysis.report.numbers import NONE
from analysis.report.overview import shared_facts
from analysis.report.pages import page
from analysis.report.parts import Part
from analysis.report.runs import DIGEST, SAID
from analysis.statistics import EXACT_UP_TO, FEWEST, NUM_DRAWS, NUM_FLIPS
from harness.planning.detectable import ALPHA

# In words on the page, because a report is read without the harness and its docs.
STATISTICS = (
    "Prompts are the sample: of several videos of a prompt the mean is taken first.",
    f"Interval: percentile bootstrap of the mean over prompts, 95 %, {NUM_DRAWS} draws, the same "
    f"redrawn prompts for all methods; none for fewer than {FEWEST} prompts.",
    "Difference: the method less its base on the prompts that both have. The base is BF16; for "
    "fidelity, which BF16 has none of, it is the noise floor: BF16 with its attention summed in "
    "another order.",
    f"Test: sign flips of the paired differences, all patterns up to {EXACT_UP_TO} prompts, else "
    f"{NUM_FLIPS} random ones; corrected after Holm over the methods of one quantity.",
    f"Mark: ▲ better or ▼ worse where the corrected p is at most {float(ALPHA):g}. Without a "
    "mark nothing is said: with few prompts no difference, however large, can be told from chance.",
    "Frontier: methods that no other equals or beats on all axes while it beats them on one; a "
    "missing or infinite value is never on it.",
)


def provenance(parts: Sequence[Part], cards: Mapping[str, str], said: Mapping[str, str]) -> str:
    """Build the provenance page; said: facts of the whole report."""
    return page(
        "provenance.html",
        "",
        statistics=STATISTICS,
        report=list(said.items()),
        parts=[_context(part, cards) for part in parts],
    )


def _context(part: Part, cards: Mapping[str, str]) -> dict[str, Any]:
    """Collect the values that the template shows of a section."""
    facts = dict(shared_facts(part))
    facts |= {what: "; ".join(part.said(what)) for what in (*SAID.values(), DIGEST)}
    # Runs of several machines may differ in their packages; equal lists come once.
    facts["packages"] = "; ".join(
        dict.fromkeys(run.packages for run in part.runs.values() if run.packages)
    )
    # All versions of a metric over the runs: two of them mean scores that do not compare.
    versions: dict[str, dict[str, None]] = {}
    for run in part.runs.values():
        for metric, said in run.versions.items():
            versions.setdefault(metric, {}).update(dict.fromkeys(said))
    missing = [f"{title}: {why}" for title, why in part.numbers.missing.items()]
    # BF16 has no distance to itself; that is no gap in the results.
    missing += [
        f"{name}: {quantity.title}, {cell.said}"
        for quantity in part.numbers.quantities
        for name, cells in part.numbers.cells.items()
        if (cell := cells[quantity.name]).text == NONE and name != part.section.reference
    ]
    missing += [x for group in part.groups for x in group.absent]
    missing += [f"{name}: {x}" for name, run in part.runs.items() for x in run.problems]
    # A missing MP4 is no missing result: numbers come from the lossless frames.
    without = {name: run.made - run.mp4s for name, run in part.runs.items()}
    missing += [f"{name}: {num} videos without an MP4" for name, num in without.items() if num]
    return {
        "id": part.key,
        "title": part.section.title,
        "facts": list(facts.items()),
        "missing": [*missing, *part.section.notes],
        "versions": [(metric, "; ".join(said)) for metric, said in versions.items()],
        "runs": [
            {
                "name": name,
                "href": links.card(cards[name]),
                "run_id": method.run_id or NONE,
                "made": method.num_videos,
                "failed": method.num_failed,
                "finished": part.runs[name].finished or NONE,
                "code": ", ".join(part.runs[name].said.get("version of the code", ())) or NONE,
                "command": method.command,
            }
            for name, method in part.section.methods.items()
        ],
    }
