"""Child process that computes VBench's dimensions for one video at a time.

It runs under the interpreter of VBench's environment, so it imports only the standard library,
torch and vbench, and nothing of this package. A request and a reply are one line of JSON each:

    {"dimension": "imaging_quality", "device": "cpu", "video": "/.../0.mp4", "prompt": "a cat"}
    {"value": 51.2, "frames": [50.9, 51.5]}    frames: only for imaging_quality, else null
    {"reason": "why this video has no value", "memory": false}    memory: true if out of memory

The package's own `compute_<dimension>` computes the value, so it equals that of a direct call.
Those functions build their network in every call; here the functions that build it are cached.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The functions that build networks, by the names in the module of the dimension. The package calls
# them for every video; `build_once` caches their results.
BUILDS = {
    "subject_consistency": "torch.hub.load",
    "background_consistency": "clip.load",
    "motion_smoothness": "MotionSmoothness",
    "dynamic_degree": "DynamicDegree",
    "aesthetic_quality": "clip.load get_aesthetic_model",
    "imaging_quality": "MUSIQ",
    "human_action": "create_model",
    "scene": "tag2text_caption",
    "appearance_style": "clip.load",
    "temporal_style": "SimpleTokenizer ViCLIP",
    "overall_consistency": "SimpleTokenizer ViCLIP",
}
# The quality dimensions, which score any video; the others know official prompts only.
ANY_PROMPT = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
FETCHERS = ("wget", "curl", "git", "unzip")
WATCH_S = 0.5

frame_scores: list[float] = []  # MUSIQ's scores of the current video


def main() -> None:
    """Answer requests until the input ends or the parent has ended."""
    parent = int(sys.argv[1])
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    # The package prints to standard output, which would garble the replies: its prints go to
    # standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.addaudithook(stay_offline)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


def end_with(parent: int) -> None:
    """End this process as soon as its parent has ended, even during a computation."""
    # A child whose parent ended gets another one. `_exit`: a computation cannot be interrupted.
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def stay_offline(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook that refuses network access and download programs.

    Raises  PermissionError: the event would access the network or start a download.
    """
    # The package downloads missing files with wget or git, and later accepts a partial file.
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise PermissionError(f"offline: no address of {args[0]} is looked up")
    if event == "socket.connect" and isinstance(args[1], tuple):
        raise PermissionError(f"offline: no connection to {args[1]}")
    if event == "subprocess.Popen":
        words = args[1] if isinstance(args[1], list) else [args[0]]
        if Path(str(words[0])).name in FETCHERS:
            raise PermissionError(f"offline: {' '.join(map(str, words))} is not run")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return a reply for every request; errors become reasons."""
    try:
        return scored(**request)
    except Exception as error:  # noqa: BLE001  the reason is the reply
        said = str(error).strip().splitlines() or ["no word"]
        # A failed computation may leave GPU memory in torch's allocator.
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        reason = f"vbench.{request['dimension']}: {type(error).__name__}: {said[0]}"
        return refusal(reason, isinstance(error, MemoryError))


def refusal(reason: str, memory: bool = False) -> dict[str, Any]:
    """Return the reply for a video without a value."""
    return {"reason": reason, "memory": memory}


def scored(dimension: str, device: str, video: str, prompt: str) -> dict[str, Any]:
    """Return the package's value of one video."""
    entry: dict[str, Any] = {"prompt_en": prompt, "dimension": [dimension]}
    if dimension not in ANY_PROMPT:
        entry = official(prompt)
        if dimension not in entry["dimension"]:
            return refusal(f"its prompt is none of the official ones of {dimension}")
    import torch

    module = importlib.import_module(f"vbench.{dimension}")
    for name in BUILDS.get(dimension, "").split():
        build_once(module, name)
    # Scores of a video that failed must not be given to the next one.
    frame_scores.clear()
    with listed(entry, video) as (path, info), torch.no_grad(), unpickling(dimension):
        # Pass a torch.device: for the string "cuda" the package scales by the free memory.
        compute = getattr(module, f"compute_{dimension}")
        start = importlib.import_module("vbench.utils").init_submodules
        needs = start([dimension], local=True)[dimension]
        _, results = compute(info, place(torch, device), needs)
    # The package leaves out a video that it cannot read or judge.
    values = [result["video_results"] for result in results if result["video_path"] == path]
    if len(values) != 1:
        return refusal(f"vbench.{dimension} gave no value: it could not read or judge the video")
    return {"value": float(values[0]), "frames": list(frame_scores) or None}


def place(torch: Any, device: str) -> Any:
    """Return the device; `auto` is CUDA if available."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@functools.cache
def official_entries() -> dict[str, dict[str, Any]]:
    """Return the package's official prompts by their text."""
    # Two prompts occur twice in the package's list, so merge entries.
    package = importlib.import_module("vbench")
    listing = Path(str(package.__file__)).with_name("VBench_full_info.json")
    entries: dict[str, dict[str, Any]] = {}
    for each in json.loads(listing.read_text(encoding="utf-8")):
        known = entries.setdefault(each["prompt_en"], {"dimension": [], "auxiliary_info": {}})
        known["dimension"] += each["dimension"]
        known["auxiliary_info"] |= each.get("auxiliary_info", {})
    return entries


def official(prompt: str) -> dict[str, Any]:
    """Return the package's entry for a prompt; without dimensions if there is none."""
    return {"prompt_en": prompt, "dimension": [], **official_entries().get(prompt, {})}


@contextlib.contextmanager
def listed(entry: dict[str, Any], video: str) -> Iterator[tuple[str, str]]:
    """Yield the paths of a video and of its JSON list, as the package expects them."""
    # human_action reads the action from the file name, so the name begins with the prompt.
    with tempfile.TemporaryDirectory() as folder:
        name = entry["prompt_en"] if "human_action" in entry["dimension"] else "video"
        path = Path(folder, f"{name}-0.mp4")
        path.symlink_to(video)
        info = Path(folder, "info.json")
        info.write_text(json.dumps([{**entry, "video_list": [str(path)]}]), encoding="utf-8")
        yield str(path), str(info)


def build_once(module: Any, name: str) -> None:
    """Cache the function `module.name` by its arguments; of MUSIQ, also record the scores."""
    # In the module of the dimension, or in what it imported (`clip.load`).
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, module)
    build = getattr(owner, last)
    if hasattr(build, "remembers"):
        return
    built: dict[str, Any] = {}

    def once(*args: Any, **kwargs: Any) -> Any:
        # By their text, since not all arguments can be hashed.
        key = repr((args, sorted(kwargs.items())))
        if key not in built:
            built[key] = build(*args, **kwargs)
            # The package returns the mean over frames only, so the network itself is heard.
            if name == "MUSIQ":
                built[key].register_forward_hook(keep_score)
        return built[key]

    once.remembers = True  # type: ignore[attr-defined]
    setattr(owner, last, once)


def keep_score(_network: Any, _inputs: Any, score: Any) -> None:
    """Record MUSIQ's score of a frame."""
    frame_scores.append(float(score))


@contextlib.contextmanager
def unpickling(dimension: str) -> Iterator[None]:
    """Allow torch to read AMT's checkpoint, which may contain more than tensors."""
    # Since 2.6 torch reads only tensors by default. This release of the package does not change
    # that; its repository now does.
    allowed = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if dimension == "motion_smoothness" else {}
    os.environ.update(allowed)
    try:
        yield
    finally:
        for name in allowed:
            del os.environ[name]


if __name__ == "__main__":
    main()
