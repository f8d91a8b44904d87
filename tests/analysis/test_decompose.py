"""Factors of published speed-ups: counted at the papers' sizes, and found among runs."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.__main__ import main
from analysis.decomposition.chains import PETA, REST, Chain, chain, chains, factors, flops
from analysis.decomposition.measured import measured
from analysis.section import Method, Section, Setting
from analysis.statistics import ratio
from analysis.verbs.decompose import tables
from harness.system.errors import UserError
from tests.support.geometry import CONF
from tests.support.runs import run

TINY = {"skyreels_v2": "skyreels_tiny", "magi_4.5b_distill": "magi_tiny"}


@pytest.mark.parametrize("name", chains())
def test_the_planner_counts_the_published_total_of_vanilla(name: str) -> None:
    of = chain(name)
    counted = flops(of, of.links[0], charged=True) / PETA
    assert counted == pytest.approx(of.printed("vanilla", "pflops").value, rel=5e-3)


@pytest.mark.parametrize("name", chains())
def test_factors_multiply_to_the_printed_speedup_and_shares_add_up(name: str) -> None:
    of = chain(name)
    found = factors(of)
    assert [each.part for each in found] == [*(link.part for link in of.links), REST]
    speedup = of.printed(of.row, "speedup").value
    assert math.prod(each.factor for each in found) == pytest.approx(speedup)
    assert sum(each.share for each in found) == pytest.approx(1)


def test_what_the_headlines_are_due_to() -> None:
    """Numbers of the decomposition that the specification derives by hand."""
    magi = {each.part: each.factor for each in factors(chain("magi_fast"))}
    assert magi["guidance pass"] == pytest.approx(1.09, abs=0.005)
    assert magi["bounded history"] == pytest.approx(1.54, abs=0.005)
    assert magi["compression"] == pytest.approx(1.0, abs=1e-6), "as many tokens as a window"
    assert magi["reuse"] == pytest.approx(1.30, abs=0.005)
    sky = {each.part: each.factor for each in factors(chain("skyreels_fast"))}
    assert sky["execution model"] == pytest.approx(2.08, abs=0.01)
    assert sky["reuse"] == pytest.approx(2.84, abs=0.01)


@pytest.mark.parametrize("name", chains())
def test_an_experiment_makes_the_run_of_every_link(name: str) -> None:
    of = chain(name)
    file = CONF / "experiment" / f"flowcache_{name.partition('_')[0]}.yaml"
    jobs = [
        set(shlex.split(job))
        for job in yaml.safe_load(file.read_text())["hydra"]["sweeper"]["jobs"]
    ]
    assert all(set(link.words) in jobs for link in of.links if link.words)


def section(
    tmp_path: Path, of: Chain, words: list[str], seconds: list[float], **model: Any
) -> Section:
    """A section of one run with these settings, as results have them."""
    tiny = TINY[of.model]
    request = run(tmp_path, f"model={tiny}", *words, model_name=tiny, method_name=words[0])
    request = replace(request, model={**request.model, **model})
    name = " ".join(words)
    method = Method(
        name, "", "x", len(seconds), build="packed", folder=request.folder, request=request,
        flops=1e12,
    )  # fmt: skip
    index = pd.MultiIndex.from_product(
        [[name], range(len(seconds)), [0]], names=["method", "prompt_index", "sample"]
    )
    videos = pd.DataFrame({"runtime_s": seconds}, index=index)
    values = pd.DataFrame({"runtime_s": [videos["runtime_s"].mean()]}, index=[name])
    setting = Setting(tiny, "bundled", ["cpu"])
    return Section(
        "moviegen, tiny, full history", "mine", False, {name: method}, values, videos, name, setting
    )


@pytest.mark.parametrize("name", ["skyreels_fast", "magi_fast"])
def test_runs_belong_to_links_by_their_settings(name: str, tmp_path: Path) -> None:
    of = chain(name)
    links = [link for link in of.links if link.words]
    made = [
        section(tmp_path, of, list(link.words), [8.0 / 2**i] * 4) for i, link in enumerate(links)
    ]
    (found,) = measured(of, made)
    assert [each.link.part for each in found.found] == [link.part for link in links]
    assert found.missing == []
    ratios = [each.factor for each in found.found]
    assert ratios[0] is None
    assert all(each is not None and each.mean == pytest.approx(2) for each in ratios[1:])
    # Another method than the link's, and a network of another size, are no run of it.
    of_model = [word for word in links[-1].words if word.startswith("model.")]
    other = section(tmp_path, of, ["method=rtn_int4", *of_model], [1.0] * 4)
    wide = section(tmp_path, of, list(links[-1].words), [1.0] * 4, latent_size=[16, 16])
    (without,) = measured(of, [*made[:-1], other, wide])
    assert [link.part for link in without.missing] == ["reuse"]
    _, grid = tables(of, [*made[:-1], other, wide])
    assert any(note.startswith("no run of reuse: its settings are method=") for note in grid.notes)


def test_a_ratio_has_the_prompts_that_both_runs_have() -> None:
    found = ratio(pd.Series({0: 2.0, 1: 8.0, 2: 1.0}), pd.Series({0: 1.0, 1: 2.0, 5: 1.0}))
    assert found is not None and found.n == 2
    assert found.mean == pytest.approx(math.sqrt(2 * 4))
    assert found.bounds is None, "two prompts are too few for an interval"
    assert ratio(pd.Series({0: 1.0}), pd.Series({1: 1.0})) is None


def test_the_verb_needs_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "factors.svg"
    words = [
        "decompose",
        str(tmp_path),
        "--chain",
        "magi_fast",
        "--format",
        "md",
        "--figure",
        str(picture),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| bounded history | 181.6 | 1.54 | 50 % |" in said
    assert "no runs of ours" in said
    assert "2.38x" in picture.read_text()


def test_an_unknown_chain_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="did you mean magi_fast"):
        chain("magi_fsat")
