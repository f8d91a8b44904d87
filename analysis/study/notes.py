"""Writes the notes beneath a table: how to read it, what is missing, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from analysis.choosing.frontiers import frontiers
from analysis.section import Section
from analysis.statistics import (
    FEWEST,
    NUM_DRAWS,
    base_of,
    beside_reruns,
    differences,
    estimates,
)
from analysis.study.columns import COUNTED, FOLLOWS, MARK, View, is_sampled
from analysis.study.rows import rows_missing
from analysis.study.spec import Table
from harness.planning.detectable import ALPHA, least_prompts, sentence, smallest_p
from harness.results.quantities import QUANTITIES

WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")  # a shell word, with its quotes


def notes(table: Table, view: View, left_out: Sequence[str]) -> list[str]:
    """Collect all notes of a table, the most important first."""
    section = view.section
    shown = [name for name in table.shown(section.is_published) if name in QUANTITIES]
    shown = [name for name in shown if section.has(name)]
    found: list[str] = []
    if view.with_statistics:
        # A runtime that has differences shows its interval only in the column of differences.
        # The notes on statistics are of the columns that show any.
        has_column = "runtime_vs" in table.shown(section.is_published)
        found += _statistics(
            view,
            [x for x in shown if x != "runtime_s" or has_column or not differences(section, x)],
        )
    # Seconds of two programs compare only if both clocks include the same phases.
    if set(shown) & {"runtime_s", "seconds_ratio"} and section.phases:
        found.append(f"seconds: {section.phases}")
    found += why_none(section, left_out)
    found += _absent_values(view, shown)
    found += [section.remarks[name] for name in shown if name in section.remarks]
    found += section.notes
    if "frontiers" in table.shown(section.is_published):
        found += [
            f"frontier {each.title}: without {_titles(list(each.left_out))}, not measured here"
            for each in frontiers(section)
            if each.left_out
        ]
    # A table of absent rows shows them itself.
    missing = rows_missing(table, section)
    if missing and not table.absent:
        found.append(f"rows of the study that are not here: {', '.join(missing)}")
    return found


def made_by(*rows: tuple[Section, Sequence[str]]) -> list[str]:
    """List the command and run of every row; words that all commands share come once, on top."""
    # Rows that are shown empty have no run.
    methods = [section.methods[n] for section, names in rows for n in names if n in section.methods]
    # Keep quotes as typed, so that a command can be copied.
    typed = [(each.run_id, WORD.findall(each.command)) for each in methods if each.run_id]
    words = [command for _, command in typed if command]
    # Commands of one sweep differ in a word or two; printing each in full would bury these.
    shared = [word for word in words[0] if all(word in each for each in words)] if words else []
    if len(words) < 2 or not shared:
        return [f"{run_id}  {' '.join(command)}".strip() for run_id, command in typed]
    own = [(run_id, [word for word in each if word not in shared]) for run_id, each in typed]
    return [
        f"{' '.join(shared)}, and by run",
        *(f"{run_id}  {' '.join(each)}" for run_id, each in own),
    ]


def _statistics(view: View, shown: Sequence[str]) -> Iterator[str]:
    """Explain brackets and marks, and which differences this number of prompts can show."""
    section = view.section
    sampled = [name for name in shown if is_sampled(name)]
    with_base = [name for name in sampled if not QUANTITIES[name].fidelity]
    fidelities = [name for name in sampled if QUANTITIES[name].fidelity]
    if not sampled:
        return
    yield (
        f"in brackets: 95 % bootstrap interval over prompts ({NUM_DRAWS} draws, the same for all "
        f"methods); none for fewer than {FEWEST} prompts"
    )
    test = f"two-sided sign-flip test, Holm-corrected, {float(ALPHA):g}"
    # The mark is explained only where one could stand.
    if any(differences(view.section, name) for name in with_base):
        yield (
            f"vs BF16: method less {section.reference} on the prompts that both have; {MARK} where "
            f"a paired test supports a difference ({test})"
        )
    floor = next(iter(section.floors), None)
    if fidelities and floor is not None:
        yield (
            f"{_titles(fidelities)}: {MARK} where worse than the noise floor, {floor} ({test}); "
            "no difference to BF16 has a meaning there"
        )
    elif fidelities and section.reference is not None and not section.is_published:
        yield (
            f"{_titles(fidelities)}: without marks, as there is no noise floor among the runs; "
            f"python -m harness experiment=noise_floor suite={section.suite} makes one"
        )
    exact = [name for name in shown if name in COUNTED]
    if exact:
        yield f"{_titles(exact)}: counted bytes, so no interval"
    if "peak_gib" in shown:
        yield "peak: the largest of all videos, so no interval"
    if set(shown) & set(FOLLOWS):
        yield f"{_titles(FOLLOWS)}: the runtime over the seconds generated"
    # Whether any difference could have been shown at all is worth more than a missing mark.
    yield from _power(view, sampled)
    said = (beside_reruns(section, name, differences(view.section, name)) for name in with_base)
    yield from filter(None, said)
    # Quantities of the same missing prompts share one note.
    counted: dict[str, list[str]] = {}
    for name in sampled:
        for line in _of_prompts(view, name):
            counted.setdefault(line, []).append(name)
    yield from (f"{_titles(names)}: {line}" for line, names in counted.items())


def _power(view: View, sampled: Sequence[str]) -> Iterator[str]:
    """Explain which differences can be shown, once per number of prompts and comparisons."""
    said: dict[str, list[str]] = {}
    for name in sampled:
        found = differences(view.section, name)
        if found:
            n = max(each.n for each in found.values())
            plural = "" if len(found) == 1 else "s"
            can_show = f"{len(found)} comparison{plural} on {n} prompts"
            # So few prompts can show nothing: the sentence of the dry run says so in full.
            if n < least_prompts(len(found)) or smallest_p(n) > ALPHA:
                can_show = sentence(n, len(found))
            said.setdefault(can_show, []).append(name)
    for sentence_, names in said.items():
        yield f"{_titles(names)}: {sentence_}"


def _of_prompts(view: View, name: str) -> Iterator[str]:
    """Name methods with fewer prompts than others, and values without per-video rows."""
    counts = {method: each.n for method, each in estimates(view.section, name).items()}
    here = [method for method in view.names if method in view.section.methods]
    most = max(counts.values(), default=0)
    # A mean over fewer prompts is of other prompts, so it may not compare.
    few = [f"{method} {counts[method]}" for method in here if counts.get(method, most) < most]
    if few:
        yield f"fewer prompts than {most}: {', '.join(few)}"
    known = view.section.values[name].notna()
    without = [method for method in here if known[method] and method not in counts]
    if without:
        some = ", ".join(without) if len(without) <= 6 else f"{len(without)} methods"
        yield f"no value of each video, so no interval: {some}"
    base = base_of(view.section, name)
    if base is not None and counts and base not in counts:
        yield f"no value of each video of {base}, so no difference to it"


def _absent_values(view: View, shown: Sequence[str]) -> Iterator[str]:
    """Explain why some methods lack a value that others have."""
    said: dict[tuple[str, str], list[str]] = {}
    for name in view.names:
        method = view.section.methods.get(name)
        # BF16 has no fidelity by definition, and a row without a run is explained elsewhere.
        if method is None or name == view.section.reference:
            continue
        lacks = [each for each in shown if view.section.values[each].isna()[name]]
        for why, what in _by_reason(method.reasons, lacks).items():
            said.setdefault((what, why), []).append(name)
    for (what, why), names in said.items():
        yield f"no {what} of {', '.join(names)}: {why}"


def why_none(section: Section, names: Sequence[str]) -> list[str]:
    """Explain why no method has a value of some quantities, each reason once."""
    reasons = {name: section.why_not(name) for name in names}
    return [f"no {what}: {why}" for why, what in _by_reason(reasons, names).items()]


def _by_reason(reasons: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Group the titles of quantities by reason."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(reasons.get(name, "not measured"), []).append(name)
    return {why: _titles(each) for why, each in found.items()}


def _titles(names: Sequence[str]) -> str:
    return ", ".join(QUANTITIES[name].title for name in names)
