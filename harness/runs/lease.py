"""Leases one GPU, or CPU cores, to a child process by file locks.

The locks lie in the machine's temporary folder, so they hold across commands and users. The kernel
releases them when the processes that hold them end, even if these are killed.
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
from harness.system.errors import UserError, system_message
from harness.system.files import is_no_file
from harness.system.logs import remark

SHARED = 0o1777  # every user may create files in the folder, and remove only their own
PAUSE_S = 0.2  # mean time between two attempts


@dataclass(frozen=True)
class Grant:
    """What a child may use.

    device: for the child. variables: to add to its environment.
    files: descriptors of the locks, which the child inherits: they stay locked until it ends.
    """

    device: str
    variables: dict[str, str] = field(default_factory=dict)
    files: tuple[int, ...] = ()


@contextmanager
def leased(execution: Execution, stage: str) -> Iterator[Grant]:
    """Wait for the GPU or the cores that a stage needs, and hold them.

    `generate` takes one of the GPUs visible to this process (`CUDA_VISIBLE_DEVICES` is respected).
    On a CPU every stage takes one core per thread. Scoring on a machine with GPUs takes no lease.
    """
    gpus = [] if execution.device == "cpu" else visible_gpus()
    limits = {} if execution.threads is None else {"OMP_NUM_THREADS": str(execution.threads)}
    if gpus and stage == "generate":
        # All GPUs, or the one that `cuda:<n>` names. If the index does not exist, the child refuses
        # it with a better message.
        _, _, index = execution.device.partition(":")
        named = index.isdecimal() and int(index) < len(gpus)
        chosen = [gpus[int(index)]] if named else gpus
        with held([f"gpu-{gpu}" for gpu in chosen], 1, "GPU") as (taken, files):
            gpu = chosen[taken[0]]
            yield Grant("cuda", {**limits, "CUDA_VISIBLE_DEVICES": gpu}, files)
    elif gpus:
        yield Grant(execution.device, limits)
    else:
        names = [f"cpu-{core}" for core in _cores()]
        with held(names, threads(execution), "core") as (_, files):
            yield Grant(execution.device, limits, files)


@contextmanager
def held(
    names: Sequence[str], count: int, what: str
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Lock `count` of the named resources; yield their indices and the descriptors of the locks."""
    # All or none: commands that keep a part while they wait for the rest could deadlock.
    noted = False
    while True:
        with ExitStack() as stack:
            taken = _lock_free(names, count, stack)
            if len(taken) == count:
                yield list(taken), tuple(taken.values())
                return
        if not noted:
            noted = True
            remark(f"waiting for {count} free {what}{'s' * (count > 1)} of {len(names)}")
        time.sleep(PAUSE_S * (0.5 + random.random()))  # random, so that waiting commands disperse


def _lock_free(names: Sequence[str], count: int, stack: ExitStack) -> dict[int, int]:
    """Lock up to `count` free resources; the stack releases them."""
    taken: dict[int, int] = {}
    for index, name in enumerate(names):
        if len(taken) == count:
            break
        try:
            # Names come from CUDA_VISIBLE_DEVICES; those of MIG partitions may contain slashes.
            file = _open(folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.lock")
        except OSError as error:
            raise UserError(
                f"cannot write the locks of cores and GPUs ({system_message(error)}): set TMPDIR "
                "to a folder that you may write"
            ) from error
        stack.callback(os.close, file)  # closing also releases the lock, if this process has it
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken[index] = file
    return taken


def folder() -> Path:
    """Create the folder of the locks, writable for every user of the machine, and return it.

    Raises  UserError: the path is not a folder, such as a link that another user left.
    """
    path = Path(tempfile.gettempdir()) / "video-kv-bench-leases"
    with suppress(FileExistsError):
        path.mkdir()
    # Everybody may write to the temporary folder, so another user may have put a link here that
    # would have us change the mode of a folder of ours elsewhere.
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"{path} is no folder of ours ({error.strerror}), and links are not followed: remove "
            "it, or type TMPDIR=<a folder of yours> before the command"
        ) from error
    try:
        if stat.S_IMODE(os.fstat(opened).st_mode) != SHARED:
            # mkdir's mode is reduced by the umask, so it is set afterwards.
            with suppress(PermissionError):  # another user owns the folder and has set its mode
                os.fchmod(opened, SHARED)
    finally:
        os.close(opened)
    return path


def _open(path: Path) -> int:
    """Open the file of a lock, and create it if it is missing; links are not followed.

    Raises  UserError: it is a link, or not a file.
    """
    # Open without O_CREAT first: Linux's fs.protected_regular refuses O_CREAT on another user's
    # file in a sticky directory. Twice, since another process may create it between the two calls.
    how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(2):
        if is_no_file(path):
            raise UserError(f"{path} is a link or no file, and a lock must be a file: remove it")
        with suppress(FileNotFoundError):
            return os.open(path, how)
        with suppress(FileExistsError):
            file = os.open(path, how | os.O_CREAT | os.O_EXCL)
            os.fchmod(file, 0o666)  # open's mode is reduced by the umask; others need the lock too
            return file
    return os.open(path, how)  # it exists by now; anything else is an error to report


# Cached, since it starts a program and every stage of a sweep asks.
@cache
def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in CUDA's order, as CUDA_VISIBLE_DEVICES names.

    Empty if no GPU is installed.
    """
    # Schedulers and containers set CUDA_VISIBLE_DEVICES on machines without a GPU too.
    listed = _installed_gpus()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not listed:
        return listed
    visible: list[str] = []
    for word in (word.strip() for word in named.split(",")):
        if word.isdecimal() and int(word) < len(listed):
            visible.append(listed[int(word)])
        elif word.startswith("MIG-") or any(gpu.startswith(word) for gpu in listed if word):
            visible.append(word)  # a MIG partition, or the beginning of a UUID
        else:
            break  # CUDA ignores everything after the first invalid entry
    return visible


def _installed_gpus() -> list[str]:
    """Return the UUIDs of the installed GPUs, or their numbers without nvidia-smi."""
    # UUIDs, because an index means different GPUs in processes with other visible devices.
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.split()
    devices = [path.name for path in Path("/dev").glob("nvidia*")]
    return sorted(name.removeprefix("nvidia") for name in devices if name[6:].isdecimal())


def _cores() -> list[int]:
    # Containers and `taskset` leave a process some of the machine's cores; macOS cannot say which.
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def threads(execution: Execution) -> int:
    """Return how many threads a child uses on a CPU: as configured, else torch's default."""
    cores = len(_cores())
    named = os.environ.get("OMP_NUM_THREADS", "")
    by_default = int(named) if named.isdecimal() and int(named) else cores
    # At most all cores: a command that waits for more of them would wait forever.
    return min(cores, execution.threads or by_default)
