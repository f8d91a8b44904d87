"""The benches run, say what they leave out, and keep what they have; nothing here is timed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.benchmarks.attention import crossing
from harness.benchmarks.cases import FORMATS, Shape, draw_chunk, draw_history, method_of, stored
from harness.benchmarks.checks import errors, largest_new_tensor, pooled_identity
from harness.benchmarks.gpu import SMALL
from harness.benchmarks.lab import Lab, on_cpu
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import Spread, interleave, self_timed
from harness.cache.attention.portable import Portable
from harness.cache.compiled import softmax
from harness.commands.bench import BENCHES, BY_NAME, main, read
from harness.system.errors import UserError
from methods.quantizers import grouped
from tests.conftest import ROOT
from tests.support.geometry import CPU

SHAPE = Shape(2, 32, 32, 4)


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    full.pop("TRITON_INTERPRET", None)
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=full)


def only(folder: Path, pattern: str) -> dict[str, Any]:
    (path,) = folder.glob(pattern)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["attention", "--fast"], "--quick"),
        (["attention", "--out"], "--out"),
        (["attention", "--dry-run"], "gpu"),
        (["attention", "--quick", "--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_a_bad_word_is_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["gpu", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--dry-run" in error
    assert not list(tmp_path.iterdir())


def test_words() -> None:
    names, options = read(["attention", "--out", "here", "overhead", "--quick"])
    assert names == ["attention", "overhead"]
    assert options.words == ["--out", "here", "--quick"] and options.folder == Path("here")
    assert read([])[1].folder == ROOT / "docs" / "benchmarks"
    assert read(["--quick"])[1].folder == ROOT / "results" / "bench"


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from harness.commands.bench import Options
from harness.benchmarks.report import Report, Row
with Report("sample", "A sample", torch.device("cpu"), Options(Path(sys.argv[1]))) as report:
    report.add(Row("time", "a", 1.0, "s", target=2))
    report.add(Row("time", "b", None, "s", note="not here"))
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("broken")
"""


def test_a_killed_bench_leaves_its_rows(tmp_path: Path) -> None:
    done = run("-c", KILLED, str(tmp_path), "kill")
    assert done.returncode == -signal.SIGKILL
    found = only(tmp_path, "*-sample.json")
    assert [row["case"] for row in found["rows"]] == ["a", "b"]
    assert found["state"] == "running" and found["rows"][0]["met"] is True
    assert found["versions"]["torch"] == torch.__version__ and found["git"].keys() >= {"commit"}


def test_a_bench_that_breaks_ends_with_its_table(tmp_path: Path) -> None:
    done = run("-c", KILLED, str(tmp_path), "raise")
    assert "broken" in done.stderr
    (table,) = tmp_path.glob("*-sample.md")
    assert "stopped by RuntimeError: broken" in table.read_text()
    assert "| time | a | 1 s |  | at most 2 | yes |  |" in table.read_text()
    assert "python -m harness bench sample" in table.read_text()


def test_targets() -> None:
    assert Row("i", "c", 1.05, target=1.05).met is True
    assert Row("i", "c", 1.06, target=1.05).met is False
    assert Row("i", "c", 0.8, target=0.7, at_least=True).met is True
    assert Row("i", "c", None, target=0.7).met is None and Row("i", "c", 1.0).met is None


def test_rounds_are_interleaved_and_drift_cancels() -> None:
    order: list[str] = []
    now = 0.0

    def clock(action: Any, number: int) -> float:  # a machine that gets slower all the time
        nonlocal now
        now += 1
        return float(action(number)) * (1 + now / 10)

    def case(name: str, seconds: float) -> Any:
        def action(number: int) -> float:
            order.append(f"{name}{number}")
            return seconds

        return action

    times = interleave({"a": case("a", 1), "b": case("b", 2), "c": case("c", 1)}, clock, rounds=4)
    assert order[:3] == ["a0", "b0", "c0"]  # the warm-up
    assert order[3:] == ["a0", "b0", "c0", "c1", "b1", "a1", "a2", "b2", "c2", "c3", "b3", "a3"]
    assert times.ratio("c", "a").middle == pytest.approx(1, abs=0.02)
    assert times.ratio("b", "a").middle == pytest.approx(2, abs=0.05)
    assert times.fastest in "ac" and times.note == ""


def test_no_round_begins_that_the_budget_does_not_cover() -> None:
    times = interleave({"a": lambda _: 1.0}, self_timed, rounds=5, warm_up=0, deadline=-1)
    assert times.seconds == {"a": [1.0]} and "1 of 5" in times.note


def test_spread() -> None:
    assert Spread.of([3.0]) == Spread(3, 3, 3)
    assert Spread.of([4.0, 1, 2, 3, 5]) == Spread(2, 3, 4)


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    with Report("sample", "A sample", CPU, Options(tmp_path)) as report:
        lab = Lab(CPU, SMALL, report, on_cpu())
        lab.begin("3 sample", deadline=-1)
        assert list(lab.within(["a", "b"])) == []
        lab.begin("3 sample", deadline=math.inf)
        assert list(lab.within(["c"])) == ["c"]
    (row,) = report.rows
    assert row.item == "3 sample" and row.case == "a, b" and "budget" in row.note


def test_crossing() -> None:
    assert crossing({128: 0.5, 512: 1.5}) == pytest.approx(256)
    assert crossing({128: 1.5, 512: 2.5}) is None and crossing({128: 0.5}) is None
    assert crossing({}) is None


@pytest.mark.parametrize("name", FORMATS)
def test_methods_of_the_benches_store_and_attend(name: str) -> None:
    history = stored(method_of(name), *draw_history(SHAPE, CPU))
    own, dense = errors(Portable(), draw_chunk(SHAPE, 16, CPU), history)
    assert own <= 2 * dense and not math.isnan(dense)


def test_pooled_tokens_stand_for_their_copies() -> None:
    k, v = (x.float() for x in draw_history(SHAPE, CPU))
    chunk = draw_chunk(SHAPE, 16, CPU).to(torch.float32)
    assert pooled_identity(Portable(), chunk, k, v) < 1e-5


def test_no_call_rebuilds_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "TILE_VALUES", 2**12)  # as small beside the history as in earnest
    shape = Shape(8, 32, 32, 4)
    history = stored(method_of("rtn_int4"), *draw_history(shape, CPU))
    chunk = draw_chunk(shape, 16, CPU)
    assert largest_new_tensor(Portable(), chunk, history) < shape.bf16_bytes / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHES if name not in BY_NAME])
def test_every_bench_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    found = only(tmp_path, f"*-{name}-quick.json")
    assert found["state"] == "done" and len(found["rows"]) > 3
    # Every row has a value, except that of a product which this processor does not have.
    lacking = softmax.missing() if name == "attention" else None
    empty = [row["note"] for row in found["rows"] if row["value"] is None]
    assert empty == ([f"left out: {lacking}"] if lacking else [])


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("fix me"), 2), (RuntimeError("broken"), 1), (None, 0)]
)
def test_a_bench_that_fails_does_not_stop_the_others(
    error: Exception | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of all did, for as long as nobody looked."""
    ran: list[str] = []

    def bench(name: str) -> SimpleNamespace:
        def run(_: Options) -> int:
            ran.append(name.removeprefix("harness.benchmarks."))
            if error is not None and len(ran) == 1:
                raise error
            return 0

        return SimpleNamespace(run=run)

    monkeypatch.setattr("harness.commands.bench.importlib.import_module", bench)
    assert main([]) == code
    assert ran == [name for name in BENCHES if name not in BY_NAME]


@pytest.mark.slow
def test_the_gpu_bench_runs_dry(tmp_path: Path) -> None:
    """Every line but the CUDA calls, the kernels in Triton's interpreter."""
    done = run("-m", "harness", "bench", "gpu", "--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = only(tmp_path, "*-gpu-dry-run.json")
    assert found["state"] == "done"
    assert {int(row["item"].split()[0]) for row in found["rows"]} == set(range(9))
    assert not [row for row in found["rows"] if "left out" in row["note"]]
    rates = only(tmp_path, "*-calibration.json")
    assert rates.keys() == {
        "gemm_flops_per_s", "attention_flops_per_s", "copy_bytes_per_s", "device", "date"
    }  # fmt: skip
