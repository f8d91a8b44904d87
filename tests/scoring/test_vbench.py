from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.downloads import weights
from harness.prompts.suite import SuiteConfig, resolve
from harness.scoring.metrics.drift_published import DriftPublished, prefixes
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.scoring.metrics.vbench import Consistency, Dimension, ImagingQuality
from harness.scoring.score import built
from harness.scoring.vbench import client, clips, environment, totals
from harness.scoring.vbench.clip_to_clip import CLIP_TO_CLIP, mapped, read_table
from harness.scoring.vbench.dimensions import DIMENSIONS
from harness.system.errors import UserError
from harness.system.paths import ROOT
from tests.support import vbench_fake
from tests.support.geometry import configured

FLICKERING = "temporal_flickering"


def clip(num_frames: int = 3, prompt: str = "", sides: tuple[int, int] = (32, 48)) -> Clip:
    rng = np.random.default_rng(num_frames)
    frames = rng.integers(0, 256, (num_frames, *sides, 3), dtype=np.uint8)
    return Clip(frames, 16, 9, prompt)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vbench_fake.environment(tmp_path_factory.mktemp("fake") / "venv")


@pytest.fixture
def flickering(python: Path) -> Iterator[Dimension]:
    """The dimension without weights, computed by the stand-in."""
    metric = Dimension(FLICKERING, str(python))
    yield metric
    metric.close()


def value(metric: Metric, video: Clip) -> float:
    number = metric.measure(video, None, "cpu")[metric.name]
    assert isinstance(number, float)
    return number


def reason(metric: Metric, video: Clip) -> str:
    with pytest.raises(Unscorable) as caught:
        metric.measure(video, None, "cpu")
    return str(caught.value)


def parts(of: Path | str) -> set[str]:
    return {path.name for path in Path(of).glob("*.mp4")}


def test_one_process_answers_for_all_videos_whatever_the_package_prints(
    flickering: Dimension,
) -> None:
    pids = {value(flickering, clip(n, "pid")) for n in (2, 3)}
    assert len(pids) == 1
    flickering.close()
    assert value(flickering, clip(2, "pid")) not in pids


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("raise", "vbench.temporal_flickering: RuntimeError: the network is unhappy"),
        ("skip", "vbench.temporal_flickering gave no value: it could not read or judge the video"),
        ("download", "offline: no address of example.org is looked up"),
        ("wget", "offline: wget http://example.org/weights.pth is not run"),
    ],
)
def test_what_goes_wrong_is_a_reason_of_one_video(
    flickering: Dimension, told: str, why: str
) -> None:
    pid = value(flickering, clip(prompt="pid"))
    assert why in reason(flickering, clip(prompt=told))
    assert value(flickering, clip(prompt="pid")) == pid


@pytest.mark.parametrize("told", ["grow", "grow gpu"])
def test_a_lack_of_memory_is_not_of_the_video(flickering: Dimension, told: str) -> None:
    with pytest.raises(MemoryError):
        flickering.measure(clip(prompt=told), None, "cpu")


def test_nan_is_handed_on_for_the_caller_to_name(flickering: Dimension) -> None:
    assert math.isnan(value(flickering, clip(prompt="nan")))


def test_a_process_that_dies_over_a_video_is_a_reason_and_the_next_video_has_another(
    flickering: Dimension, tmp_path: Path
) -> None:
    why = reason(flickering, clip(prompt=f"die {tmp_path / 'died'}"))
    assert "VBench's process ended with SIGKILL after:" in why
    assert "these are its last words" in why
    assert value(flickering, clip()) > 0
    assert value(flickering, clip(prompt=f"stumble {tmp_path / 'once'}")) > 0  # by a second one


@pytest.mark.slow
def test_it_dies_with_its_parent(python: Path, tmp_path: Path) -> None:
    said = tmp_path / "pid"
    program = (
        "import sys; from pathlib import Path; from tests.scoring.test_vbench import *; "
        f"value(Dimension({FLICKERING!r}, sys.argv[1]), clip(prompt='wait ' + sys.argv[2]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, python, said], cwd=ROOT)
    assert until(lambda: said.exists() and said.read_text() != "")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child = Path(f"/proc/{said.read_text()}/cmdline")
    assert until(lambda: not child.exists() or child.read_bytes() == b"")


def until(is_true: object, seconds: float = 60) -> bool:
    assert callable(is_true)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def test_a_video_is_staged_once_and_forgotten_with_its_frames(flickering: Dimension) -> None:
    folder = client.runner(environment.interpreter(str(flickering._python)), None).stage.folder
    before = parts(folder)
    video = clip(4)
    sizes = [value(flickering, video) for _ in range(2)]
    assert sizes[0] == sizes[1]
    assert len(parts(folder) - before) == 1
    del video
    assert parts(folder) <= before


def test_a_video_above_ten_seconds_is_the_mean_of_its_clips(flickering: Dimension) -> None:
    assert flickering.measure(clip(165), None, "cpu")["vbench_temporal_flickering_protocol"] == (
        "whole"
    )
    row = flickering.measure(clip(176), None, "cpu")
    assert row["vbench_temporal_flickering_protocol"] == "clips_2s"
    assert row["vbench_temporal_flickering"] == row["vbench_temporal_flickering_raw"]


def test_clips_are_of_one_length_and_the_last_one_reaches_back() -> None:
    assert clips.spans(165, 16, 2) == [(0, 165)]  # the suites' ten seconds
    assert clips.spans(175, 16, 2) == [(0, 175)]
    assert clips.spans(192, 16, 2) == [(i, i + 32) for i in range(0, 192, 32)]
    assert clips.spans(177, 16, 2) == [
        (0, 32),
        (32, 64),
        (64, 96),
        (96, 128),
        (128, 160),
        (145, 177),
    ]
    assert clips.spans(190, 16, 10) == [(0, 160), (30, 190)]
    assert clips.spans(300, 23.976, 2)[:2] == [(0, 46), (46, 92)]  # whole frames a second


def test_the_release_cuts_videos_of_every_length() -> None:
    assert clips.spans(80, 16, 2, longest_whole_s=0) == [(0, 32), (32, 64), (48, 80)]
    assert clips.spans(80, 16, 10, longest_whole_s=0) == [(0, 80)]  # shorter than a clip
    assert clips.spans(40, 16, 1, longest_whole_s=0) == [(0, 16), (16, 32), (24, 40)]


@pytest.mark.parametrize(
    ("cutting", "protocol", "said"),
    [
        ("above_10s", "whole", "above 10 s the mean of clips of 2 s"),
        ("released", "clips_2s", "at every length the mean of clips of 2 s"),
        ("released_1s", "clips_1s", "at every length the mean of clips of 1 s"),
    ],
)
def test_the_cutting_is_a_setting_and_part_of_the_version(
    python: Path, cutting: str, protocol: str, said: str
) -> None:
    metric = Dimension(FLICKERING, str(python), clips=cutting)
    row = metric.measure(clip(48), None, "cpu")
    assert row["vbench_temporal_flickering_protocol"] == protocol
    assert metric.version().endswith(said)


def test_an_unknown_cutting_is_refused() -> None:
    with pytest.raises(UserError, match="clips=short: choose among above_10s, released, released_"):
        Dimension(FLICKERING, clips="short")


@pytest.fixture
def tables(tmp_path: Path) -> str:
    """A data folder with a table of three rows."""
    place = tmp_path / "weights" / "vbench" / "long" / "subject_mapping_table.yaml"
    place.parent.mkdir(parents=True)
    place.write_text("0.0: 0.0\n0.5: 0.9\n1.0: 1.0\n")
    return str(tmp_path)


def test_consistency_between_clips_is_of_their_first_frames(python: Path, tables: str) -> None:
    name = "vbench_subject_consistency"
    video = clip(90)  # clips from frames 0, 32 and 58
    both = Consistency("subject_consistency", str(python), tables, clip_to_clip="percentiles",
                       clips="released")  # fmt: skip
    alone = Consistency("subject_consistency", str(python), tables, clips="released")
    try:
        inside = value(alone, video)
        of_first = Clip(video.frames_THWC[[0, 32, 58]], 16, 9)
        between = value(Consistency("subject_consistency", str(python), tables), of_first)
        row = both.measure(video, None, "cpu")
        short = both.measure(clip(20), None, "cpu")
    finally:
        both.close()
    assert row[f"{name}_in_clips"] == inside
    assert row[f"{name}_between_clips"] == between < 0.5
    assert row[f"{name}_between_clips_mapped"] == pytest.approx(1.8 * between)
    assert row[name] == row[f"{name}_raw"] == pytest.approx(0.7 * inside + 0.3 * 1.8 * between)
    assert row[f"{name}_protocol"] == "clips_2s_and_between"
    assert list(row) == [column.name for column in both.columns()]
    assert short[f"{name}_protocol"] == "whole" and f"{name}_between_clips" not in short
    assert both.version() == f"{alone.version()}; 0.3 of it between clips by DINO and percentiles"
    assert "vbench/long_subject_table" in both.weights()
    assert "vbench/long_subject_table" not in alone.weights()


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, 0.0), (0.25, 0.45), (0.75, 0.95), (1.0, 1.0), (1.2, 1.0)]
)
def test_a_score_lies_between_two_rows_of_the_table(
    tables: str, score: float, expected: float
) -> None:
    path = weights.path("vbench/long_subject_table", tables)
    assert mapped(score, read_table(path)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "content", ["", "- 1\n- 2\n", "0.0: high\n", "0: .nan\n1: 1\n", "a: [", "1: 1"]
)
def test_a_damaged_table_is_a_reason(tables: str, content: str) -> None:
    path = weights.path("vbench/long_subject_table", tables)
    path.write_text(content)
    with pytest.raises(Unscorable, match="is no table of numbers"):
        read_table(path)


def test_what_has_no_part_between_clips_is_refused(python: Path) -> None:
    with pytest.raises(UserError, match="choose none or percentiles"):
        Consistency("subject_consistency", clip_to_clip="mean")
    with pytest.raises(UserError, match="choose among subject_consistency, background_consist"):
        Consistency("color")
    asked = configured("metrics=[vbench/subject_consistency,vbench/background_consistency]")
    kinds = {each["_target_"].rpartition(".")[2] for each in asked["metrics"].values()}
    assert kinds == {"Consistency"}


def test_imaging_quality_has_every_frame_and_its_network_once(python: Path) -> None:
    metric = ImagingQuality(str(python))
    try:
        rows = [metric.measure(clip(n, str(n)), None, "cpu") for n in (48, 32)]
    finally:
        metric.close()
    assert [list(row) for row in rows] == [[c.name for c in metric.columns()]] * 2
    assert rows[0]["vbench_imaging_quality_raw"] == pytest.approx(10 * np.arange(1, 49).mean())
    assert rows[0]["vbench_imaging_quality"] == pytest.approx(0.1 * np.arange(1, 49).mean())
    assert rows[0]["vbench_imaging_quality_windows"] == pytest.approx([1.75, 3.7])
    assert rows[0]["drift_vbench_imaging_quality_slope_per_s"] == pytest.approx(1.6)


def test_frames_that_were_not_scored_are_a_reason(python: Path) -> None:
    metric = ImagingQuality(str(python))
    assert "scored 4 of 5 frames" in reason(metric, clip(5, "4"))
    metric.close()


def test_the_studys_drift_is_of_beginnings_and_of_the_whole(python: Path) -> None:
    assert prefixes(165) == [50, 100, 150, 165]
    assert prefixes(50) == [50]
    metric = DriftPublished(str(python))
    row = metric.measure(clip(51, "1"), None, "cpu")
    assert row == {"drift_published": 0.1, "drift_published_points": [0.1, 0.1]}
    assert "even sides" in reason(metric, clip(3, "1", (33, 48)))
    metric.close()


def test_semantic_dimensions_take_official_prompts_only(python: Path) -> None:
    metric = Dimension("human_action", str(python))
    assert value(metric, clip(prompt="A person is riding a bike")) == 1  # by the file's name
    why = "its prompt is none of the official ones of human_action"
    assert reason(metric, clip(prompt="A person rides a bike")) == why
    assert reason(metric, clip(prompt="alley")) == why
    metric.close()


@pytest.mark.parametrize(("name", "least"), [("motion_smoothness", 113), ("dynamic_degree", 121)])
def test_frames_that_are_too_small_for_a_network_are_a_reason(name: str, least: int) -> None:
    assert f"needs {least} pixels a side, these are 64x128" in reason(
        Dimension(name), clip(sides=(64, 128))
    )


def test_what_is_missing_is_named_with_what_to_type(python: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "bin" / "python"
    assert f"{nowhere} does not exist: type make vbench" in str(
        Dimension(FLICKERING, str(nowhere)).missing()
    )
    assert Dimension(FLICKERING, str(python)).missing() is None
    old = vbench_fake.environment(tmp_path / "old", "0.1.4")
    assert "has vbench 0.1.4, and vbench 0.1.5 is needed" in str(
        Dimension(FLICKERING, str(old)).missing()
    )
    assert "no vbench, and vbench 0.1.5 is needed" in str(
        Dimension(FLICKERING, sys.executable).missing()
    )
    assert "has no detectron2" in str(Dimension("color", str(python)).missing())
    assert "has no easydict: type make vbench" in str(
        Dimension("dynamic_degree", str(python)).missing()
    )
    no_python = tmp_path / "not-python"
    no_python.write_text("#!/bin/sh\necho no; exit 3\n")
    no_python.chmod(0o755)
    assert "does not run as a Python interpreter" in str(
        Dimension(FLICKERING, str(no_python)).missing()
    )


def test_a_missing_file_of_weights_is_named_with_its_command(python: Path, tmp_path: Path) -> None:
    metric = ImagingQuality(str(python), str(tmp_path))
    place = tmp_path / "weights/vbench/pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"
    said = str(metric.missing())
    assert str(place) in said
    assert "python -m harness fetch weights metrics=vbench/imaging_quality" in said
    assert metric.weights() == {}
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a download")
    assert "expected one that begins with 358bb6af" in str(metric.missing())


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(UserError, match="no dimension smoothness: choose among subject_consist"):
        Dimension("smoothness")


def test_every_dimension_has_a_file_and_the_groups_select_them() -> None:
    chosen = configured("metrics=[vbench16,drift_published]")["metrics"]
    assert set(chosen) == {f"vbench_{name}" for name in DIMENSIONS} | {"drift_published"}
    for name, metric in zip(chosen, built(json.dumps(chosen)), strict=True):
        assert metric.name == name
        assert metric.one_at_a_time
        assert all(column.name.startswith((name, f"drift_{name}")) for column in metric.columns())
    seven = configured("metrics=[vbench]")["metrics"]
    assert set(seven) == {f"vbench_{name}" for name in totals.QUALITY}
    assert len(seven) == 7


def test_every_file_of_weights_is_used_by_the_dimensions_that_it_says() -> None:
    used = {name: set(DIMENSIONS[name].weights) for name in DIMENSIONS}
    for name, between in CLIP_TO_CLIP.items():
        used[name].add(between.table)
    for entry in weights.entries().values():
        if entry.name.startswith("vbench/"):
            by = {use.removeprefix("vbench/") for use in entry.used_by} - {"drift_published"}
            assert by == {name for name, files in used.items() if entry.name in files}, entry.name
            assert entry.path.startswith("vbench/")


def test_totals_by_hand() -> None:
    best = {name: totals.RANGES[name].highest for name in DIMENSIONS}
    assert totals.totals(best).total.value == pytest.approx(1)
    still = totals.totals({**best, "dynamic_degree": 0.0})
    assert still.quality.value == pytest.approx(6 / 6.5)
    assert still.semantic.value == pytest.approx(1)
    assert still.total.value == pytest.approx((4 * 6 / 6.5 + 1) / 5)
    half = totals.totals({**best, "motion_smoothness": 0.85175, "scene": 0.4111})
    assert half.quality.value == pytest.approx(6 / 6.5)
    assert half.semantic.value == pytest.approx(8.5 / 9)


def test_a_missing_dimension_is_no_zero_unless_the_published_rule_is_asked_for() -> None:
    means = {name: 1.0 for name in totals.QUALITY if name != "aesthetic_quality"}
    found = totals.totals({**means, "motion_smoothness": 0.9975, "aesthetic_quality": None})
    assert found.quality.value is None
    assert found.quality.missing == ("aesthetic_quality",)
    assert len(found.quality.has) == 6
    assert found.semantic.missing == totals.SEMANTIC
    assert found.total.value is None
    published = totals.totals({**means, "motion_smoothness": 0.9975}, as_published=True)
    assert published.quality.value == pytest.approx(5.5 / 6.5)
    nothing = (0 - 0.0009) / (0.2855 - 0.0009) / 9  # below the lowest of appearance_style
    assert published.semantic.value == pytest.approx(nothing)
    assert published.total.value == pytest.approx((4 * 5.5 / 6.5 + nothing) / 5)
    assert published.total.missing == ("aesthetic_quality", *totals.SEMANTIC)


def test_means_are_over_videos_and_in_the_published_protocol_over_those_of_its_prompts() -> None:
    rows = [
        {"prompt": "a", "vbench_scene": 0.5, "vbench_imaging_quality": 0.2},
        {"prompt": "a", "vbench_scene": None, "vbench_imaging_quality": 0.4},
        {"prompt": "b", "vbench_imaging_quality": 0.9, "vbench_color": math.nan},
    ]
    assert totals.dimension_means(rows) == pytest.approx({"scene": 0.5, "imaging_quality": 0.5})
    entries = [
        {"prompt_en": "a", "dimension": ["scene"]},
        {"prompt_en": "b", "dimension": ["imaging_quality"]},
    ]
    official = totals.official_prompts(entries)
    assert totals.dimension_means(rows, official) == {"scene": 0.5, "imaging_quality": 0.9}


def test_the_suite_reads_vbenchs_list(tmp_path: Path) -> None:
    place = tmp_path / "prompts" / "list.json"
    place.parent.mkdir()
    place.write_text(json.dumps([{"prompt_en": "a, b"}, {"prompt_en": "c"}, {"prompt_en": "c"}]))
    config = SuiteConfig(file="prompts/list.json", seconds=5)
    suite = resolve("vbench", config, str(tmp_path), 3, 16)
    assert [prompt.text for prompt in suite.prompts] == ["a, b", "c", "c"]
    place.write_text('{"prompt_en": "a"}')
    with pytest.raises(UserError, match="is no list of prompts of VBench"):
        resolve("vbench", config, str(tmp_path), 3, 16)


# What follows asks the real package, where `make vbench` has been typed.


@pytest.fixture(scope="module")
def real() -> Path:
    found = environment.interpreter(os.environ.get("HARNESS_VBENCH_PYTHON"))
    if said := environment.missing(found):
        pytest.skip(said)
    return found


def test_the_suites_list_is_that_of_the_package(real: Path, tmp_path: Path) -> None:
    (listing,) = real.parent.parent.glob("lib/python3*/site-packages/vbench/VBench_full_info.json")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / listing.name).write_bytes(listing.read_bytes())
    config = SuiteConfig(**configured("suite=vbench")["suite"])
    suite = resolve("vbench", config, str(tmp_path), 3, 16)
    assert (len(suite.prompts), suite.source, config.samples) == (946, "official", 5)
    dimensions = totals.official_prompts(json.loads(listing.read_text()))
    assert set(dimensions) == set(DIMENSIONS)
    assert {prompt.text for prompt in suite.prompts} == frozenset().union(*dimensions.values())
    assert len(dimensions["human_action"]) == 100


DIRECT = """
import importlib, json, sys
import cv2, decord, numpy, torch
from vbench.utils import init_submodules

dimensions, video, frames = sys.argv[1].split(), sys.argv[2], numpy.load(sys.argv[3])
reader = decord.VideoReader(video, num_threads=1)
assert (reader.get_batch(range(len(reader))).asnumpy() == frames).all(), "decord"
capture, seen = cv2.VideoCapture(video), []
while (read := capture.read())[0]:
    seen.append(read[1][..., ::-1])
assert (numpy.stack(seen) == frames).all(), "OpenCV"
for name in dimensions:
    info = video + ".json"
    entry = {"prompt_en": "", "dimension": [name], "video_list": [video]}
    open(info, "w").write(json.dumps([entry]))
    compute = getattr(importlib.import_module("vbench." + name), "compute_" + name)
    needs = init_submodules([name], local=True)[name]
    _, (result,) = compute(info, torch.device("cpu"), needs)
    print("value", float(result["video_results"]))
"""

# A small network in the place of DINO's, which is drawn at random.
HUB = """
import torch

dependencies = ["torch"]


def dino_vitb16(**kwargs):
    network = torch.nn.Conv2d(3, 8, 16, 16)
    address = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/"
    state = torch.hub.load_state_dict_from_url(address + "dino_vitbase16_pretrain.pth")
    network.load_state_dict(state)
    return torch.nn.Sequential(network, torch.nn.Flatten())
"""


def small_dino(cache: Path) -> Path:
    """Write it as the package's cache has it, and give the file of its weights."""
    code = cache / "dino_model" / "facebookresearch_dino_main"
    code.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUB)
    for name in ("utils", "vision_transformer"):
        (code / f"{name}.py").touch()
    place = cache / "dino_model" / "dino_vitbase16_pretrain.pth"
    torch.manual_seed(0)
    torch.save(torch.nn.Conv2d(3, 8, 16, 16).state_dict(), place)
    return place


def test_values_are_those_of_a_direct_call_of_the_package(real: Path, tmp_path: Path) -> None:
    place = small_dino(tmp_path / "weights" / "vbench")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / place.name).symlink_to(place)
    data_dir, names = str(tmp_path), (FLICKERING, "subject_consistency")
    metrics = [Dimension(name, str(real), data_dir) for name in names]
    video, between = clip(5, sides=(64, 96)), clip(4, sides=(64, 96))
    try:
        for each in (video, between, video):  # the last time with networks that were kept
            ours = [metric.measure(each, None, "cpu") for metric in metrics]
        staged = client.runner(real, data_dir).stage.lossless(video.frames_THWC, 16, (0, 5))
        np.save(tmp_path / "frames.npy", video.frames_THWC)
        told = subprocess.run(
            [real, "-c", DIRECT, " ".join(names), staged, tmp_path / "frames.npy"],
            env=environment.bare()
            | {"VBENCH_CACHE_DIR": str(place.parents[1]), "TORCH_HOME": str(tmp_path / "torch")},
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        metrics[0].close()
    direct = [float(line.split()[1]) for line in told.stdout.splitlines() if line[:6] == "value "]
    assert len(direct) == 2
    for metric, row, number in zip(metrics, ours, direct, strict=True):
        assert row[metric.name] == pytest.approx(number, abs=1e-6)
    assert 0 < direct[0] < 1 and 0 < direct[1] < 1
