"""What a child may compute with: one GPU, or cores for its threads, held by file locks.

The locks lie in the machine's temporary folder, so all commands of all users respect them. They
end with the processes that hold them, however these die.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness.results.run import Execution
from harness.system.errors import UserError, of_system
from harness.system.files import is_no_file
from harness.system.logs import remark

SHARED = 0o1777  # mode of a folder in which every user may make files, and remove only their own
PAUSE_S = 0.2  # between two looks for something free


@dataclass(frozen=True)
class Grant:
    """What is held: environment variables and device for the child, and the locks' files, which
    the child keeps open, so that nothing is free before it is gone.
    """

    device: str
    variables: dict[str, str] = field(default_factory=dict)
    files: tuple[int, ...] = ()


@contextmanager
def leased(execution: Execution, stage: str) -> Iterator[Grant]:
    """Wait for what a stage needs and hold it.

    `generate` takes one GPU of those visible to this process (`CUDA_VISIBLE_DEVICES`, which a
    scheduler may have set, is respected); on a CPU every stage takes a core a thread. Scoring
    beside a GPU takes nothing.
    """
    gpus = [] if execution.device == "cpu" else visible_gpus()
    few = {} if execution.threads is None else {"OMP_NUM_THREADS": str(execution.threads)}
    if gpus and stage == "generate":
        chosen = _chosen(gpus, execution.device)
        with held([f"gpu-{gpu}" for gpu in chosen], 1, "GPU") as (taken, files):
            gpu = chosen[taken[0]]
            yield Grant("cuda", {**few, "CUDA_VISIBLE_DEVICES": gpu}, files)
    elif gpus:
        yield Grant(execution.device, few)
    else:
        names = [f"cpu-{core}" for core in _cores()]
        with held(names, threads(execution), "core") as (_, files):
            yield Grant(execution.device, few, files)


@contextmanager
def held(
    names: Sequence[str], count: int, what: str
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Hold `count` of the named things: which of them, and the open files of their locks.

    Takes all or none at a time, so two that want several each cannot wait for each other.
    """
    said = False
    while True:
        with ExitStack() as stack:
            taken = _try(names, count, stack)
            if len(taken) == count:
                yield list(taken), tuple(taken.values())
                return
        if not said:
            said = True
            remark(f"waiting for {count} free {what}{'s' * (count > 1)} of {len(names)}")
        time.sleep(PAUSE_S * (0.5 + random.random()))  # apart from others who wait


def _try(names: Sequence[str], count: int, stack: ExitStack) -> dict[int, int]:
    """Lock up to `count` that are free; the stack lets go of them."""
    taken: dict[int, int] = {}
    for index, name in enumerate(names):
        if len(taken) == count:
            break
        try:
            file = _open(folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.lock")
        except OSError as error:
            raise UserError(
                f"cannot write the locks of cores and GPUs ({of_system(error)}): set TMPDIR to a "
                "folder that you may write"
            ) from error
        stack.callback(os.close, file)
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken[index] = file
    return taken


def folder() -> Path:
    """Where the locks lie, open to every user of the machine.

    Raises  UserError: something else lies there, as a link that another user left.
    """
    path = Path(tempfile.gettempdir()) / "video-kv-bench-leases"
    with suppress(FileExistsError):
        path.mkdir()
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"{path} is no folder of ours ({error.strerror}), and links are not followed: remove "
            "it, or type TMPDIR=<a folder of yours> before the command"
        ) from error
    try:
        if stat.S_IMODE(os.fstat(opened).st_mode) != SHARED:
            with suppress(PermissionError):  # of another user, who has opened it to us
                os.fchmod(opened, SHARED)
    finally:
        os.close(opened)
    return path


def _open(path: Path) -> int:
    """Open a lock's file, made if it is not there; a link is not followed.

    Not O_CREAT on one that is there: kernels refuse that in a shared folder for files of others.
    Raises  UserError: it is a link, or no file.
    """
    how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(2):
        if is_no_file(path):
            raise UserError(f"{path} is a link or no file, and a lock must be a file: remove it")
        with suppress(FileNotFoundError):
            return os.open(path, how)
        with suppress(FileExistsError):
            file = os.open(path, how | os.O_CREAT | os.O_EXCL)
            os.fchmod(file, 0o666)
            return file
    return os.open(path, how)


@cache
def visible_gpus() -> list[str]:
    """The GPUs that this process may use, in CUDA's order, by names that CUDA takes.

    None where none is installed, whatever CUDA_VISIBLE_DEVICES names: schedulers and containers set
    it on machines without a GPU too.
    """
    listed = _installed_gpus()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not listed:
        return listed
    visible: list[str] = []
    for word in (word.strip() for word in named.split(",")):
        if word.isdecimal() and int(word) < len(listed):
            visible.append(listed[int(word)])
        elif word.startswith("MIG-") or any(gpu.startswith(word) for gpu in listed if word):
            visible.append(word)  # a part of a GPU, or the beginning of a name
        else:
            break  # CUDA stops at the first that is none
    return visible


def _installed_gpus() -> list[str]:
    """Names of the GPUs of this machine; a name is the same in every process."""
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.split()
    devices = [path.name for path in Path("/dev").glob("nvidia*")]
    return sorted(name.removeprefix("nvidia") for name in devices if name[6:].isdecimal())


def _chosen(gpus: list[str], device: str) -> list[str]:
    """All of them, or the one of `cuda:<n>`; one that is not there is left to the child to say."""
    _, _, index = device.partition(":")
    return [gpus[int(index)]] if index.isdecimal() and int(index) < len(gpus) else gpus


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def threads(execution: Execution) -> int:
    """How many a child starts on a CPU: as configured, else as torch does."""
    cores = len(_cores())
    named = os.environ.get("OMP_NUM_THREADS", "")
    by_default = int(named) if named.isdecimal() and int(named) else cores
    return min(cores, execution.threads or by_default)
