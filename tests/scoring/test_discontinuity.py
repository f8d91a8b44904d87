"""Chunk discontinuity: cuts, freezes and pans at the joints of chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.downloads import weights
from harness.scoring.metrics.discontinuity import Discontinuity
from harness.scoring.metrics.flow_discontinuity import FlowDiscontinuity
from harness.scoring.metrics.metric import Clip, Frames, Unscorable
from tests.support.made_up_frames import moving
from tests.support.scored import finish, leave, pair
from tests.support.scored import row as row_of

JOINTS = (9, 21, 33)  # chunks of three latent frames by Wan's VAE: 9 frames, then 12 each
NUM_FRAMES = 45


def row(frames_THWC: Frames, joints: tuple[int, ...] = JOINTS) -> dict[str, Any]:
    return dict(Discontinuity().measure(Clip(frames_THWC, 16, 9, joints=joints), None, "cpu"))


def of_levels(levels: list[int]) -> Frames:
    """A video of flat grey frames."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 4, 4, 3))


def test_a_smooth_video_is_near_one_and_a_freeze_at_each_joint_is_zero() -> None:
    pan = moving(NUM_FRAMES)
    assert row(pan)["discontinuity"] == pytest.approx(1, abs=0.05)
    assert row(pan)["discontinuity_latent"] == pytest.approx(1, abs=0.05)
    assert row(of_levels(list(range(NUM_FRAMES))))["discontinuity"] == pytest.approx(1)
    frozen = pan.copy()
    for joint in JOINTS:
        frozen[joint] = frozen[joint - 1]
    assert row(frozen)["discontinuity"] == 0


def test_a_cut_at_every_joint_scores_high_and_a_cut_elsewhere_low() -> None:
    def cut_at(places: tuple[int, ...]) -> Frames:
        frames = moving(NUM_FRAMES).copy()
        for place in places:
            frames[place:] = 255 - frames[place:]
        return frames

    assert row(cut_at(JOINTS))["discontinuity"] > 3
    assert row(cut_at(JOINTS))["discontinuity_worst"] > 3
    assert row(cut_at((5, 15, 27)))["discontinuity"] < 1
    one = row(cut_at(JOINTS[1:2]))
    assert [value > 3 for value in one["discontinuity_joints"]] == [False, True, False]


def test_by_hand() -> None:
    """Two chunks of two latent frames: changes of 1, 3 between latent frames, 12 at the joint."""
    levels = [0, 3, 4, 5, 6, 18, 19, 20, 21, 24, 25, 26, 27]
    values = row(of_levels(levels), joints=(5,))
    inside = (9 * 1 + 2 * 3) / 11
    assert values == {
        "discontinuity": pytest.approx(12 / inside, rel=1e-5),
        "discontinuity_latent": pytest.approx(12 / 3, rel=1e-5),
        "discontinuity_worst": pytest.approx(12 / inside, rel=1e-5),
        "discontinuity_joints": [pytest.approx(12 / inside, rel=1e-5)],
        "discontinuity_at_joints": pytest.approx(12, rel=1e-5),
        "discontinuity_inside": pytest.approx(inside, rel=1e-5),
    }


def test_chunks_of_one_latent_frame_have_no_latent_frames_inside() -> None:
    values = row(of_levels(list(range(9))), joints=(1, 5))
    assert values["discontinuity"] == pytest.approx(1)
    assert values["discontinuity_latent"] is None


def test_a_joint_between_still_chunks_is_null() -> None:
    values = row(of_levels([7] * 21 + list(range(8, 32))))
    assert values["discontinuity_joints"] == [
        None,
        *(pytest.approx(x) for x in (2, 1)),
    ]  # half of it moves
    assert values["discontinuity_worst"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("joints", "said"), [((), "single chunk: it has no joint"), (JOINTS, "nothing changes inside")]
)
def test_what_cannot_be_compared_is_said(joints: tuple[int, ...], said: str) -> None:
    with pytest.raises(Unscorable, match=said):
        row(of_levels([7] * NUM_FRAMES), joints)


def test_a_change_of_prompt_is_no_joint_and_no_step_inside() -> None:
    frames = moving(NUM_FRAMES).copy()
    frames[21:] = 255 - frames[21:]
    cut = Discontinuity().measure(Clip(frames, 16, 9, joints=JOINTS, switches=(21,)), None, "cpu")
    assert cut["discontinuity"] == pytest.approx(1, abs=0.1)
    assert cut["discontinuity_joints"][1] is None  # type: ignore[index]
    with pytest.raises(Unscorable, match="a new prompt begins at every joint"):
        Discontinuity().measure(Clip(frames, 16, 9, joints=(21,), switches=(21,)), None, "cpu")


def test_columns_are_what_is_measured() -> None:
    names = [column.name for column in Discontinuity().columns()]
    assert names == list(row(moving(NUM_FRAMES)))
    assert [name.replace("discontinuity", "discontinuity_flow", 1) for name in names] == [
        column.name for column in FlowDiscontinuity().columns()
    ]


def test_the_joints_of_a_run_are_those_of_its_models_chunks(tmp_path: Path) -> None:
    """The small model has chunks of three latent frames: joints at pixel frames 9, 21 and 33."""
    ours = {"discontinuity": {"_target_": f"{Discontinuity.__module__}.Discontinuity"}}
    this, _ = pair(tmp_path, ours, num_videos=1)
    frames = moving(NUM_FRAMES).copy()
    frames[21:] = 255 - frames[21:]
    leave(this, 0, frames)
    finish(this)
    by_joint = row_of(this)["discontinuity_joints"]
    assert [value > 3 for value in by_joint] == [False, True, False]
    assert list(by_joint) == pytest.approx(row(frames)["discontinuity_joints"])


# By optical flow


def test_flow_without_its_network_says_how_to_fetch_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "fetch weights" in (FlowDiscontinuity(str(tmp_path)).missing() or "")


def test_flow_reads_torchvisions_file_and_measures_the_pixels_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Random weights: the number means nothing, but it is that of the network, and finite."""
    import torch
    from torchvision.models.optical_flow import raft_small  # type: ignore[import-untyped]

    torch.manual_seed(0)
    network = raft_small().eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    monkeypatch.setattr(weights, "path", lambda *_: tmp_path / "raft.pth")
    frames = moving(3, 128, 132)  # 132: padded to 136
    before = torch.random.get_rng_state()
    metric = FlowDiscontinuity()
    found = metric.changes(Clip(frames, 16, 1, joints=(1,)), "cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    pixels = torch.from_numpy(np.pad(frames, ((0, 0), (0, 0), (0, 4), (0, 0)), mode="edge"))
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        flow = network(x[:-1], x[1:])[-1][..., :128, :132]
    assert found == pytest.approx(flow.norm(dim=1).mean((-2, -1)).tolist(), rel=1e-4)


def test_flow_refuses_frames_too_small_for_its_network() -> None:
    clip = Clip(moving(NUM_FRAMES, 64, 128), 16, 9, joints=JOINTS)
    with pytest.raises(Unscorable, match="128 pixels or more a side, these are 64x128"):
        FlowDiscontinuity().measure(clip, None, "cpu")
