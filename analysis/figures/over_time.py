"""Builds lines over time: quality by second, and memory while a video is generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.figures.figure import Absent, Axis, Bar, Bars, Curve, Curves, Panels
from analysis.numbers import listed
from analysis.section import Section
from analysis.study.over_time import CURVES
from analysis.study.spec import suite_title
from harness.results.quantities import QUANTITIES
from harness.scoring.metrics.signals import Signals

TRACES = {"memory": "memory over time", "kv": "history (KV) over time"}
OF_ALL = {"memory": "memory", "kv": "bytes of history"}
ACROSS = 3  # panels in one row
SMALL = 0.01  # of a peak: smaller parts of it are summed
SIGNALS = {each.name: each for each in Signals.quantities}


def drift(section: Section) -> Curves | Absent:
    """Build the study's drift curves: imaging quality over the video."""
    name, title = "drift", "imaging quality as the video goes on"
    key = _drift_key(section)
    if key is None:
        why = section.why_not("drift_last" if section.is_published else "imaging")
        said = section.remarks.get("curves", f"no imaging quality by second: {why}")
        return Absent(name, title, said)
    return curve(section, key, name, f"{suite_title(section.suite)}: {title}")


def quality(section: Section) -> Panels | Absent:
    """Build a panel for every other quality that is known by second."""
    name, title = "over-time", "quality by second"
    # The drift curve has a figure of its own, which the same page shows.
    found = [each for each in curves(section) if each.name != f"over-time-{_drift_key(section)}"]
    if not found:
        return Absent(name, title, "nothing else was measured by second")
    rows = [found[start : start + ACROSS] for start in range(0, len(found), ACROSS)]
    return Panels(name, rows, title=f"{suite_title(section.suite)}: {title}")


def curves(section: Section) -> list[Curves]:
    """Build the curves of every quality that is known by second."""
    return [each for key in section.curves if isinstance(each := curve(section, key), Curves)]


def curve(section: Section, key: str, name: str = "", title: str = "") -> Curves | Absent:
    """Build the curves of one quality: means over the videos of every method."""
    table = section.curves[key]
    if key in QUANTITIES:
        of = Axis(QUANTITIES[key].heading, QUANTITIES[key].better)
    elif key in SIGNALS:
        words, unit = key.removeprefix("signals_").replace("_", " "), SIGNALS[key].unit
        of = Axis(f"{words}, {unit}" if unit else words)  # neither direction is better
    else:
        of = Axis(key.replace("_", " "))
    # A line over a missing value would look like a measured one.
    known = {str(method): _finite(table[method]) for method in table}
    lines = _lines(section, {name: (each.index, each) for name, each in known.items()})
    name, title = name or f"over-time-{key}", title or of.title
    if not lines:
        return Absent(name, title, "no finite value")
    said = [section.remarks[each] for each in (key, "curves") if each in section.remarks]
    return Curves(name, title, Axis("seconds of the video"), of, lines, note="; ".join(said))


def trace(section: Section, kind: str) -> Curves | Bars | Absent:
    """Build memory over time of one video for all methods; bars if only maxima are known."""
    # The same figure from two sources: whole traces of ours, the study's maxima.
    name, title = f"{kind}-trace", TRACES[kind]
    headed = f"{suite_title(section.suite)}: {title}"
    known = section.traces.get(kind, {})
    lines = _lines(section, {name: (each.time_s, each.gib) for name, each in known.items()})
    if lines:
        # Allocators change in steps: between two points of a trace the memory stays the same.
        x, y = Axis("seconds of making it"), Axis(f"{OF_ALL[kind]} GiB", "lower")
        return Curves(name, headed, x, y, lines, steps=True, note=section.traced)
    if kind not in section.trace_maxima:
        said = section.remarks.get("traces", "no run left a trace (trace/ in its folder)")
        return Absent(name, title, said)
    # The study published only the largest value of each trace, so there is no line to draw.
    largest = _finite(section.trace_maxima[kind]).sort_values(kind="stable")
    bars = [
        Bar(str(m), section.methods[str(m)].family, [float(x)], is_reference=m == section.reference)
        for m, x in largest.items()
        if m in section.methods
    ]
    missing = [method for method in section.methods if method not in largest.index]
    noted = [section.remarks.get("traces", "only the largest values are known")]
    noted += [f"not there: {listed(missing)}"] if missing else []
    headed = f"{suite_title(section.suite)}: largest value of {title}"
    return Bars(name, headed, Axis(f"{OF_ALL[kind]} GiB", "lower"), bars, note="; ".join(noted))


def components(section: Section) -> Bars | Absent:
    """Build the bars of the largest peak of the traced video, by component."""
    name, title = "components", "peak by component"
    # A component that a method does not have takes no memory.
    table = section.components.fillna(0.0).drop(index=section.again, errors="ignore")
    if table.empty or not float(table.to_numpy(float).sum()):
        said = "no component was published" if section.is_published else "no run left a trace"
        return Absent(name, title, said)
    table = table.rename(columns=str)
    # A part that is small in every method would only crowd the legend, so these are summed.
    # The largest share over the methods: a part that is large in one method stays visible in all.
    share = table.div(table.sum(axis=1).replace(0, 1.0), axis=0).max().to_dict()
    total = table.sum().to_dict()
    large = [part for part, each in share.items() if each >= SMALL]
    small = [str(part) for part, each in share.items() if 0 < each < SMALL]
    # The largest parts come first, at the axis, where lengths compare best.
    parts = table[sorted(large, key=lambda part: -total[part])].copy()
    if small:
        parts["smaller parts"] = table[small].sum(axis=1)
    # The smallest peak comes first, on top.
    parts = parts.loc[parts.sum(axis=1).sort_values(kind="stable").index]
    bars = [
        Bar(
            str(method),
            section.methods[str(method)].family,
            [float(x) for x in lengths],
            is_reference=method == section.reference,
        )
        for method, lengths in zip(parts.index, parts.to_numpy(float), strict=True)
    ]
    small = [part.replace("_", " ") for part in small]
    noted = [section.traced] + ([f"smaller parts: {', '.join(small)}"] if small else [])
    return Bars(
        name,
        f"{suite_title(section.suite)}: {title}",
        Axis("GiB", "lower"),
        bars,
        [str(part).replace("_", " ") for part in parts],
        note="; ".join(filter(None, noted)),
    )


def _lines(
    section: Section, points: Mapping[str, tuple[Iterable[float], Iterable[float]]]
) -> list[Curve]:
    """Build one line per method that has points, without reruns of BF16."""
    found = []
    for name, (x, y) in points.items():
        xs, ys = list(map(float, x)), list(map(float, y))
        if name not in section.again and xs:
            family, is_reference = section.methods[name].family, name == section.reference
            found.append(Curve(name, xs, ys, family, is_reference))
    return found


def _drift_key(section: Section) -> str | None:
    """Return the name of the curve to compare with the study's drift; None without any."""
    return next((each for each in CURVES if each in section.curves), None)


def _finite(values: pd.Series) -> pd.Series:
    known = values.astype(float)
    return known[known.abs() < float("inf")]  # false for NaN, so NaN is dropped too
