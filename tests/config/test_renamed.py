from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import get_class

from harness.config import renamed
from harness.config.compose import configured
from harness.config.renamed import TARGETS, with_new_names


@pytest.fixture(autouse=True)
def _unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_warned", set())


@pytest.mark.parametrize("old", TARGETS)
def test_an_old_target_leads_to_a_class(old: str) -> None:
    found = with_new_names({"part": {"_target_": old}})["part"]["_target_"]
    assert found != old
    assert isinstance(get_class(found), type)


def test_old_names_are_found_at_any_depth_and_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = {"_target_": "harness.metrics.psnr.Psnr", "of": [{"keys": "unroped"}, 3, None]}
    new = with_new_names({"a": old, "b": [old, {"c": old}]})
    own = {
        "_target_": "harness.scoring.metrics.psnr.Psnr",
        "of": [{"keys": "pre_rope"}, 3, None],
    }
    assert new == {"a": own, "b": [own, {"c": own}]}
    told = capsys.readouterr().err.splitlines()
    assert sorted(told) == [
        "warning: _target_: harness.metrics.psnr.Psnr is an old name: write "
        "_target_: harness.scoring.metrics.psnr.Psnr",
        "warning: keys: unroped is an old name: write keys: pre_rope",
    ]


@pytest.mark.parametrize("value", ["model", "roped", "pre_rope"])
def test_new_names_stay_and_nothing_is_said(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"_target_": "harness.models.VideoModel", "keys": value, "other": "unroped"}
    assert with_new_names(config) == config
    assert capsys.readouterr().err == ""


def test_a_users_file_with_old_names_is_the_same_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "method").mkdir()
    for name, keys in (("old", "unroped"), ("new", "pre_rope")):
        text = f"defaults: [bf16, _self_]\nkeys: {keys}\n"
        (tmp_path / "method" / f"{name}.yaml").write_text(text)
    old, new = (configured(f"method={name}", folder=tmp_path) for name in ("old", "new"))
    assert old["method"] == new["method"]
    assert "keys: unroped is an old name: write keys: pre_rope" in capsys.readouterr().err
