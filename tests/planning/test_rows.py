"""The rows that earlier plans noted: the same as computed ones, and never stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.models.preset import VideoModel
from harness.planning import forecast as forecasts
from harness.planning import model_needs, request
from harness.planning.model_needs import Decoding
from harness.planning.rows import Plan, planned
from harness.system import notes
from harness.system.errors import UserError
from tests.support.commands import within
from tests.support.runs import without

WORDS = ("model=small", "suite.frames=6", "card=h200")


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were computed so far, with notes in a folder of the test's own."""
    monkeypatch.setattr(notes, "FOLDER", tmp_path / "notes")
    names: list[str] = []
    true = forecasts.forecast

    def counting(name: str, *rest: object) -> object:
        names.append(name)
        return true(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(forecasts, "forecast", counting)
    return names


def plan_of(*words: str, folder: Path | None = None) -> Plan:
    options, others = request.split([*WORDS, *words])
    return planned(request.request(options, others, str(folder) if folder else None))


def test_a_noted_plan_is_the_computed_one(computed: list[str]) -> None:
    words = ("plan", *WORDS, "method=softprune_int4,snapkv_bf16,bf16")
    first = [within(*words).stdout, within(*words, "--format", "json").stdout]
    assert computed == ["softprune_int4", "snapkv_bf16", "bf16"]
    assert [within(*words).stdout, within(*words, "--format", "json").stdout] == first
    assert len(computed) == 3
    # Rows are noted one by one, whatever stands beside them.
    assert plan_of("method=bf16,rtn_int4").rows[0] == plan_of("method=softprune_int4,bf16").rows[1]
    assert computed[3:] == ["rtn_int4"]


@pytest.mark.parametrize(
    "word",
    ["model.window=6", "suite.frames=9", "method.key.bits=8", "attention=portable", "memory_gib=8",
     "card=h100", "model.dtype=float32"],
)  # fmt: skip
def test_every_setting_asks_another_question(word: str, computed: list[str]) -> None:
    plan_of("method=rtn_int4")
    plan_of("method=rtn_int4", word)
    assert len(computed) == 2


def test_another_version_of_the_code_counts_again(
    computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of("method=bf16")
    monkeypatch.setattr(notes, "code_version", lambda: "another")
    plan_of("method=bf16")
    assert len(computed) == 2


def test_code_of_the_users_is_never_noted(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "third.py").write_text(
        "from methods.quantizers.rtn import RTN\n\nclass Third(RTN):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "method").mkdir()
    for name, key in (("mine", "_target_: third.Third"), ("eight", "bits: 8")):
        text = f"# {name}\ndefaults: [rtn_int4, _self_]\nkey: {{{key}}}\n"
        (tmp_path / "method" / f"{name}.yaml").write_text(text)
    for _ in range(2):
        plan_of("method=mine,eight", folder=tmp_path)
    assert computed == ["mine", "eight", "mine"]


def test_an_unknown_size_is_asked_for_again(
    computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(model: VideoModel) -> Decoding:
        raise UserError("the decoder needs packages that are not here")

    with monkeypatch.context() as here:
        here.setattr(model_needs, "decoding", missing)
        assert plan_of("method=bf16").rows[0].best_peak_bytes is None
    assert plan_of("method=bf16").rows[0].best_peak_bytes is not None
    assert len(computed) == 2


def test_a_method_that_all_leave_out_is_an_error_by_name(computed: list[str]) -> None:
    words = ["model=skyreels_tiny", "suite.frames=10", "method=bf16,teacache_magi"]
    options, others = request.split(words)
    named = request.request(options, others, None)
    first = planned(replace(named, is_all=True))
    assert [row.method for row in first.rows] == ["bf16"]
    assert planned(replace(named, is_all=True)) == first
    with pytest.raises(ValueError) as caught:
        planned(named)
    assert first.refused == [f"teacache_magi is left out: {caught.value}"]
    assert computed == ["bf16"]
    options, others = request.split(["model=skyreels_tiny", "method=teacache_magi"])
    alone = replace(request.request(options, others, None), is_all=True)
    with pytest.raises(UserError, match="for model=skyreels_tiny: teacache_magi is left"):
        planned(alone)


def test_a_noted_plan_imports_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(notes, "FOLDER", tmp_path / "video-kv-bench" / "notes")
    assert within("plan", *WORDS, "method=bf16").returncode == 0
    code = f"from harness.commands import plan\nassert plan.main({[*WORDS, 'method=bf16']}) == 0"
    assert "bf16" in without({"torch"}, code)
