"""Writes the commands that make missing controls, or says why a control cannot be made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.section import Section, cell
from harness.api import Method as Parts
from harness.cache.session import sized
from harness.cache.stored_bytes import frame_bytes
from harness.config import stored
from harness.models.preset import DTYPES, VideoModel
from harness.results.run import WORDS, Run
from harness.system.units import GIB
from methods.retention.tokens.budgeted import Budgeted
from methods.retention.tokens.newest import Newest
from methods.retention.tokens.scored import Scored
from methods.retention.window import Window

BYTES = 0.02  # the bytes of a control may differ from its method's by this share
SINK = 3  # frames of the sink in a control that is still to be made, as in sink_window_bf16.yaml


def window(section: Section, parts: Parts, name: str, has_sink: bool) -> str:
    """Return the command of a window with the bytes of a method, or why there is none."""
    model, held = model_of(section, name), cell(section.values, name, "kv_gib")
    # Keep the method's quantizers: the window then differs only in which frames it keeps.
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
        return with_part(section, name, "retention", file, Window, settings, sink=str(sink))
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
    again = typed(section, name, r"method\.retention\.budget=", words)
    return f"{share}: make the method as large as one of {count} frames with {again}"


def newest(section: Section, parts: Parts, name: str, has_sink: bool) -> str:
    """Return the command of a method's policy with the scorer `Newest`, or why there is none."""
    policy, model = parts.retention, model_of(section, name)
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
    return with_part(section, name, "retention", "", Scored, settings)


def with_part(
    section: Section,
    name: str,
    part: str,
    file: str,
    target: type,
    settings: Mapping[str, str],
    **more: str,
) -> str:
    """Return the command that runs a method with one part replaced by that of a control.

    part: `reuse` or `retention`, the part that the control replaces.
    file: method whose file holds the control, for methods that equal BF16 in all other parts; ""
        if no file does.
    settings: of the control, as changes to that file. more: those that the file holds.
    """
    # The method differs from BF16 in this part only, so a shipped method with a few overrides gives
    # a shorter command.
    if file and section.reference in alike(section, name, part, "tiers", "keys"):
        changes = [f"method.{part}.{key}={value}" for key, value in settings.items()]
        words = [f"method={file}", *changes]
        return f"make it with {typed(section, name, r'[+~]*method[.=]', words)}"
    # The other parts come from the method's own file; the new part has none of the old one's keys.
    whole = {"_target_": f"{target.__module__}.{target.__name__}", **more, **settings}
    inside = ",".join(f"{key}:{value}" for key, value in whole.items())
    words = [f"~method.{part}", f"+method.{part}={{{inside}}}"]
    return f"make it with {typed(section, name, f'[+~]*method.{part}[.=]', words)}"


def typed(section: Section, name: str, without: str, words: Sequence[str]) -> str:
    """Return a method's command with more words, and without those that begin with a pattern."""
    kept = [
        word for word in shlex.split(section.methods[name].command) if not re.match(without, word)
    ]
    # Commands that we print have the method before the suite.
    place = next((i for i, word in enumerate(kept) if word.startswith("suite=")), len(kept))
    return f"`{shlex.join([*kept[:place], *words, *kept[place:]])}`"


def alike(section: Section, name: str, *parts: str) -> list[str]:
    """Return the other methods that have the settings of `name`, apart from some parts."""

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


def model_of(section: Section, name: str) -> VideoModel:
    """Build the model of a run, without weights."""
    request: Run | None = section.methods[name].request
    assert request is not None
    model = stored.build(request.model, str(section.methods[name].folder))
    assert isinstance(model, VideoModel)
    return model
