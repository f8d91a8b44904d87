"""Groups methods with about equal bytes, to show what an eviction policy gains.

A plain sliding window also saves memory by dropping frames. A policy that drops frames must
therefore be compared with windows of the same bytes, with a sink and without.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.choosing.choices import ordered, shown
from analysis.choosing.frontiers import objectives
from analysis.choosing.sureness import compared
from analysis.section import Method, Section, cell
from harness.system.errors import UserError

TOLERANCE = 0.05  # share of the bytes
DROPS = 1.01  # frames were dropped if `ratio` exceeds `ratio_same` by this factor
# Frames of a plain window in the bytes of one BF16 frame: 4 bits, and an FP16 scale for 16 values.
BITS = {"int4": 3.2, "bf16": 1.0}
POOLS = ("softprune", "soft_prune")  # a pooled frame counts as attended
FEWEST = 6  # frames: a sink of 3 and a chunk
PLAIN = ("sliding window", "sink and window")
COMPARED_BY = ("ssim", "psnr_rest_db", "lpips", "imaging", "runtime_s")  # the first orders a group


@dataclass(frozen=True)
class Group:
    """Methods of about the same bytes.

    values: one row per method, best first.
    kinds: the kind of each method, in words.
    compared: policies that drop frames, compared with the best plain window of each kind.
    missing: plain windows of this size that were not run, and their commands.
    """

    title: str
    values: pd.DataFrame
    kinds: dict[str, str]
    compared: tuple[str, ...]
    missing: tuple[str, ...]


def groups(section: Section, tolerance: float = TOLERANCE) -> list[Group]:
    """Group the methods that hold less than BF16, smallest first.

    A group holds methods within the tolerance of its smallest.
    Raises  UserError: no bytes are known.
    """
    sizes = _sizes(section)
    found: list[list[str]] = []
    # Sizes rise, so a group ends at the first method that is too far from the group's smallest.
    for name, size in sizes.items():
        if found and size <= sizes[found[-1][0]] * (1 + tolerance):
            found[-1].append(str(name))
        else:
            found.append([str(name)])
    # A lone method is a group only if it drops frames: its plain windows are then missing, and the
    # group says how to make them.
    kept = [names for names in found if len(names) > 1 or _evicts(kind(section, names[0]))]
    return [_group(section, names, sizes) for names in kept]


def at(section: Section, share: float, said: str, tolerance: float = TOLERANCE) -> Group:
    """Return the methods of one size.

    share: of BF16's bytes for the whole video. said: the size as the user gave it.
    Raises  UserError: no bytes are known, or none is of this size; names the nearest.
    """
    sizes = _sizes(section)
    names = [str(name) for name, size in sizes.items() if abs(size / share - 1) <= tolerance]
    if not names:
        near = (sizes / share - 1).abs().sort_values().index[:2]
        nearest = []
        for name in map(str, near):
            gib, ratio = (cell(section.values, name, key) for key in ("kv_gib", "ratio"))
            stored = "" if math.isnan(gib) else f"{shown('kv_gib', gib)} GiB, "
            nearest.append(f"{name} ({stored}{shown('ratio', ratio)}x)")
        raise UserError(
            f"nothing holds {said} within {tolerance:.0%}: nearest are "
            f"{', '.join(nearest)}; run one with 'method.retention.budget=...' of this size"
        )
    return _group(section, names, sizes)


def share_of_gib(section: Section, gib: float) -> float:
    """Convert GiB to a share of BF16's bytes.

    Raises  UserError: the section has no bytes.
    """
    # Stored GiB times ratio is BF16's GiB, the same for every method.
    whole = (section.values["kv_gib"] * section.values["ratio"]) if (
        section.has("kv_gib") and section.has("ratio")) else pd.Series(dtype=float)  # fmt: skip
    if whole.dropna().empty:
        raise UserError("bytes are not told here: give --at-ratio")
    return float(gib / whole.dropna().iloc[0])


def drops(section: Section, name: str) -> bool:
    """Whether a method drops frames, by its ratios or its name."""
    # The study's data hold no ratio over the frames that are left, so its names must do.
    # One counts the bytes of the whole video, the other those of the frames still attended.
    whole, same = (cell(section.values, name, key) for key in ("ratio", "ratio_same"))
    return whole > same * DROPS or "prune" in name.lower()


def kind(section: Section, name: str) -> str:
    """Name how a method drops frames: plain window, with sink, or other; empty if it keeps all."""
    method = section.methods[name]
    base = name.split()[0]
    # With a sink of 0, `sink_window_*` is a plain window.
    if base.startswith("sink_window_") and "retention.sink=0" not in method.settings:
        return PLAIN[1]
    if base.startswith(("window_", "sink_window_")):
        return PLAIN[0]
    if any(word in name.lower() for word in POOLS):
        return "pools frames"
    return "drops frames" if drops(section, name) else ""


def _evicts(kind: str) -> bool:
    """Whether a policy other than a plain window drops or pools frames."""
    return bool(kind) and kind not in PLAIN


def _sizes(section: Section) -> pd.Series:
    """Return shares of BF16's bytes in rising order, for methods smaller than BF16."""
    if not section.has("ratio"):
        raise UserError(f"no ratio is known ({section.why_not('ratio')})")
    ratios = objectives(section)["ratio"].dropna()
    others = ratios.drop(index=[section.reference], errors="ignore")
    # What holds as much as BF16 saves nothing, so it belongs to no group.
    return (1 / others[others > 1]).sort_values(kind="stable")


def _group(section: Section, names: Sequence[str], sizes: pd.Series) -> Group:
    qualities = [key for key in COMPARED_BY if section.has(key)]
    sizes_shown = [key for key in ("kv_gib", "ratio", "ratio_same") if section.has(key)]
    values = ordered(objectives(section).loc[list(names)], qualities[:1])[
        [*sizes_shown, *qualities]
    ]
    kinds = {str(name): kind(section, str(name)) for name in values.index}
    low, high = (1 / sizes[each] for each in (names[-1], names[0]))
    span = f"{low:.2f}x" if low == high else f"{low:.2f}x to {high:.2f}x"
    evicting = [name for name in names if _evicts(kinds[name])]
    absent = [plain for plain in PLAIN if plain not in kinds.values()] if evicting else []
    missing = []
    for plain in absent:
        name = evicting[0]
        # Nothing can be run for the study's table, so its notes give no command.
        if section.is_published:
            missing.append(f"the study has no {plain} to hold {name} against")
            continue
        command = baseline(section.methods[name], cell(section.values, name, "ratio"), plain)
        how = f"make one with {command}" if command else "no command is known for its size"
        missing.append(f"{plain} of the size of {name}: none among these; {how}")
    # `values` is ordered by quality, so the first window of a kind is the best one.
    firsts = [next((n for n in kinds if kinds[n] == plain), None) for plain in PLAIN]
    against = [
        line
        for name in kinds
        for plain in firsts
        if _evicts(kinds[name]) and plain is not None and qualities
        for line in compared(section, qualities[0], name, plain)
    ]
    title = f"{section.title}: {span} less than BF16"
    return Group(title, values, kinds, tuple(against), tuple(missing))


def baseline(method: Method, ratio: float, plain: str) -> str:
    """Return the command of a plain window with about equal bytes; empty if unknown.

    A budget counts whole frames, so it may miss by half a frame.
    """
    length = re.search(r"suite\.frames=(\d+)", method.command)
    if length is None:
        return ""
    whole = int(length[1])
    # A method of ratio r holds the bytes of 1 / r of all frames in BF16.
    counts = {bits: round(whole / ratio * more) for bits, more in BITS.items()}
    # A window of the method's own precision isolates what its choice of frames gains.
    order = ("int4", "bf16") if "int4" in method.name else ("bf16", "int4")
    bits = next((each for each in order if FEWEST <= counts[each] < whole), None)
    if bits is None:
        return ""
    # There is no file of a plain INT4 window: it is the one with a sink, set to 0.
    base, without = f"sink_window_{bits}", ["method.retention.sink=0"] * (plain == PLAIN[0])
    if without and bits == "bf16":
        base, without = "window_bf16", []
    own = [f"method={base}", f"method.retention.budget={counts[bits]} frames", *without]
    words = [
        word for word in shlex.split(method.command) if not word.startswith(("method=", "method."))
    ]
    place = words.index("harness") + 1 if "harness" in words else len(words)
    return shlex.join([*words[:place], *own, *words[place:]])
