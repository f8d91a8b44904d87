from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

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


@cache
def _shares(file: str) -> bool:
    return 'scope="module"' in (ROOT / file).read_text()


@pytest.fixture(scope="session", autouse=True)
def _leases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands lease cores of this worker alone: it never waits for those of its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets allow no longer path
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("leases")))
        yield


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
