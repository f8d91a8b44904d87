"""A sweep gives the same rows whatever launches its jobs, and one job's end is only its own."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.commands.run import CONF
from tests.conftest import ROOT
from tests.support.commands import Done, command

# What a run measures differs each time; all else must be equal to the last bit.
MEASURED = {
    "text_s", "denoise_s", "commit_s", "decode_s", "generate_s", "chunk_s",
    "peak_bytes", "peak_reserved_bytes",
    "peak_text_bytes", "peak_denoise_bytes", "peak_commit_bytes", "peak_decode_bytes",
}  # fmt: skip
GOOD = ("rtn_int4", "rtn_int2", "bf16")  # bf16 last: the jobs side by side want it at once
BAD = {"wrong": "settings", "raising": "error"}  # method and cause
VIDEOS = 2

RAISING = """
from dataclasses import dataclass

from harness.api import Placement, FramePolicy, History


@dataclass(frozen=True)
class Raising(FramePolicy):
    def decide(self, history: History) -> dict[int, Placement]:
        raise RuntimeError("no frame pleases me")
"""
# Commands of Slurm, as far as submitit uses them: jobs of an array run two at a time.
SBATCH = """
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
here = os.path.dirname(os.path.abspath(__file__))
open(os.path.join(here, "script"), "w").write(script)
last, most = map(int, re.search(r"--array=0-(\\d+)%(\\d+)", script).groups())
runner = '''
import os, subprocess, sys
running = []
for task in range(int(sys.argv[2]) + 1):
    if len(running) == int(sys.argv[3]):
        running.pop(0).wait()
    env = {**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task),
           "SLURM_JOB_ID": str(8 + task), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1",
           "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    running.append(subprocess.Popen(["bash", sys.argv[1]], env=env))
for each in running:
    each.wait()
'''
quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
words = [sys.executable, "-c", runner, sys.argv[-1], str(last), str(most)]
subprocess.Popen(words, start_new_session=True, **quiet)
print("Submitted batch job 7")
"""
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
paths = {}
while words[0].startswith("-"):
    option = words.pop(0)
    if option in ("--output", "--error"):
        path = words.pop(0).replace("%A", "7").replace("%t", "0")
        paths[option] = path.replace("%a", os.environ["SLURM_ARRAY_TASK_ID"])
out, err = (open(paths[option], "a") for option in ("--output", "--error"))
sys.exit(subprocess.call(words, stdout=out, stderr=err))
"""
SACCT = """
print("JobID|State|NodeList")
print("7_[0-9]|RUNNING|here")
"""


@dataclass(frozen=True)
class Launcher:
    """A way to launch jobs: the module it needs, and the words that choose it."""

    module: str
    words: tuple[str, ...] = ()


LAUNCHERS = {
    "basic": Launcher("hydra"),
    "joblib": Launcher(
        "hydra_plugins.hydra_joblib_launcher",
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    ),
    "submitit_local": Launcher(
        "hydra_plugins.hydra_submitit_launcher",
        ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"),
    ),
    "submitit_slurm": Launcher(
        "hydra_plugins.hydra_submitit_launcher",
        (
            "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30",
            "hydra.launcher.gpus_per_node=1", "hydra.launcher.array_parallelism=2",
            "hydra.launcher.partition=gpu",
        ),
    ),
    "ray": Launcher(
        "hydra_plugins.hydra_ray_launcher",
        (
            "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2",
            "+hydra.launcher.ray.remote.num_cpus=1",
        ),
    ),
}  # fmt: skip
TIERED = [pytest.param(name, marks=[pytest.mark.slow] * (name != "basic")) for name in LAUNCHERS]


@dataclass(frozen=True)
class Sweep:
    """What one launcher's sweep left: of methods that fail and not, then of the good alone."""

    results: Path
    folder: Path
    mixed: Done
    again: Done

    @property
    def said(self) -> str:
        """All that its jobs printed, wherever the launcher keeps it."""
        logs = sorted(self.results.glob(".sweeps/*/.submitit/**/*.*"))
        kept = [path.read_text() for path in logs if path.suffix in (".out", ".err")]
        return "\n".join([self.mixed.stdout, self.mixed.stderr, *kept])


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's own, with a method of wrong settings and one that raises."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "method").mkdir()
    (folder / "raising.py").write_text(RAISING)
    files = {"wrong": "key: {group: 7}", "raising": "retention: {_target_: raising.Raising}"}
    for name, change in files.items():
        text = f"defaults: [rtn_int4, _self_]\n{change}\n"
        (folder / "method" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands of a Slurm that runs here."""
    folder = tmp_path_factory.mktemp("slurm")
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, mine: Path, slurm: Path
) -> Callable[[str], Sweep]:
    """The sweep by a launcher, made once."""
    known: dict[str, Sweep] = {}

    def sweep(name: str) -> Sweep:
        if name not in known:
            launcher = LAUNCHERS[name]
            try:
                importlib.import_module(launcher.module)
            except ImportError:
                pytest.skip(f"{launcher.module} is not installed: pip install -e '.[dev]'")
            folder = tmp_path_factory.mktemp(name)
            results = folder / "results"
            common = [
                "--config-dir", str(mine), "-m", *launcher.words, "run.threads=1",
                "suite.frames=6", f"suite.num_prompts={VIDEOS}", "suite.source=bundled",
                "track=disabled", f"results_dir={results}",
            ]  # fmt: skip
            env = {
                "PATH": os.pathsep.join([str(slurm), os.environ["PATH"]]),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_AUTH_MODE": "disabled",
                "RAY_DEDUP_LOGS": "0",
            }
            if name != "basic":  # others start interpreters themselves, so begin with a real one
                env["PYTHONPATH"] = str(ROOT)
            both = (",".join([*GOOD, *BAD]), ",".join(GOOD))
            mixed, again = (command(*common, f"method={words}", **env) for words in both)
            known[name] = Sweep(results, folder, mixed, again)
        return known[name]

    return sweep


def rows(results: Path, name: str) -> list[dict[str, object]]:
    """All rows of a kind, without what is measured."""
    paths = results.glob(f"**/{name}.parquet")
    found = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    found.sort(key=lambda row: (row["run_id"], row["prompt_index"], row["sample"]))
    return [{key: row[key] for key in row.keys() - MEASURED} for row in found]


@pytest.mark.parametrize("name", TIERED)
def test_rows_are_those_of_jobs_one_after_the_other(
    swept: Callable[[str], Sweep], name: str
) -> None:
    sweep, alone = swept(name), swept("basic")
    observations = rows(sweep.results, "observations")
    assert len(observations) == VIDEOS * (len(GOOD) + 1)  # the raising one has rows too
    assert observations == rows(alone.results, "observations")
    made = [row for row in observations if row["failure"] is None]
    assert len(made) == VIDEOS * len(GOOD)
    assert all(len(str(row["frames_sha256"])) == 64 for row in made)
    scores = rows(sweep.results, "scores")
    assert len(scores) == VIDEOS * len(GOOD)
    assert scores == rows(alone.results, "scores")


@pytest.mark.parametrize("name", TIERED)
def test_the_end_says_every_job_and_what_failed(swept: Callable[[str], Sweep], name: str) -> None:
    sweep = swept(name)
    assert sweep.mixed.returncode == 1, sweep.mixed.stderr
    assert "5 jobs: " in sweep.mixed.stdout
    ends = {}
    for line in sweep.mixed.stdout.splitlines():
        cells = line.split()
        if len(cells) == 4 and (cells[1] == "failed" or cells[1] in ("done", "resumed", "skipped")):
            ends[cells[0].rpartition("/")[2].rpartition("-")[0]] = cells[1:3]
    for method in GOOD:
        assert ends[method][1] == f"{VIDEOS}/{VIDEOS}" and ends[method][0] != "failed"
    for method in BAD:
        assert ends[method] == ["failed", f"0/{VIDEOS}"]
    failed = [line for line in sweep.mixed.stderr.splitlines() if line.startswith("failed ")]
    assert len(failed) == len(BAD)
    for method, cause in BAD.items():
        assert any(f"/{method}-" in line and f" {cause}: " in line for line in failed)
    assert any("RuntimeError: no frame pleases me" in line for line in failed)
    assert any("does not divide the 64 tokens of a frame" in line for line in failed)
    assert "run.retry=failed" in sweep.mixed.stderr


@pytest.mark.parametrize("name", TIERED)
def test_again_without_the_failed_it_is_all_skipped(
    swept: Callable[[str], Sweep], name: str
) -> None:
    sweep = swept(name)
    assert sweep.again.returncode == 0, sweep.again.stderr
    assert f"{len(GOOD)} jobs: {len(GOOD)} skipped" in sweep.again.stdout


@pytest.mark.parametrize("name", TIERED)
def test_the_reference_is_made_once(swept: Callable[[str], Sweep], name: str) -> None:
    said = swept(name).said
    for number in range(1, VIDEOS + 1):
        assert said.count(f"bf16: {number}/{VIDEOS} videos") == 1, said


@pytest.mark.parametrize("name", TIERED)
def test_launchers_leave_nothing_outside_the_results(
    swept: Callable[[str], Sweep], name: str
) -> None:
    sweep = swept(name)
    assert [path.name for path in sweep.folder.iterdir()] == ["results"]
    tops = {path.name for path in sweep.results.iterdir()}
    assert tops == {".sweeps", "moviegen", "results.parquet"}
    assert len(list(sweep.results.glob(".sweeps/*"))) == 2  # every job found its sweep's folder


@pytest.mark.slow
def test_slurm_is_asked_for_one_gpu_a_job(swept: Callable[[str], Sweep], slurm: Path) -> None:
    swept("submitit_slurm")
    script = (slurm / "script").read_text().splitlines()
    for line in ("--array=0-2%2", "--gpus-per-node=1", "--partition=gpu", "--time=30"):
        assert f"#SBATCH {line}" in script


PAGE = (ROOT / "docs" / "sweeps.md").read_text()
COMMANDS = re.findall(r"python -m harness -m (.*)", PAGE.replace("\\\n", " "))


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_of_the_page_compose(words: str) -> None:
    """Groups, launchers and their settings are there; nothing runs."""
    for plugin in ("joblib", "submitit", "ray"):
        if f"hydra/launcher={plugin}" in words:
            pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    parsed = OverridesParser.create().parse_overrides(shlex.split(words))
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    for job in (batch[0], batch[-1]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", job, return_hydra_config=True)
        assert config.method._target_
        launcher = re.search(r"hydra/launcher=(\w+)", words)
        assert config.hydra.runtime.choices["hydra/launcher"] == (launcher or ["", "basic"])[1]
