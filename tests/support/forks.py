"""A server that imports the harness once and forks a process for every command of a test.

Starting `python -m harness` takes seconds, mostly for importing torch, once for the command and
once for each child process. A forked command is a process with its own arguments, folder,
environment, output and exit code, and forks its children in the same way. Commands share only the
state that imports left. A test starts a real process if it depends on Python's start
(`sitecustomize`, PYTHONPATH, limits) or kills processes.

`python -m tests.support.forks SOCKET` is the server; `forked_python.py` is its client.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("forked_python.py")
# Python reads these at start, or torch and the harness at import: a fork would ignore them.
READ_AT_START = {"PYTHONPATH", "OMP_NUM_THREADS", "TRITON_INTERPRET", "XDG_CACHE_HOME"}
_starting = threading.Lock()
PACKAGES = (
    "harness.scoring.metrics",
    "harness.models",
    "harness.planning",
    "harness.checks",
    "methods",
)
MODULES = (
    "harness.system.ending", "harness.commands.run", "harness.planning.dry_run",
    "harness.runs.worker",
    "harness.runs.generate",
    "harness.scoring.score", "harness.commands.score", "harness.results.wandb_mirror",
    "harness.commands.fetch",
    "harness.commands.ls",
    "harness.checks.results", "harness.results.summary_table", "av", "PIL.Image", "lpips",
    "skimage.metrics",
    "torchvision", "harness.small_model", "pyarrow.parquet",
)  # fmt: skip


def python() -> tuple[str, ...]:
    """Return words that replace the interpreter in a command line, so that the server forks it.

    The first call starts the server, which ends with this process.
    """
    with _starting:  # tests also start commands from threads
        return _client()


@functools.cache
def _client() -> tuple[str, ...]:
    name = str(_folder() / "socket")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for unwanted in ("TRITON_INTERPRET", "HARNESS_DATA"):
        env.pop(unwanted, None)
    words = [sys.executable, "-m", "tests.support.forks", name]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(words, cwd=ROOT, env=env, **pipes)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    atexit.register(server.kill)
    return (sys.executable, "-I", "-S", str(CLIENT), name)


@functools.cache
def _folder() -> Path:
    """Make a folder near the root: the path of a socket may have about 100 characters."""
    root = "/tmp" if Path("/tmp").is_dir() else None
    folder = tempfile.mkdtemp(prefix="forks-", dir=root)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def folder() -> Path:
    """Return a folder with a `python` that forks, to put first on PATH."""
    script = _folder() / "bin" / "python"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.join(python())} "$@"\n')
    script.chmod(0o755)
    return script.parent


def main(name: str) -> None:
    """Import everything that commands need, then fork one per client until stdin is closed."""
    for module in MODULES:
        importlib.import_module(module)
    # Loading what numba compiled takes as long as importing a large package.
    importlib.import_module("harness.cache.compiled.pages").compile_loops()
    for package in map(importlib.import_module, PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    _warm_up()
    torch = sys.modules["torch"]
    assert not torch.cuda.is_initialized(), "a process that has touched a GPU cannot be forked"
    # Python threads do not survive a fork; pyarrow restarts the thread of its allocator itself.
    assert threading.active_count() == 1, threading.enumerate()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps ended children
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(64)
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _serve(client)
            client.close()


def _warm_up() -> None:
    """Let Hydra search for plugins, read files and build its parsers' tables, for all forks."""
    from hydra.core.global_hydra import GlobalHydra

    from harness.config.compose import configured
    from tests.support import faster

    faster.compose_faster()
    configured()
    GlobalHydra.instance().clear()
    gc.collect()
    gc.freeze()  # else each fork's first collection copies the pages of all that was imported


def _serve(client: socket.socket) -> NoReturn:
    """Fork the command of a client, and send the client its exit status.

    If a client is killed, for example by a test's time limit, its command is killed too.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    with client, client.makefile("r") as lines:
        _, files, _, _ = socket.recv_fds(client, 1, 3)
        asked = json.loads(lines.readline())
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for file in (woken, wake):
                os.close(file)
            for number, file in enumerate(files):
                os.dup2(file, number)
            for file in (*files, client.fileno()):
                os.close(file)
            client.detach()
            _become(asked["words"], asked["folder"], asked["variables"])
        for file in files:
            os.close(file)
        ready, _, _ = select.select([client, woken], [], [])
        if client in ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            client.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(words: Sequence[str], folder: str, variables: Mapping[str, str]) -> NoReturn:
    """Turn this process into `python -m <words>`, started in a folder with these variables."""
    from harness.system import child_process

    _start_anew(words, variables)
    os.chdir(folder)
    sys.path[0] = folder
    child_process.start = fork_child
    option, module, *rest = words
    assert option == "-m", words
    sys.argv = [module, *rest]
    _end_with(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


def _start_anew(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Reset state that a new process would not inherit from the forked one."""
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None
    sys.orig_argv = [sys.executable, *words]
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False, buffering=buffering)
        for number, mode, buffering in ((0, "r", -1), (1, "w", -1), (2, "w", 1))
    )


def _end_with(program: Callable[[], object]) -> NoReturn:
    """Run a program and end this process as Python would, by exit code or exception."""
    code = 0
    try:
        program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120  # Python's exit code if output cannot be written
    os._exit(code & 0xFF)


class Forked:
    """A child of a command, with the parts of `subprocess.Popen` that commands use."""

    def __init__(self, pid: int, stdin: Any) -> None:
        self.pid, self.stdin = pid, stdin
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, 0 if end is None else os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0)
            else:
                time.sleep(0.01)
        return self._code

    def send_signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_child(
    module: str, words: Sequence[str], files: Sequence[int], variables: Mapping[str, str]
) -> Forked:
    """Replace `harness.system.child_process.start`: fork the child from the command."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings(action="ignore"):  # about pyarrow's threads, which survive forks
        pid = os.fork()
    if pid:
        os.close(reader)
        return Forked(pid, os.fdopen(writer, "w"))
    from hydra.core.global_hydra import GlobalHydra

    os.dup2(reader, 0)
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        if int(name) > 2 and int(name) not in files:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor of this listing
    _start_anew(["-m", module, *words], variables)
    GlobalHydra.instance().clear()
    sys.argv = [module, *words]
    _end_with(lambda: sys.exit(importlib.import_module(module).main(words)))


if __name__ == "__main__":
    main(sys.argv[1])
