"""The wheel, built from the sdist and installed with no source in sight, does what sources do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

from harness.config.compose import method_files
from tests.conftest import ROOT
from tests.support.commands import SHORT, Done

pytestmark = pytest.mark.slow
PACKAGES = ("harness", "methods", "analysis", "hydra_plugins")
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def run(*words: str | Path, cwd: Path, **env: str) -> Done:
    """Run a program that finds no module by way of this process's environment."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    known = {**known, "OMP_NUM_THREADS": "1", **env}
    for name in ("HARNESS_DATA", "TRITON_INTERPRET", "VIRTUAL_ENV"):
        known.pop(name, None)
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=cwd, env=known)


def build(what: str, source: Path, into: Path) -> Path:
    """Build `sdist` or `wheel` by the project's own build backend, without the network."""
    done = run(sys.executable, "-c", BUILD, f"build_{what}", into, cwd=source)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist of this tree gives."""
    folder = tmp_path_factory.mktemp("build")
    tree, dist = folder / "tree", folder / "dist"
    for name in (*PACKAGES, "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "local")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "MANIFEST.in", "constraints.txt"):
        shutil.copy(ROOT / name, tree)
    dist.mkdir()
    with tarfile.open(build("sdist", tree, dist)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    shutil.rmtree(tree)
    return build("wheel", unpacked, dist)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel, inside another project's repository.

    The libraries are those of this environment; its own ways to the sources (`*.pth`) are not read.
    """
    project = tmp_path_factory.mktemp("project")
    person = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), (*person, "commit", "-q", "--allow-empty", "-m", "theirs")):
        assert run("git", *words, cwd=project).returncode == 0
    done = run(sys.executable, "-m", "venv", "--without-pip", project / "env", cwd=project)
    assert done.returncode == 0, done.stderr
    (site,) = project.glob("env/lib/python*/site-packages")
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    python = project / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    options = ("--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--ignore-installed")
    done = run(*pip, "install", *options, wheel, cwd=project)
    assert done.returncode == 0, done.stderr
    return python.parent


def test_a_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    shipped = [path for path in (ROOT / "conf").rglob("*.yaml") if "local" not in path.parts]
    expected |= {f"harness/{path.relative_to(ROOT)}" for path in shipped}
    assert held == expected


def test_an_installed_harness_makes_a_video(installed: Path, tmp_path: Path) -> None:
    words = ("method=rtn_int4", *SHORT, "suite.num_prompts=1", "track=disabled", "run.device=cpu")
    done = run(installed / "video-kv-bench", *words, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index("method")
    assert list(rows.index) == ["bf16", "rtn_int4"] and rows["failure"].isna().all()
    assert rows.loc["rtn_int4", "psnr_db"] > 20
    # Its own sources say which code made the rows, not the commit of the project around it.
    assert all(re.fullmatch(r"[0-9a-f]{8}", version) for version in rows["code_version"])
    (manifest, _) = tmp_path.glob("results/*/*/*/run.json")
    assert json.loads(manifest.read_text())["environment"]["git"]["commit"] is None
    report = run(installed / "python", "-m", "analysis", "report", "results", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "report" / "assets" / "style.css").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "methods", "kivi"], "\nkivi_int4 "),
        (["ls"], "\nexperiments:\n"),
        (["ls", "weights"], "alexnet"),
        (["plan", "model=self_forcing", "method=softprune_int4", "card=h200"], "GiB"),
        (["plan", "integration=published"], "GiB"),
        (["experiment=smoke", "run.dry=true", "suite.source=bundled"], "rtn_int4"),
        (["check", "method=rtn_int4"], "round trip keeps shape"),
        (["--help"], "softprune_mass_int4"),
    ],
)
def test_verbs_find_what_ships(
    installed: Path, words: list[str], message: str, tmp_path: Path
) -> None:
    done = run(installed / "video-kv-bench", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


@pytest.mark.parametrize(
    ("module", "code"),
    [("harness.commands.methods_page", 2), ("analysis", 2), ("harness", 0)],
    ids=str,
)
def test_modules_run_without_a_checkout(
    installed: Path, module: str, code: int, tmp_path: Path
) -> None:
    words = {
        "harness.commands.methods_page": [],
        "analysis": ["table", "nothing"],
        "harness": ["ls", "suites"],
    }
    done = run(installed / "python", "-m", module, *words[module], cwd=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == (code > 0)


def test_no_source_of_the_checkout_is_in_sight(installed: Path, tmp_path: Path) -> None:
    asked = (
        "import analysis, harness, methods, hydra_plugins.harness_sweeper as plugin\n"
        "for each in (analysis, harness, methods, plugin): print(each.__file__)\n"
    )
    done = run(installed / "python", "-c", asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(installed.parent)
    listed = run(installed / "video-kv-bench", "ls", cwd=tmp_path).stdout
    assert {line.split()[0] for line in listed.splitlines() if line.strip()} >= set(method_files())
