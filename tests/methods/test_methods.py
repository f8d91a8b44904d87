"""The contract that every file of conf/method must meet; none of them is listed here."""

from __future__ import annotations

import json

import pytest

from harness.cache.frame_layer import FrameLayer
from harness.checks.method_contracts import (
    CONTRACTS,
    held_outside,
    nothing_is_held_outside_the_cache,
    verdicts,
)
from harness.checks.method_subject import Subject
from tests.support.geometry import (
    configured,
    generate,
    merged_method,
    method_names,
    method_of,
    network,
    published_names,
    tiered_names,
)

NAMES = [*method_names(), *published_names()]


def test_the_promised_methods_are_there() -> None:
    promised = "bf16 rtn_int8 rtn_int4 rtn_int2 kivi_int4 quarot_int4 window_bf16 sink_window_bf16"
    assert {*promised.split(), "prune_int4", "softprune_int4"} <= set(NAMES)


@pytest.mark.parametrize("name", tiered_names(NAMES))
def test_the_contract_holds(name: str) -> None:
    # The one left out looks through the whole process: below, for several methods at once.
    contracts = [each for each in CONTRACTS if each is not nothing_is_held_outside_the_cache]
    config = configured(f"method={name}")
    found = verdicts(Subject(name, config), contracts=contracts)
    broken = [f"{each.name}: {each.note}" for each in found if not each.held]
    assert not broken, "\n".join(broken)
    if name not in published_names():  # other tests read methods without Hydra
        assert merged_method(name, short_tail=False) == config["method"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_nothing_is_held_outside_the_cache(part: int) -> None:
    subjects = [Subject(name, configured(f"method={name}")) for name in NAMES[part::6]]
    if held_outside(subjects):
        for subject in subjects:  # which one is it?
            nothing_is_held_outside_the_cache(subject)
        pytest.fail(f"one of {', '.join(s.name for s in subjects)}")


def test_no_two_files_are_the_same_method() -> None:
    """A chain of defaults may quietly undo what a file inherits."""
    same: dict[str, str] = {}
    for name in NAMES:
        published = name in published_names()  # only those choose an integration, so only by Hydra
        config = configured(f"method={name}") if published else {}
        method = config.get("method") or merged_method(name, short_tail=False)
        parts = {k: v for k, v in method.items() if k not in ("family", "source")}
        key = json.dumps([parts, config.get("integration")], sort_keys=True)
        assert same.setdefault(key, name) == name


def test_more_bits_are_closer() -> None:
    net = network()
    reference, _ = generate(method_of("bf16"), net=net)
    distance = [
        (generate(method_of(name), net=net)[0] - reference).norm().item()
        for name in ("rtn_int8", "rtn_int4", "rtn_int2")
    ]
    assert distance == sorted(distance)
    assert distance[0] > 0


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("name", ["bf16", "prune_int4", "softprune_int4", "window_bf16"])
def test_storage_is_taken_once_and_hardly_more_than_used(name: str, window: int | None) -> None:
    """`most` holds: one slab a layer, of exactly that many pages, nearly all of them used."""
    _, session = generate(method_of(name), num_frames=18, window=window)
    for layer in session._layers:
        assert isinstance(layer, FrameLayer)
        (slab,) = layer.arenas["keep"].slabs
        kept = layer.policy.max_frames("keep", window or 18)
        assert slab.key.shape[2] == kept
        assert len(layer.arenas["keep"].places) + len(slab.free) == kept
        assert len(slab.free) <= 3  # rounding: the last chunk may need a page less
