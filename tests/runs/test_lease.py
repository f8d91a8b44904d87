"""Leases by real processes: one GPU each, never two at once, free when a holder dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.runs import lease
from tests.conftest import ROOT
from tests.support.commands import Done

GPUS = ("GPU-aaaa", "GPU-bbbb")
# Notes what it was granted and when, in the machine's one clock of all processes.
HOLDER = """
import json, sys, time
from harness.runs.lease import leased
from harness.results.run import Execution
device, threads, hold, note = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with leased(Execution(device=device, threads=threads or None), "generate") as grant:
    begun = time.monotonic()
    print("held", flush=True)
    time.sleep(hold)
    ended = time.monotonic()
with open(note, "w") as file:
    json.dump([grant.device, grant.variables, begun, ended], file)
"""


class Machine:
    """A machine with two GPUs, as far as nvidia-smi says, and locks of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = 0
        (folder / "bin").mkdir()
        smi = folder / "bin" / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo {gpu}\n" for gpu in GPUS))
        smi.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        known = {**os.environ, "PATH": path, "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT)}
        known.pop("CUDA_VISIBLE_DEVICES", None)
        return known | more

    @contextmanager
    def holder(
        self, device: str = "auto", hold: float = 1.0, threads: int = 0, **more: str
    ) -> Iterator[Holder]:
        """A process that leases; gone at the end."""
        self.started += 1
        note = self.folder / f"note-{self.started}.json"
        words = [sys.executable, "-c", HOLDER, device, str(threads), str(hold), str(note)]
        with subprocess.Popen(
            words, env=self.environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT,
        ) as process:  # fmt: skip
            try:
                yield Holder(process, note)
            finally:
                process.kill()


class Holder:
    """A process that holds a lease for a while."""

    def __init__(self, process: subprocess.Popen[str], note: Path) -> None:
        self.process = process
        self.note = note

    def wait_until_it_holds(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def granted(self) -> tuple[str, Mapping[str, str], float, float]:
        """Device, variables, and from when to when, once it is over."""
        _, said = self.process.communicate()
        assert self.process.returncode == 0, said
        device, variables, begun, ended = json.loads(self.note.read_text())
        return device, variables, begun, ended

    @property
    def gpu(self) -> str:
        device, variables, _, _ = self.granted()
        assert device == "cuda"
        return variables["CUDA_VISIBLE_DEVICES"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_four_processes_share_two_gpus_and_never_one(machine: Machine) -> None:
    with (
        machine.holder() as a, machine.holder() as b, machine.holder() as c, machine.holder() as d
    ):  # fmt: skip
        grants = [each.granted() for each in (a, b, c, d)]
    assert {variables["CUDA_VISIBLE_DEVICES"] for _, variables, _, _ in grants} == set(GPUS)
    for gpu in GPUS:
        spans = sorted(
            (begun, ended)
            for _, variables, begun, ended in grants
            if variables["CUDA_VISIBLE_DEVICES"] == gpu
        )
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("named", "gpu"), [("1", GPUS[1]), (GPUS[1], GPUS[1]), ("0,-1,1", GPUS[0])]
)
def test_a_scheduler_says_which_gpu(machine: Machine, named: str, gpu: str) -> None:
    with machine.holder(hold=0, CUDA_VISIBLE_DEVICES=named) as holder:
        assert holder.gpu == gpu


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, list(GPUS)), ("0", [GPUS[0]]), (" 1 , 0 ", [GPUS[1], GPUS[0]]), ("2", []),
        ("0,7,1", [GPUS[0]]), ("", []), ("-1", []), ("none", []), ("NoDevFiles", []), (",0", []),
        ("GPU-a", ["GPU-a"]), ("GPU-cccc", []), ("MIG-1", ["MIG-1"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("installed", [GPUS, ()])
def test_names_of_gpus_that_are_not_there_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch, named: str | None, expected: list[str], installed: Any
) -> None:
    """Schedulers and containers set CUDA_VISIBLE_DEVICES on machines without a GPU too."""
    monkeypatch.setattr(lease, "_installed_gpus", lambda: list(installed))
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert lease.visible_gpus.__wrapped__() == (expected if installed else [])


def test_two_that_may_use_one_gpu_wait_for_each_other(machine: Machine) -> None:
    """One names it by its place, the other, as Slurm may, by its id."""
    with (
        machine.holder(CUDA_VISIBLE_DEVICES="1") as first,
        machine.holder(CUDA_VISIBLE_DEVICES=GPUS[1]) as second,
    ):
        spans = sorted(each.granted()[2:] for each in (first, second))
    assert spans[0][1] <= spans[1][0]


def test_the_second_gpu_is_leased_by_its_number(machine: Machine) -> None:
    with machine.holder("cuda:1", hold=0) as holder:
        assert holder.gpu == GPUS[1]


@pytest.mark.slow
def test_a_killed_holder_frees_its_gpu(machine: Machine) -> None:
    with machine.holder("cuda:0", hold=600) as first:
        first.wait_until_it_holds()
        with machine.holder("cuda:0", hold=0) as second:
            assert second.process.stderr is not None
            assert "waiting for 1 free GPU of 1" in second.process.stderr.readline()
            first.process.send_signal(signal.SIGKILL)
            assert second.gpu == GPUS[0]


def test_a_cpu_run_beside_gpus_takes_cores(machine: Machine) -> None:
    with machine.holder("cpu", hold=0, threads=1) as holder:
        device, variables, _, _ = holder.granted()
    assert (device, variables) == ("cpu", {"OMP_NUM_THREADS": "1"})


def test_no_gpu_is_visible_where_none_is_named(machine: Machine) -> None:
    with machine.holder(hold=0, threads=1, CUDA_VISIBLE_DEVICES="") as holder:
        assert "CUDA_VISIBLE_DEVICES" not in holder.granted()[1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.slow
def test_two_jobs_on_one_core_never_compute_at_once(tmp_path: Path) -> None:
    """Each child notes when it lives; joblib starts both jobs at the same time."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys, time\n"
        "if 'harness.runs.worker' in sys.orig_argv:\n"
        "    begun = time.monotonic()\n"
        f"    path = {str(tmp_path)!r} + f'/child-{{os.getpid()}}.txt'\n"
        "    note = lambda: open(path, 'w').write(f'{begun} {time.monotonic()}')\n"
        "    atexit.register(note)\n"
    )
    done = on_one_core(
        tmp_path, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=rtn_int4,bf16",
        "suite.frames=6", "suite.num_prompts=1", "suite.source=bundled", "run.threads=1",
        "track=disabled", f"results_dir={tmp_path / 'results'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = [path.read_text().split() for path in tmp_path.glob("child-*.txt")]
    spans = sorted((float(begun), float(ended)) for begun, ended in notes)
    assert len(spans) == 4  # two stages of two runs
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def on_one_core(folder: Path, *words: str) -> Done:
    """A command of the harness that may use one core, with locks of its own."""
    core = min(os.sched_getaffinity(0))
    paths = os.pathsep.join([str(folder), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, cwd=ROOT,
        env=env, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
