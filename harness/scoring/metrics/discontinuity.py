"""Chunk discontinuity: the change across the joints of chunks, against that inside chunks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.scoring.metrics.signals import change, luma
from harness.scoring.metrics.windows import Series


class Discontinuity(Metric):
    """Change of luma into the first frame of each later chunk, over the changes inside chunks.

    1: a joint changes as much as any other step. Above 1: the video jumps where a chunk begins.
    Below 1: it freezes there. A steady pan gives 1 at any speed; a cut inside a chunk lowers it.

    Source  ours. Forcing-KV (arXiv 2605.09681) names the quantity and measures optical flow, as
            `FlowDiscontinuity` does; its formula was not seen.
    """

    name = "discontinuity"
    what = "change of luma"
    unit = "levels"

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the ratio over all joints, by joint, and its two sides."""
        name, what = self.name, self.what
        joint = f"{what} at the joints of chunks"
        return (
            Column(name, f"mean {joint}, over the mean inside chunks"),
            Column(f"{name}_latent", f"mean {joint}, over that of latent frames inside chunks"),
            Column(f"{name}_worst", "largest value of a joint"),
            Column(
                f"{name}_joints",
                f"{what} at each joint, over the mean inside the two chunks beside it; null where "
                "nothing changes there, or a new prompt begins",
                kind=list[float],
            ),
            Column(f"{name}_at_joints", f"mean {joint}", self.unit),
            Column(f"{name}_inside", f"mean {what} inside chunks", self.unit),
        )

    def version(self) -> str:
        """Describe the definition; no package affects it."""
        return "mean absolute change of luma of BT.601 from frame to frame, joints over the rest"

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        if not clip.joints:
            raise Unscorable("the video is a single chunk: it has no joint")
        if set(clip.joints) <= set(clip.switches):
            raise Unscorable("a new prompt begins at every joint of the video")
        num_frames = len(clip.frames_THWC)
        changes_T = self.changes(clip, device)
        # Change t - 1 is the step from frame t - 1 to frame t.
        into_T = np.arange(1, num_frames)  # the frame that each change leads to
        any_joint_T = np.isin(into_T, clip.joints)
        # Where a new prompt begins, a change is wanted: that step counts neither as a joint nor as
        # one inside a chunk.
        is_joint_T = any_joint_T & ~np.isin(into_T, clip.switches)
        inside = changes_T[~any_joint_T]
        if not inside.any():
            raise Unscorable("nothing changes inside the chunks of this video: no joint compares")
        # The decoder shapes the steps between two latent frames differently from those within one,
        # and a joint is a step between latent frames. After the first chunk every latent frame has
        # as many pixel frames, so these steps lie that far apart, counted from the first joint.
        is_latent_T = ~any_joint_T & ((into_T - clip.joints[0]) % TEMPORAL_STRIDE == 0)
        latent = float(changes_T[is_latent_T].mean()) if is_latent_T.any() else 0.0

        edges = [0, *clip.joints, num_frames]
        by_joint: list[float | None] = []
        for start, joint, stop in zip(edges, edges[1:], edges[2:], strict=False):
            # Only the two chunks beside the joint: motion may differ over the video.
            beside = np.concatenate([changes_T[start : joint - 1], changes_T[joint : stop - 1]])
            moves = beside.any() and joint not in clip.switches
            by_joint.append(float(changes_T[joint - 1] / beside.mean()) if moves else None)
        at_joints = float(changes_T[is_joint_T].mean())
        values: tuple[Value, ...] = (
            at_joints / float(inside.mean()),
            at_joints / latent if latent else None,
            max((value for value in by_joint if value is not None), default=None),
            by_joint,
            at_joints,
            float(inside.mean()),
        )
        return dict(zip((column.name for column in self.columns()), values, strict=True))

    def changes(self, clip: Clip, device: str) -> Series:
        """Return the change from each frame to the next [T - 1] f64, in `unit`."""
        lumas = (luma(frame_HWC.astype(np.float32)) for frame_HWC in clip.frames_THWC)
        before_HW, found = next(lumas), []
        # One frame at a time: float32 takes four times the memory of the frames.
        for luma_HW in lumas:
            found.append(float(change(luma_HW, before_HW)))
            before_HW = luma_HW
        return np.array(found, np.float64)
