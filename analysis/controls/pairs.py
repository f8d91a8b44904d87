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
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

from analysis.controls.fewer_steps import num_steps, steps_of_cost, with_fewer_steps
from analysis.numbers import number
from analysis.section import Section, cell
from analysis.statistics import KEPT, between
from harness.api import Exact, Retention
from harness.api import Method as Parts
from harness.cache.session import sized
from harness.cache.stored_bytes import frame_bytes
from harness.config import stored
from harness.models.preset import DTYPES, VideoModel
from harness.results.quantities import QUANTITIES
from harness.results.run import WORDS, Run
from harness.system.errors import UserError
from harness.system.units import GIB
from methods.retention.tokens.budgeted import Budgeted
from methods.retention.tokens.newest import Newest
from methods.retention.tokens.scored import Scored
from methods.retention.window import Window
from methods.reuse.uniform import Uniform

Kind = Literal["uniform skip", "fewer steps", "first in, first out", "sink and window"]

SKIPS = 0.02  # a control's realised skip ratio may differ by this
BYTES = 0.02  # and its bytes by this share
DROPS = 1.01  # a method evicts if another one attends to more of the history by this factor
COMPARED_BY = ("psnr_db", "ssim", "lpips", "imaging")  # a note shows the first that was measured
SINK = 3  # frames of the sink in a control that is still to be made, as in sink_window_bf16.yaml


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
        for other in _alike(section, name, "reuse")
        if isinstance(plain := known[other].reuse, Uniform) and plain.payload == policy.payload
    }
    pair = partial(Pair, "uniform skip", name, ratio)
    nearest = min(gaps, key=gaps.__getitem__, default=None)
    if nearest is not None and gaps[nearest] <= SKIPS:
        return pair(nearest, section.methods[nearest].skip_ratio)
    if math.isnan(ratio):
        return pair(missing="its rows have no skip ratio: repeat its run")
    # Make the command only if it can succeed: a uniform policy skips a whole number of steps.
    model = _model(section, name)
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
    return pair(missing=_command(section, name, "reuse", "uniform_skip", Uniform, settings))


def _shortened(section: Section, parts: Parts, name: str) -> Pair:
    """Pair a method that skips passes with the same method that skips none, on fewer steps."""
    request, model = section.methods[name].request, _model(section, name)
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
    if section.reference in _alike(section, name, "reuse"):
        without, words = r"[+~]*method[.=]", ["method=bf16"]
    else:
        without, words = r"[+~]*method\.reuse", ["method.reuse=null"]
    # Rows count what attention computed, the planner what a pass may see. So only shares of FLOPs
    # compare, and these need the run of all steps.
    whole = next(_without_reuse(section, name), None)
    if whole is None:
        return pair(
            missing=f"first make its run without reuse: {_typed(section, name, without, words)}"
        )
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
    return pair(missing=f"make it with {_typed(section, name, without, words)}")


def _without_reuse(section: Section, name: str) -> Iterator[str]:
    """Yield the runs that equal a method apart from reuse, and skip no pass."""
    for other in _alike(section, name, "reuse"):
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
    for other in _alike(section, name, "retention", "tiers", *moot):
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
        if nearest is not None and (cuts_late or gaps[nearest] <= BYTES):
            yield pair(nearest, cell(section.values, nearest, "kv_gib"))
        else:
            make = _newest if cuts_late else _window
            yield pair(missing=make(section, known[name], name, has_sink))


def _alike(section: Section, name: str, *parts: str) -> list[str]:
    """Return the methods whose settings equal those of `name` except for these parts."""

    def rest(other: str) -> dict[str, object]:
        request = section.methods[other].request
        config = {} if request is None else request.method
        return {key: value for key, value in config.items() if key not in (*WORDS, *parts)}

    # Another integration stores other bytes and has other passes.
    own, build = rest(name), section.methods[name].build
    return [
        other
        for other, method in section.methods.items()
        if other != name and method.request is not None and method.num_videos
        if method.build == build and rest(other) == own
    ]


def _is_newest(policy: Retention, like: Retention | None = None) -> bool:
    """Whether a policy keeps the newest tokens, and cuts as another one does."""
    if not isinstance(policy, Scored) or not isinstance(policy.scorer, Newest):
        return False
    if not isinstance(like, Scored):
        return True
    return (policy.trigger, policy.budget) == (like.trigger, like.budget)


def _newest(section: Section, parts: Parts, name: str, has_sink: bool) -> str:
    """Return the command of a method's policy with the scorer `Newest`, or why there is none."""
    policy, model = parts.retention, _model(section, name)
    assert isinstance(policy, Scored)
    # Every number of the command is the method's own, so the bytes are equal at every moment.
    request = section.methods[name].request
    assert request is not None
    whole = sized(parts, model.spec, model.loop.histories(request.suite.num_frames)[0])
    assert isinstance(whole, Scored)
    # A command that the method's own checks would refuse is worse than the reason.
    if has_sink and whole.num_frames < SINK + model.chunk_frames:
        return (
            f"none can be made: {policy.budget} hold no sink of {SINK} frames beside a chunk of "
            f"{model.chunk_frames}"
        )
    settings = {
        "budget": policy.budget,
        "trigger": policy.trigger,
        "sink": str(SINK * has_sink),
        "scorer": f"{{_target_:{Newest.__module__}.{Newest.__name__}}}",
    }
    return _command(section, name, "retention", "", Scored, settings)


def _window(section: Section, parts: Parts, name: str, has_sink: bool) -> str:
    """Return the command of a window with the bytes of a method, or why there is none."""
    model, held = _model(section, name), cell(section.values, name, "kv_gib")
    # The method's own quantizers, so that the window differs only in what it keeps.
    plain = replace(parts, retention=Window(), tiers={})
    dtype = DTYPES[model.dtype]
    frame = model.num_histories * frame_bytes(plain, model.spec, dtype) / GIB
    # A window holds whole frames, at least the newest chunk and one frame of a sink.
    num_frames = round(held / frame)
    least = model.chunk_frames + has_sink
    if num_frames < least:
        return f"none can be made: a window holds {least} frames at least, and these bytes are less"
    # Whole frames are close enough for this method. The rest is for those between two windows.
    if abs(num_frames * frame / held - 1) <= BYTES:
        sink = min(SINK, num_frames - model.chunk_frames) if has_sink else 0
        settings = {"budget": f"{num_frames} frames"}
        # The file of sink + window has this sink.
        settings |= {} if sink == SINK * has_sink else {"sink": str(sink)}
        file = "sink_window_bf16" if has_sink else "window_bf16"
        return _command(section, name, "retention", file, Window, settings, sink=str(sink))
    share = f"a window of {num_frames} frames has {num_frames * frame / held:.3f} of its bytes"
    if not isinstance(parts.retention, Budgeted):
        return f"none can be made within {BYTES:.0%}: {share}"
    # Single tokens fill the bytes of a window of whole frames.
    request = section.methods[name].request
    assert request is not None
    policy = sized(parts, model.spec, model.loop.histories(request.suite.num_frames)[0])
    assert isinstance(policy, Budgeted)
    # `ratio_same` is the BF16 bytes of the tokens held over the bytes held.
    per_token = model.num_histories * model.spec.bf16_frame_bytes / model.spec.tokens_per_frame
    num_tokens = cell(section.values, name, "ratio_same") * held * GIB / per_token
    budgets = {
        count: int(policy.limit + num_tokens * (count * frame / held - 1))
        # The method's budget is in tokens and the window's in frames: the method moves to the
        # window.
        for count in (num_frames, num_frames + 1)
    }
    # The smaller window first, unless the method could not hold a chunk at its size.
    least = model.chunk_frames * model.spec.tokens_per_frame
    count = next(count for count, budget in budgets.items() if budget >= least)
    words = [f"method.retention.budget={budgets[count]} tokens"]
    again = _typed(section, name, r"method\.retention\.budget=", words)
    return f"{share}: make the method as large as one of {count} frames with {again}"


def _command(
    section: Section,
    name: str,
    part: str,
    file: str,
    target: type,
    settings: Mapping[str, str],
    **more: str,
) -> str:
    """Return the command of a method's control.

    part: `reuse` or `retention`, the part that the control replaces.
    file: method whose file holds the control, for methods that equal BF16 in all other parts; ""
        if no file does.
    settings: of the control, as changes to that file. more: those that the file holds.
    """
    # The method is BF16 in all but this part, so a short name does and the command stays readable.
    if file and section.reference in _alike(section, name, part, "tiers", "keys"):
        changes = [f"method.{part}.{key}={value}" for key, value in settings.items()]
        words = [f"method={file}", *changes]
        return f"make it with {_typed(section, name, r'[+~]*method[.=]', words)}"
    # The other parts come from the method's own file; the new part has none of the old one's keys.
    whole = {"_target_": f"{target.__module__}.{target.__name__}", **more, **settings}
    inside = ",".join(f"{key}:{value}" for key, value in whole.items())
    words = [f"~method.{part}", f"+method.{part}={{{inside}}}"]
    return f"make it with {_typed(section, name, f'[+~]*method.{part}[.=]', words)}"


def _typed(section: Section, name: str, without: str, words: Sequence[str]) -> str:
    """Return a method's command with more words, and without those that begin with a pattern."""
    kept = [
        word for word in shlex.split(section.methods[name].command) if not re.match(without, word)
    ]
    # Commands that we print have the method before the suite.
    place = next((i for i, word in enumerate(kept) if word.startswith("suite=")), len(kept))
    return f"`{shlex.join([*kept[:place], *words, *kept[place:]])}`"


def _model(section: Section, name: str) -> VideoModel:
    """Build the model of a run, without weights."""
    request: Run | None = section.methods[name].request
    assert request is not None
    model = stored.build(request.model, str(section.methods[name].folder))
    assert isinstance(model, VideoModel)
    return model
