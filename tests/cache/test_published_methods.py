"""The 33 files of conf/method/published: what they promise, and that each runs as it did."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.api import Method
from harness.cache.attention.auto import Auto
from harness.cache.integration import Packed
from harness.cache.published import Published
from harness.planning import study_peaks as plan
from harness.results import all_runs
from harness.sampling.noise import SeededNoise
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from tests.support.generation import make_all
from tests.support.geometry import (
    BF16,
    CONF,
    CPU,
    GRID,
    NullObserver,
    configured,
    generate,
    live_bytes,
    network,
    published_names,
    spec,
    text,
)
from tests.support.runs import run

NAMES = published_names()
SMALL = ("model.latent_size=[8,8]",)
REUSE = importlib.util.find_spec("methods.reuse.drift") is not None


def built(name: str, *words: str) -> tuple[Method, Any]:
    config = configured(f"method={name}", *words)
    return instantiate(config["method"]), instantiate(config["integration"])


def video(name: str, num_frames: int = 12, **changes: Any) -> tuple[torch.Tensor, Any]:
    """Through the integration that the method's own file chooses."""
    method, integration = built(name)
    shape, net = spec(**changes), network(torch.bfloat16)
    method.check(shape)
    integration.check(shape, method)
    backend = integration.resolve(Auto(), shape, method, CPU)
    session = integration.session(shape, method, backend, num_frames, CPU)
    noise = SeededNoise(0, (num_frames, 4, 2 * GRID[0], 2 * GRID[1]))
    sampler = Sampler(net, Schedule(), shape.chunk_frames)
    chunks = sampler.sample(session, text(net), noise, num_frames, NullObserver())
    return torch.cat(list(chunks), dim=1), session


@cache
def exact_video(window: int | None) -> torch.Tensor:
    return generate(BF16, net=network(torch.bfloat16), window=window)[0]


def test_there_is_one_for_each_row_of_the_study() -> None:
    rows = {f"published/{name.lower()}" for name in plan.catalogue().methods}
    assert set(NAMES) == rows and len(rows) == 33


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is_and_how_it_was_built_in(name: str) -> None:
    method, integration = built(name)
    row = name.removeprefix("published/").upper()
    assert method.source == f"arXiv 2603.27469, row {row}"
    assert row.startswith(method.family.upper())
    assert isinstance(integration, Published)
    first = (CONF / "method" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# Study row {row}: ")
    tree = plan.catalogue().methods[row].tree
    program = {"s1": ("int16", False), "s2": ("int8", True), "v": ("int8", False)}[tree]
    assert (integration.codes, integration.beside) == program


def test_the_command_line_chooses_another_integration() -> None:
    method, integration = built("published/kivi_int4", "integration=packed")
    assert isinstance(integration, Packed)
    latents, _ = generate(method, num_frames=9)
    assert latents.isfinite().all()


@pytest.mark.parametrize("name", ["published/qaq_int4", "published/tptq_int2"])
def test_outliers_of_any_number_are_refused_where_pages_have_one_size(name: str) -> None:
    with pytest.raises(ValueError, match="choose integration=published_int8"):
        generate(built(name, "integration=packed")[0], num_frames=9)


def one_of_each_integration() -> list[Any]:
    """Mark as slow all files but the first that chooses each integration, and those that skip."""
    first: dict[str, str] = {}
    for name in NAMES:
        text = (CONF / "method" / f"{name}.yaml").read_text()
        if chosen := re.search(r"override /integration\S+: (\w+)", text):
            first.setdefault(chosen[1], name)
    quick = {*first.values(), "published/flowcache_native"}
    return [pytest.param(x, marks=[pytest.mark.slow] * (x not in quick)) for x in NAMES]


@pytest.mark.parametrize(
    ("name", "window"),
    [
        *((name, None) for name in NAMES),
        *(pytest.param(*each.values, 6, marks=each.marks) for each in one_of_each_integration()),
    ],
)
def test_runs_and_is_counted_to_the_byte(name: str, window: int | None) -> None:
    """Four chunks; the first is exact, since a chunk attends to itself before it is stored."""
    latents, session = video(name, window=window)
    exact = exact_video(window)
    assert latents.isfinite().all()
    assert torch.equal(latents[:, :3], exact[:, :3])
    lossless = name in ("published/bf16", "published/flowcache_native")
    lossless |= window is not None and "recent2" in name  # it reaches only what is still exact
    assert torch.equal(latents, exact) == lossless
    assert session.stored_bytes == live_bytes(session)


def test_the_newest_two_chunks_are_exact() -> None:
    """RECENT2: the third chunk still meets the first two as they were."""
    latents, _ = video("published/rtn_int4_recent2")
    exact = exact_video(None)
    assert torch.equal(latents[:, :6], exact[:, :6])
    assert not torch.equal(latents[:, 9:], exact[:, 9:])


@pytest.mark.parametrize("name", one_of_each_integration())
def test_generates_through_the_whole_program(name: str, tmp_path: Path) -> None:
    this = run(tmp_path, *SMALL, f"method={name}")
    if this.method.get("reuse") and not REUSE:
        pytest.skip("methods.reuse.drift is not there")
    this = replace(this, suite=replace(this.suite, prompts=this.suite.prompts[:1]))
    this.make_folders()
    make_all(this)
    (row,) = all_runs.load_run(this.folder).to_dict("records")
    assert row["integration"] == "published" and row["attention_backend"] == "published dense"
    assert row["failure"] != row["failure"] or row["failure"] is None
