"""Checks that latents, keys and values are finite, and names the first place where they are not.

Checks run on the device of the tensors. Results are read once per chunk, so that no pass waits for
a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.system.errors import NotFinite, first_line


def are_finite(*tensors: Tensor) -> Tensor:
    """Return whether all values are finite: [] bool on the tensors' device."""
    # Minimum and maximum of a tensor with a NaN are NaN. A sum would be shorter but could overflow,
    # and isfinite() of a whole tensor would allocate a mask of its size.
    ends = [end.float() for x in tensors if x.numel() for end in x.aminmax()]
    return torch.stack(ends).isfinite().all() if ends else torch.tensor(True)


class KeyValueWatch:
    """Collects, by layer, whether keys and values of a commit pass are finite.

    It covers the new keys and values and the decoded history.
    """

    # Finite latents do not show this: some attention kernels hide an infinite key from their
    # output.
    def __init__(self) -> None:
        # Layer, whether the note is about the history, and the answer [] bool on the device.
        self._notes: list[tuple[int, bool, Tensor]] = []

    def note(self, layer: int, is_history: bool, *answers: Tensor) -> None:
        """Keep results of `are_finite` on the device, without reading them."""
        self._notes += [(layer, is_history, answer) for answer in answers]

    def demand_finite(self, where: str, session: Any) -> None:
        """Clear the notes; raise NotFinite with the first layer whose keys or values are not.

        where: chunk in the message.
        session: see `demand_finite_passes`.
        """
        # The first one in time is the cause; later layers only inherit it.
        notes, self._notes = self._notes, []
        if not notes:  # a pass that stores nothing
            return
        answers = torch.stack([answer for *_, answer in notes]).tolist()
        if not all(answers):
            layer, is_history, _ = notes[answers.index(False)]
            if is_history:
                raise NotFinite(
                    f"stored keys or values of layer {layer} are not finite when the commit pass "
                    f"of {where} reads them{_broken_history(session)}"
                )
            raise NotFinite(
                f"keys or values of layer {layer} are not finite in the commit pass of {where}, "
                "whose latents are"
            )


def demand_finite_passes(finite: Sequence[Tensor], where: str, session: Any) -> None:
    """Raise NotFinite if the latents of a denoising pass were not finite.

    finite: result of `are_finite` for each pass of a chunk, in order.
    where: chunk in the message.
    session: the cache of these passes; if it can decode its history, the message says whether
        stored keys or values are the cause.
    """
    # One transfer for all passes of the chunk.
    answers = torch.stack([*finite]).tolist()
    if not all(answers):
        step = answers.index(False) + 1
        raise NotFinite(
            f"the latents of {where} are not finite from denoising pass {step} of {len(answers)} "
            f"on{_broken_history(session)}"
        )


def _broken_history(session: Any) -> str:
    """Describe the first layer and frame whose decoded keys or values are not finite."""
    # `PublishedSession` has no `stored`, so its message names no frame.
    if not hasattr(session, "stored") or not session.stored_bytes:
        return ""
    try:
        for layer in range(session.spec.num_layers):
            frames, *stored = session.stored(layer)
            for what, x_BHFTD in zip(("keys", "values"), stored, strict=True):
                finite_F = x_BHFTD.isfinite().transpose(0, 2).flatten(1).all(1).tolist()
                if not all(finite_F):
                    frame = frames[finite_F.index(False)]
                    return f"; the method decodes the {what} of layer {layer}, frame {frame}, so"
    except Exception as error:  # noqa: BLE001  must not replace the error about the video
        return f"; its history cannot be looked at ({first_line(error)})"
    return "; all that the method decodes of the history is finite"
