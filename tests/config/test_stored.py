"""What a results folder names is data: only classes of ours and of the user's own are built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from harness.config import stored
from harness.config.compose import composing, method_files
from harness.system.errors import UserError
from harness.system.paths import CONF

HOSTILE = [
    "os.system",
    "os.popen",
    "posix.system",
    "psutil.Popen",
    "subprocess.Popen",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "importlib.import_module",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "numpy.load",
    "pathlib.Path",
    "runpy.run_path",
    "code.interact",
    "shutil.rmtree",
    "webbrowser.open",
    "urllib.request.urlopen",
    "functools.partial",
    "operator.methodcaller",
    "hydra.utils.get_method",
    "hydra.utils.get_class",
    "hydra.utils.get_object",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "omegaconf.OmegaConf.load",
    "harness.runs.child.subprocess.Popen",
    "harness.runs.lease.os.system",
    "harness.results.run.shutil.rmtree",
    "harness.api.method.dataclass",
    "harness.models.checkpoints.load.torch.load",
    "harness.models.text.folder_encoder.Path",
    "harness.system.files.write_json",
    "harness.system.files.os.system",
    "harness.runs.worker.main",
    "harness.runs.child._Child",
    "harness.results.wandb_mirror.mirror",
    "harness.results.observations.Rows",
    "harness.scoring.vbench.client.subprocess.run",
    "harness.downloads.download.download",
    "harness.api",
    "harness",
    "methods",
    "methods.quantizers.rtn",
    "methods.quantizers.rtn.torch.load",
    "methods.quantizers.rtn.RTN.encode",
    "methods.quantizers.rtn.RTN.__init__",
    "methods.quantizers.nowhere.Nothing",
    "harness.api.Method.__class__",
    "harness..api.Method",
    "harness.api.Method\n",
    " harness.api.Method",
    "harness/api.Method",
    "harness.results.summary_table.print_section",
    "tests.support.metrics.Grey",
    "antigravity.x",
    "__main__.main",
    "",
    ".",
    "system",
    7,
    None,
    True,
    ["os.system"],
    {"_target_": "os.system"},
    "${oc.env:HOME}",
]
GOOD = {"_target_": "methods.quantizers.rtn.RTN", "bits": 4, "group": 16}


def places(target: Any) -> list[Any]:
    """Settings that name a target in every place where Hydra would look."""
    hostile = {"_target_": target, "_args_": ["touch it"]}
    return [
        hostile,
        {**GOOD, "bits": hostile},
        {**GOOD, "deep": {"deeper": [1, {"x": [hostile]}]}},
        {**GOOD, "_args_": [hostile]},
        {**GOOD, "_partial_": True, "x": {**hostile, "_partial_": True}},
        {**GOOD, "x": {**hostile, "_recursive_": False}},
        [GOOD, hostile],
    ]


@pytest.mark.parametrize("target", HOSTILE, ids=repr)
def test_what_is_not_ours_is_refused_by_name_and_not_imported(target: Any) -> None:
    with patch("hydra.utils.instantiate") as called:
        before = set(sys.modules)
        for settings in places(target):
            with pytest.raises(UserError) as refused:
                stored.build(settings, "results/request.json")
            assert repr(target) in str(refused.value) and "request.json" in str(refused.value)
    called.assert_not_called()
    outer = target.partition(".")[0] if isinstance(target, str) else ""
    assert outer in ("harness", "methods") or outer not in set(sys.modules) - before


def test_a_class_of_an_earlier_version_has_a_sentence_of_its_own() -> None:
    with pytest.raises(UserError, match="does not have: it was made by an earlier one"):
        stored.check({"_target_": "harness.small_model.WorldText"}, "results/request.json")


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HOME}", "${oc.decode:'1'}", "a ${x} b", "${now:%Y}", "${..bits}", "$${x}", "${"],
)
def test_what_would_be_looked_up_is_refused(value: str) -> None:
    for settings in ({**GOOD, "bits": value}, {**GOOD, "x": [{"y": value}]}, {**GOOD, value: 1}):
        with pytest.raises(UserError, match="stored settings are values"):
            stored.check(settings, "results")


def test_everything_that_ships_is_built() -> None:
    with composing(None) as composer:
        for name in [*method_files(None)][::7]:
            config = composer.resolved([f"method={name}"])
            for group in ("method", "model", "attention", "integration"):
                stored.check(config[group], "results")
        presets = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
        models = [composer.resolved([f"model={name}"])["model"] for name in presets]
        cut = composer.resolved(["model=skyreels_tiny", "method=flowcache_cut"])["method"]
        published = composer.resolved(["integration=published", "model=self_forcing"])
    for settings in (*models, cut, published["model"], published["integration"]):
        stored.check(settings, "results")
    assert stored.build(published["integration"], "results").name == "published"


def test_a_folder_that_the_user_names_is_trusted_and_what_lies_deeper_in_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "mypackage").mkdir(parents=True)
    (own / ".venv").mkdir()
    text = "from pathlib import Path\nclass Mine:\n    x = 1\ndef make(): return 1\n"
    for path in (own / "mymodule.py", own / "mypackage" / "part.py", own / ".venv" / "foreign.py"):
        path.write_text(text)
    (own / "mypackage" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(own / ".venv"))
    monkeypatch.syspath_prepend(str(own))
    assert stored.build({"_target_": "mymodule.Mine"}, "results", own).x == 1
    assert stored.find_class("mypackage.part.Mine", "results", own).__name__ == "Mine"
    refused = ["foreign.Mine", "mymodule.make", "mymodule.Path", "os.system", "mypackage.part"]
    for target in refused:
        with pytest.raises(UserError, match="not built from stored settings"):
            stored.find_class(target, "results", own)
    with pytest.raises(UserError, match="--config-dir"):
        stored.find_class("mymodule.Mine", "results")
    monkeypatch.chdir(own)  # what is built in says "built-in", which is no file of this folder
    for target in ("sys.exit", "builtins.type", "posix.DirEntry", "_io.FileIO"):
        with pytest.raises(UserError):
            stored.find_class(target, "results", own)
