"""Pairs every method that skips passes or evicts tokens with controls of equal cost.

An adaptive policy must beat a plain one of equal cost:

- Skipping: `Uniform` skips as many passes, spread evenly, with the same payload.
- Skipping: the same method without reuse, on the number of denoising steps nearest in FLOPs.
- Eviction: `Window` holds as many bytes, once without a sink (first in, first out), once with one.
  A policy that cuts before a new chunk holds more at the end of a video than before, so its control
  is the same policy with the scorer `Newest`, whose bytes are equal at every moment.

A control equals its method in all other parts: model, suite, prompts, length and integration, which
a `Section` shares, and the method's other settings. A method that skips and evicts has controls of
both kinds. A pooled frame counts as kept.

Source  StreamingLLM (arXiv 2309.17453) for the sink.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

from analysis.controls import commands
from analysis.controls.fewer_steps import num_steps, steps_of_cost, with_fewer_steps
from analysis.numbers import number
from analysis.section import Section, cell
from analysis.statistics import KEPT, between
from harness.api import Exact, Retention
from harness.api import Method as Parts
from harness.config import stored
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from methods.retention.tokens.newest import Newest
from methods.retention.tokens.scored import Scored
from methods.retention.window import Window
from methods.reuse.uniform import Uniform

Kind = Literal["uniform skip", "fewer steps", "first in, first out", "sink and window"]

SKIPS = 0.02  # a control's realised skip ratio may differ by this
DROPS = 1.01  # a method evicts if another one attends to more of the history by this factor
COMPARED_BY = ("psnr_db", "ssim", "lpips", "imaging")  # a note shows the first that was measured


@dataclass(frozen=True)
class Pair:
    """A method and the control that it is compared with.

    cost, control_cost: skip ratio, denoising steps, or GiB of history held at the end; None without
        a control.
    missing: how to make a control that is missing, or why there is none.
    """

    kind: Kind
    method: str
    cost: float
    control: str | None = None
    control_cost: float | None = None
    missing: str = ""


@lru_cache(maxsize=KEPT)
def pairs(section: Section) -> Sequence[Pair]:
    """Return the pairs of a section, in the order of its methods; controls have none of their own.

    Raises  UserError: the section is of the published study, or a run names a class that is not
            allowed.
    """
    if section.is_published:
        raise UserError(
            "the study's data hold no settings of its methods: give a folder of results"
        )
    # Stored settings decide what is a control, because users name methods freely.
    known = {
        name: stored.build(method.request.method, str(method.folder))
        for name, method in section.methods.items()
        if method.request is not None and method.num_videos
    }
    found: list[Pair] = []
    for name, parts in known.items():
        # BF16 and its repetitions neither skip nor evict.
        if name == section.reference or name in section.again:
            continue
        # `Uniform` is the plain policy itself and needs no control.
        if parts.reuse is not None and not isinstance(parts.reuse, Uniform):
            found.append(_skipping(section, known, name))
            found.append(_shortened(section, parts, name))
        is_plain = isinstance(parts.retention, Window) or _is_newest(parts.retention)
        # History was evicted if less of it is attended than by a method that keeps all.
        attended = section.values["ratio_same"] / section.values["ratio"]
        if not is_plain and attended.max() > attended[name] * DROPS:
            found.extend(_evicting(section, known, name))
    # A control of a method with two policies still has the other one; it needs no controls itself.
    controls = {pair.control for pair in found}
    return [pair for pair in found if pair.method not in controls]


def notes(section: Section, names: Collection[str]) -> list[str]:
    """Return one sentence for each control of these methods, with the difference in quality.

    One more sentence for each method that lacks controls. Methods that neither skip nor evict have
    none.
    """
    try:
        found = pairs(section)
    except UserError as error:
        return [f"controls of methods that skip passes or evict history are not known: {error}"]
    # Pairs are computed for the whole section and cached; a table shows some of its methods.
    found = [pair for pair in found if pair.method in names]
    if not found:
        return []
    # Some controls lie in sections of fewer steps.
    extended = with_fewer_steps(section)
    quantity = next((QUANTITIES[name] for name in COMPARED_BY if section.has(name)), None)
    lines = []
    missing: dict[str, list[str]] = {}
    for pair in found:
        if pair.control is None:
            missing.setdefault(pair.method, []).append(pair.kind)
            continue
        apart = quantity and between(extended, quantity.name, pair.method, pair.control)
        gap = ""
        if quantity and apart:
            places = quantity.decimals
            gap = f", {quantity.title} {number(apart.mean, places, '+z')} {quantity.unit}".rstrip()
            if apart.bounds is not None:
                gap += f" [{', '.join(number(x, places, '+z') for x in apart.bounds)}]"
        lines.append(f"{pair.method}: beside {pair.control} ({pair.kind}){gap}")
    # The reasons and commands are long, so they stay in the table of controls.
    lines += [
        f"{name}: no control by {', nor by '.join(kinds)}; python -m analysis controls says how to "
        "make it, or why none can be made"
        for name, kinds in missing.items()
    ]
    return lines


def unknown(section: Section) -> list[str]:
    """Return the methods without a readable request: their controls cannot be found."""
    return [name for name, method in section.methods.items() if method.request is None]


def _skipping(section: Section, known: Mapping[str, Parts], name: str) -> Pair:
    """Pair a method that skips passes with the uniform policy nearest in its skip ratio."""
    policy, ratio = known[name].reuse, section.methods[name].skip_ratio
    assert policy is not None
    # The payload stands in for a skipped pass, so it is part of the method and not of the policy.
    gaps = {
        other: abs(section.methods[other].skip_ratio - ratio)
        for other in commands.alike(section, name, "reuse")
        if isinstance(plain := known[other].reuse, Uniform) and plain.payload == policy.payload
    }
    pair = partial(Pair, "uniform skip", name, ratio)
    nearest = min(gaps, key=gaps.__getitem__, default=None)
    if nearest is not None and gaps[nearest] <= SKIPS:
        return pair(nearest, section.methods[nearest].skip_ratio)
    if math.isnan(ratio):
        return pair(missing="its rows have no skip ratio: repeat its run")
    # Make the command only if it can succeed: a uniform policy skips a whole number of steps.
    model = commands.model_of(section, name)
    steps = len(model.schedule.times(True))
    reached = round(ratio * steps) / steps
    if abs(reached - ratio) > SKIPS:
        said = f"of {steps} steps no whole number is within {SKIPS:g} of the ratio {ratio:.3g}"
        return pair(missing=f"none can be made: {said}")
    settings = {"ratio": f"{reached:g}"}
    # Where the method's policy may skip the last step, the control may too.
    settings |= {} if policy.protect_last else {"protect_last": "false"}
    settings |= {} if policy.payload == "residual" else {"payload": policy.payload}
    # Orders of passes that run a whole window at once refuse to skip single chunks.
    settings |= {} if policy.scope == "chunk" else {"scope": policy.scope}
    settings |= {"allow_stale_commit": "true"} if policy.allow_stale_commit else {}
    return pair(
        missing=commands.with_part(section, name, "reuse", "uniform_skip", Uniform, settings)
    )


def _shortened(section: Section, parts: Parts, name: str) -> Pair:
    """Pair a method that skips passes with the same method that skips none, on fewer steps."""
    request, model = section.methods[name].request, commands.model_of(section, name)
    assert request is not None
    steps = num_steps(request)
    if steps is None:
        return Pair(
            "fewer steps", name, math.nan,
            missing="none can be made: the model's steps are a list of times",
        )  # fmt: skip
    pair = partial(Pair, "fewer steps", name, steps)
    # Without reuse, a method that equals BF16 in all else is BF16 itself. `without` is a pattern of
    # the words to take out of the method's command, `words` are those to put in.
    if section.reference in commands.alike(section, name, "reuse"):
        without, words = r"[+~]*method[.=]", ["method=bf16"]
    else:
        without, words = r"[+~]*method\.reuse", ["method.reuse=null"]
    # Rows count what attention computed, the planner what a pass may see. So only shares of FLOPs
    # compare, and these need the run of all steps.
    whole = next(_without_reuse(section, name), None)
    if whole is None:
        again = commands.typed(section, name, without, words)
        return pair(missing=f"first make its run without reuse: {again}")
    share = section.methods[name].flops / section.methods[whole].flops
    if math.isnan(share):
        return pair(missing=f"rows without FLOPs: repeat the runs of {name} and {whole}")
    suite, plain = request.suite, replace(parts, reuse=None)
    wanted = steps_of_cost(model, plain, suite.num_frames, share, suite.recached)
    if wanted is None:
        return pair(missing="none can be made: no other number of steps fits the order of passes")
    wide = with_fewer_steps(section)
    # In the wide section, whose runs on fewer steps differ from the method in model settings only.
    for other in _without_reuse(wide, name):
        theirs = wide.methods[other].request
        if theirs and num_steps(theirs) == wanted:
            return pair(other, wanted)
    words.append(f"model.schedule.num_steps={wanted}")
    return pair(missing=f"make it with {commands.typed(section, name, without, words)}")


def _without_reuse(section: Section, name: str) -> Iterator[str]:
    """Yield the runs that equal a method apart from reuse, and skip no pass."""
    for other in commands.alike(section, name, "reuse"):
        request = section.methods[other].request
        if request and request.method.get("reuse") is None:
            yield other


def _evicting(section: Section, known: Mapping[str, Parts], name: str) -> Iterator[Pair]:
    """Pair a method that evicts with the windows nearest in bytes, without and with a sink."""
    # Bytes at the end of the video, scales and positions included: what a policy really costs.
    held = cell(section.values, name, "kv_gib")
    # Exact keys are the same numbers, wherever they get their positions.
    moot = ("keys",) if isinstance(known[name].key, Exact) else ()
    own = known[name].retention
    cuts_late = isinstance(own, Scored) and own.trigger == "new_chunk"
    # Tiers belong to a retention policy, and a plain window has none, so they may differ too.
    windows: dict[str, Window | Scored] = {}
    for other in commands.alike(section, name, "retention", "tiers", *moot):
        policy = known[other].retention
        fits = _is_newest(policy, own) if cuts_late else isinstance(policy, Window)
        if fits and isinstance(policy, Window | Scored):
            windows[other] = policy
    gaps = {other: abs(cell(section.values, other, "kv_gib") / held - 1) for other in windows}
    kinds: tuple[tuple[Kind, bool], ...] = (
        ("first in, first out", False),
        ("sink and window", True),
    )
    for kind, has_sink in kinds:
        # One pair per kind: a method may beat a window without a sink and lose to one with it.
        pair = partial(Pair, kind, name, held)
        of_kind = [other for other, window in windows.items() if (window.sink > 0) == has_sink]
        nearest = min(of_kind, key=gaps.__getitem__, default=None)
        # The tokens of a control that cuts late are as many; only the kept queries may be fewer.
        if nearest is not None and (cuts_late or gaps[nearest] <= commands.BYTES):
            yield pair(nearest, cell(section.values, nearest, "kv_gib"))
        else:
            make = commands.newest if cuts_late else commands.window
            yield pair(missing=make(section, known[name], name, has_sink))


def _is_newest(policy: Retention, like: Retention | None = None) -> bool:
    """Whether a policy keeps the newest tokens, and cuts as another one does."""
    if not isinstance(policy, Scored) or not isinstance(policy.scorer, Newest):
        return False
    if not isinstance(like, Scored):
        return True
    return (policy.trigger, policy.budget) == (like.trigger, like.budget)
