"""The child that computes VBench's dimensions: started once, asked for one video at a time.

It runs under the interpreter of VBench's environment, so it imports the standard library, torch and
vbench only, and nothing of this package. A request and a reply are a line of JSON each:

    {"dimension": "imaging_quality", "device": "cpu", "video": "/.../0.mp4", "prompt": "a cat"}
    {"value": 51.2, "frames": [50.9, 51.5]}    frames: of imaging_quality, else null
    {"reason": "why this video has no value", "memory": false}    memory: for a lack of it

The value comes from the package's own `compute_<dimension>`, so that it is what a direct call
gives. Those functions build their network on every call; here what builds it remembers.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

# What builds a network, as the module of the dimension calls it.
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

frame_scores: list[float] = []  # of the video in work, by MUSIQ


def main() -> None:
    """Answer requests until there are no more, or the parent is gone."""
    parent = int(sys.argv[1])
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    replies = own_output()
    sys.addaudithook(stay_offline)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


def end_with(parent: int) -> None:
    """End this process when its parent has ended, whatever it is computing."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def own_output() -> TextIO:
    """The standard output for replies alone; what anyone prints goes to the standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def stay_offline(event: str, args: tuple[Any, ...]) -> None:
    """Refuse what would leave the machine, or start a program that fetches.

    The package fetches a file that it does not find, by wget or git, and takes half a file for a
    whole one the next time.
    """
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise PermissionError(f"offline: no address of {args[0]} is looked up")
    if event == "socket.connect" and isinstance(args[1], tuple):
        raise PermissionError(f"offline: no connection to {args[1]}")
    if event == "subprocess.Popen":
        words = args[1] if isinstance(args[1], list) else [args[0]]
        if Path(str(words[0])).name in FETCHERS:
            raise PermissionError(f"offline: {' '.join(map(str, words))} is not run")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """A reply, whatever happens."""
    try:
        return scored(**request)
    except Exception as error:  # noqa: BLE001  the reason is the reply
        said = str(error).strip().splitlines() or ["no word"]
        free_memory()
        reason = f"vbench.{request['dimension']}: {type(error).__name__}: {said[0]}"
        return refusal(reason, isinstance(error, MemoryError))


def refusal(reason: str, memory: bool = False) -> dict[str, Any]:
    """The reply for a video without a value."""
    return {"reason": reason, "memory": memory}


def scored(dimension: str, device: str, video: str, prompt: str) -> dict[str, Any]:
    """The package's value of one video."""
    entry: dict[str, Any] = {"prompt_en": prompt, "dimension": [dimension]}
    if dimension not in ANY_PROMPT:
        entry = official(prompt)
        if dimension not in entry["dimension"]:
            return refusal(f"its prompt is none of the official ones of {dimension}")
    import torch

    module = importlib.import_module(f"vbench.{dimension}")
    for name in BUILDS.get(dimension, "").split():
        build_once(module, name)
    frame_scores.clear()
    with listed(entry, video) as (path, info), torch.no_grad(), unpickling(dimension):
        # A torch.device: for the text "cuda" the package scales by the memory that is free.
        compute = getattr(module, f"compute_{dimension}")
        start = importlib.import_module("vbench.utils").init_submodules
        needs = start([dimension], local=True)[dimension]
        _, results = compute(info, place(torch, device), needs)
    values = [result["video_results"] for result in results if result["video_path"] == path]
    if len(values) != 1:
        return refusal(f"vbench.{dimension} gave no value: it could not read or judge the video")
    return {"value": float(values[0]), "frames": list(frame_scores) or None}


def place(torch: Any, device: str) -> Any:
    """The device; `auto` is CUDA where it works."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@functools.cache
def official_entries() -> dict[str, dict[str, Any]]:
    """The package's official prompts by their text; two of them stand in its list twice."""
    package = importlib.import_module("vbench")
    listing = Path(str(package.__file__)).with_name("VBench_full_info.json")
    entries: dict[str, dict[str, Any]] = {}
    for each in json.loads(listing.read_text(encoding="utf-8")):
        known = entries.setdefault(each["prompt_en"], {"dimension": [], "auxiliary_info": {}})
        known["dimension"] += each["dimension"]
        known["auxiliary_info"] |= each.get("auxiliary_info", {})
    return entries


def official(prompt: str) -> dict[str, Any]:
    """What the package's list says of a prompt; of no dimension if it is not in there."""
    return {"prompt_en": prompt, "dimension": [], **official_entries().get(prompt, {})}


@contextlib.contextmanager
def listed(entry: dict[str, Any], video: str) -> Iterator[tuple[str, str]]:
    """One video as the package wants it: a name that begins with its prompt, and a JSON list.

    human_action reads the action out of the file's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = entry["prompt_en"] if "human_action" in entry["dimension"] else "video"
        path = Path(folder, f"{name}-0.mp4")
        path.symlink_to(video)
        info = Path(folder, "info.json")
        info.write_text(json.dumps([{**entry, "video_list": [str(path)]}]), encoding="utf-8")
        yield str(path), str(info)


def build_once(module: Any, name: str) -> None:
    """Let `module.name` give the same object for the same arguments."""
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, module)
    build = getattr(owner, last)
    if not hasattr(build, "remembers"):
        setattr(owner, last, remembering(build, heard=name == "MUSIQ"))


def remembering(build: Callable[..., Any], heard: bool) -> Callable[..., Any]:
    """The same function, which builds once for the same arguments; heard: scores are kept."""
    built: dict[str, Any] = {}

    def once(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if key not in built:
            built[key] = build(*args, **kwargs)
            if heard:
                built[key].register_forward_hook(keep_score)
        return built[key]

    once.remembers = True  # type: ignore[attr-defined]
    return once


def keep_score(_network: Any, _inputs: Any, score: Any) -> None:
    """Remember what MUSIQ gave for a frame."""
    frame_scores.append(float(score))


@contextlib.contextmanager
def unpickling(dimension: str) -> Iterator[None]:
    """Let torch read AMT's checkpoint, which may hold more than tensors.

    torch reads nothing else since 2.6, and the package does not ask it to; its repository now does.
    """
    allowed = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if dimension == "motion_smoothness" else {}
    os.environ.update(allowed)
    try:
        yield
    finally:
        for name in allowed:
            del os.environ[name]


def free_memory() -> None:
    """After an error, give back what the failed computation left on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
