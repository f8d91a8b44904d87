from __future__ import annotations

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

from harness.system.files import locked

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HARNESS_SHARED", ROOT.parent / "shared"))

# Without a GPU the Triton kernels are tested in Triton's interpreter. Triton looks at this when it
# decorates a kernel, so it must stand before anything imports one.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # the test runner starts one worker a core


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file whose tests share what a fixture makes goes to one worker, so it is made once.

    All other tests go one by one to whoever is free, after the files: no worker is left over with
    a long file at the end.
    """
    if config.getvalue("dist") != "load":  # another way is asked for
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _shares(file) else nodeid

    return Shared(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After more than one file: the ten that took longest, set-up included."""
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
def _leases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands lease cores of this worker alone: it never waits for those of its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets allow no longer path
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("leases")))
        patch.setattr(tempfile, "tempdir", None)  # Python remembers the folder that it found before
        yield


@dataclass(frozen=True)
class Sweep:
    """A finished sweep that all tests of a session read, and none changes."""

    results: Path
    stdout: str
    stderr: str

    def copied(self, to: Path) -> Path:
        """A copy of the results to go on with or to damage."""
        return Path(shutil.copytree(self.results, to, dirs_exist_ok=True))

    def linked(self, to: Path) -> Path:
        """The same by hard links, for tests that write no file in place.

        Locks are left out: linked ones would be held together.
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
    """The sweep of the README: five methods, three StoryEval prompts, on 12 frames."""
    return make_sweep(
        "readme",
        [
            *("-m", "method=bf16,rtn_int8,rtn_int4,rtn_int2,softprune_int4", "suite=storyeval"),
            *("suite.num_prompts=3", "suite.frames=12", "suite.source=bundled", "track=disabled"),
        ],
    )


@pytest.fixture(scope="session")
def short_sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    """BF16 and two methods, two MovieGen prompts each, on the shortest clips there are."""
    return make_sweep(
        "short",
        [
            *("-m", "method=bf16,rtn_int4,rtn_int8", "suite=moviegen", "suite.num_prompts=2"),
            *("suite.frames=3", "suite.source=bundled", "track=disabled"),
        ],
    )


@pytest.fixture(scope="session")
def golden() -> Any:
    """Load a golden recording, or skip with the reason that it is not there."""

    def load(name: str) -> dict[str, Any]:
        path = SHARED / "golden" / name
        if not path.is_file():
            pytest.skip(f"golden data not found: {path}")
        recording: dict[str, Any] = torch.load(path, weights_only=True)
        return recording

    return load
