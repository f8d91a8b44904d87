"""A fake VBench environment: a bare interpreter with a package that follows the prompt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TORCH = """
import contextlib

device = str
no_grad = contextlib.nullcontext


class cuda:
    is_available = staticmethod(lambda: False)
"""

UTILS = """
def init_submodules(dimensions, local):
    assert local
    return {name: ["weights"] for name in dimensions}
"""

# The prompt says what to do.
FLICKERING = """
import json, os, signal, subprocess, time, urllib.request
from pathlib import Path


def compute_temporal_flickering(info, device, needs):
    entry, = json.loads(Path(info).read_text())
    path, = entry["video_list"]
    word, _, rest = entry["prompt_en"].partition(" ")
    print("noise on the standard output")
    if word == "die" or (word == "stumble" and not os.path.exists(rest)):
        Path(rest or "died").touch()
        print("these are its last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "raise":
        raise RuntimeError("the network is unhappy\\nand says so at length")
    if word == "grow":
        raise {"gpu": RuntimeError("CUDA out of memory. Tried 9 GiB"), "": MemoryError()}[rest]
    if word == "skip":
        return float("nan"), []
    if word == "nan":
        return float("nan"), [{"video_path": path, "video_results": float("nan")}]
    if word == "download":
        urllib.request.urlopen("http://example.org/weights.pth")
    if word == "wget":
        subprocess.run(["wget", "http://example.org/weights.pth"], check=True)
    if word == "wait":
        Path(rest).write_text(str(os.getpid()))
        time.sleep(600)
    if word == "pid":
        return 0.0, [{"video_path": path, "video_results": os.getpid()}]
    size = Path(path).stat().st_size
    return size, [{"video_path": path, "video_results": size}]
"""

# Scores frame i of n with 10 (i + 1), counted by the size of the file: one network for all videos.
IMAGING = """
import json
from pathlib import Path

built = []


class MUSIQ:
    def __init__(self, pretrained_model_path):
        built.append(pretrained_model_path)
        self.hooks = []

    def register_forward_hook(self, hook):
        self.hooks.append(hook)

    def __call__(self, frame):
        for hook in self.hooks:
            hook(self, (frame,), 10.0 * (frame + 1))
        return 10.0 * (frame + 1)


def compute_imaging_quality(info, device, needs):
    entry, = json.loads(Path(info).read_text())
    path, = entry["video_list"]
    model = MUSIQ(pretrained_model_path=needs[0])
    assert len(built) == 1, "the network is built for every video"
    num_frames = int(entry["prompt_en"])
    scores = [model(i) for i in range(num_frames)]
    return 0.0, [{"video_path": path, "video_results": sum(scores) / num_frames}]
"""

# Scores a video by the size of its file.
SUBJECT = """
import json
from pathlib import Path


class torch:
    class hub:
        load = dict


def compute_subject_consistency(info, device, needs):
    entry, = json.loads(Path(info).read_text())
    path, = entry["video_list"]
    return 0.0, [{"video_path": path, "video_results": 1000 / Path(path).stat().st_size}]
"""

ACTION = """
import json
from pathlib import Path

create_model = dict


def compute_human_action(info, device, needs):
    entry, = json.loads(Path(info).read_text())
    path, = entry["video_list"]
    done = Path(path).name.lower().split("-")[0].split("person is ")[-1] == "riding a bike"
    return float(done), [{"video_path": path, "video_results": done}]
"""

INFO = """[
 {"prompt_en": "A person is riding a bike", "dimension": ["human_action"]},
 {"prompt_en": "alley", "dimension": ["scene"], "auxiliary_info": {"scene": {"scene": "alley"}}},
 {"prompt_en": "alley", "dimension": ["background_consistency"]}
]"""


def environment(folder: Path, version: str = "0.1.5") -> Path:
    """Build the environment and return its interpreter."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    files = {
        "torch.py": TORCH,
        "vbench/__init__.py": "",
        "vbench/utils.py": UTILS,
        "vbench/temporal_flickering.py": FLICKERING,
        "vbench/imaging_quality.py": IMAGING,
        "vbench/human_action.py": ACTION,
        "vbench/subject_consistency.py": SUBJECT,
        "vbench/VBench_full_info.json": INFO,
        f"vbench-{version}.dist-info/METADATA": f"Name: vbench\nVersion: {version}\n",
        "pyiqa-0.1.10.dist-info/METADATA": "Name: pyiqa\nVersion: 0.1.10\n",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    return folder / "bin" / "python"
