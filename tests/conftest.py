from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from harness.system import logs
from harness.system.files import locked
from tests.support import faster

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HARNESS_SHARED", ROOT.parent / "shared"))

# Without a GPU, Triton kernels are tested in Triton's interpreter. Triton reads the variable when
# it decorates a kernel, so it must be set before anything imports one.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The same examples each time: a change must not fail for an example that it did not cause. Type
# HYPOTHESIS_PROFILE=explore to look for new ones; add those that fail with @example.
settings.register_profile("repeat", derandomize=True)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

torch.set_num_threads(1)  # the test runner starts one worker per core
faster.compose_faster()


@pytest.hookimpl(optionalhook=True)  # the hook exists only with xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file with module fixtures to one worker, so that each fixture is built once.

    All other tests go to any free worker one by one, after these files. Then no worker is left
    with a long file at the end.
    """
    if config.getvalue("dist") != "load":  # the user chose another distribution
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _shares(file) else nodeid

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            """Forget what is finished: xdist counts all units of a worker after every test."""
            super().mark_test_complete(node, item_index, duration)
            scope = self._split_scope(self.registered_collections[node][item_index])
            if all(self.assigned_work[node][scope].values()):
                del self.assigned_work[node][scope]

    return Shared(config, log)


def pytest_configure() -> None:
    gc.disable()  # what collecting tests makes stays, and looking through it takes seconds


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ten slowest files, set-up included, if more than one file ran."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if len(seconds) > 1:
        terminalreporter.section("slowest files, seconds of one worker")
        for file, spent in seconds.most_common(10):
            terminalreporter.line(f"{spent:7.1f}  {file}")


@cache
def _shares(file: str) -> bool:
    return 'scope="module"' in (ROOT / file).read_text()


@pytest.fixture(scope="session", autouse=True)
def _log() -> None:
    """Write the log to standard error as commands do, whichever test comes first."""
    logs.begin()


@pytest.fixture(scope="session", autouse=True)
def _leases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let commands lease only this worker's cores, so that workers never wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # socket paths are limited in length
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("leases")))
        patch.setattr(tempfile, "tempdir", None)  # Python remembers the folder that it found before
        yield


@dataclass(frozen=True)
class Sweep:
    """A finished sweep that all tests of a session read; no test changes it."""

    results: Path
    stdout: str
    stderr: str

    def copied(self, to: Path) -> Path:
        """Copy the results, for tests that continue or damage them."""
        return Path(shutil.copytree(self.results, to, dirs_exist_ok=True))

    def linked(self, to: Path) -> Path:
        """Link the results by hard links, for tests that write no file in place.

        Lock files are left out: linked ones would be one lock for all tests.
        """
        ignore = shutil.ignore_patterns(".lock")
        shutil.copytree(self.results, to, ignore=ignore, copy_function=os.link, dirs_exist_ok=True)
        return to


@pytest.fixture(scope="session")
def make_sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sweep]:
    """Run commands into one results folder, once for all workers of a test session."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, *commands: Sequence[str]) -> Sweep:
        from tests.support.commands import command

        folder = root / f"sweep-{name}"
        folder.mkdir(exist_ok=True)
        said = [folder / "stdout", folder / "stderr"]
        with locked(folder, f"waiting for another worker that makes the sweep {name}"):
            if not said[1].exists():
                done = [command(*words, f"results_dir={folder / 'results'}") for words in commands]
                assert all(each.returncode == 0 for each in done), [x.stderr for x in done]
                said[0].write_text("".join(each.stdout for each in done))
                said[1].write_text("".join(each.stderr for each in done))
        return Sweep(folder / "results", *(path.read_text() for path in said))

    return make


@pytest.fixture(scope="session")
def readme_sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    """Run the README's sweep: five methods, three StoryEval prompts, 12 frames."""
    return make_sweep(
        "readme",
        [
            *("-m", "method=bf16,rtn_int8,rtn_int4,rtn_int2,softprune_int4", "suite=storyeval"),
            *("suite.num_prompts=3", "suite.frames=12", "suite.source=bundled", "track=disabled"),
        ],
    )


@pytest.fixture(scope="session")
def short_sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    """Run BF16 and two methods on two MovieGen prompts, with the shortest clips possible."""
    return make_sweep(
        "short",
        [
            *("-m", "method=bf16,rtn_int4,rtn_int8", "suite=moviegen", "suite.num_prompts=2"),
            *("suite.frames=3", "suite.source=bundled", "track=disabled"),
        ],
    )


@pytest.fixture(scope="session")
def golden() -> Any:
    """Load a golden recording, or skip with a reason if it is missing."""

    def load(name: str) -> dict[str, Any]:
        path = SHARED / "golden" / name
        if not path.is_file():
            pytest.skip(f"golden data not found: {path}")
        recording: dict[str, Any] = torch.load(path, weights_only=True)
        return recording

    return load
