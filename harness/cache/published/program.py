"""Settings that distinguish the versions of the study's program that produced its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Program:
    """Settings of a program that decodes and encodes its cache again and again.

    codes: dtype of a stored code, whatever its bits.
    extent: frames to encode: the whole `capacity`, with zeros for frames still to come, or the
        `filled` part.
    history: frames that the policy sees: the `capacity`, frames still to come included, or the
        `filled` part.
    cadence: encode at every `pass`, or only in the `commit` pass; noisy passes then only decode.
    compete: dropped and pooled frames stay in the policy's history, as zeros or copies of their
        mean, and may be chosen again; otherwise they are left out.
    places: record of a method's tiers: `none` if ranges are enough, `index` with an int64 per
        token, or `mask` with an index and a bool mask of the capacity.
    beside: keep an exact buffer of the whole capacity in addition to the codes.

    Raises  ValueError: an unknown choice; history=capacity with extent=filled.
    """

    codes: Literal["int16", "int8"] = "int16"
    extent: Literal["capacity", "filled"] = "capacity"
    history: Literal["capacity", "filled"] = "filled"
    cadence: Literal["pass", "commit"] = "pass"
    compete: bool = False
    places: Literal["none", "index", "mask"] = "none"
    beside: bool = False

    def __post_init__(self) -> None:
        # Settings of files have been checked already, but Python code may build a program directly.
        for name, hint in get_type_hints(Program).items():
            allowed, found = get_args(hint), getattr(self, name)
            if get_origin(hint) is Literal and found not in allowed:
                raise ValueError(f"integration.{name}={found}: choose {' or '.join(allowed)}")
        if self.history == "capacity" and self.extent == "filled":
            raise ValueError(
                "integration.history=capacity: frames still to come are not stored with "
                "extent=filled, choose history=filled or extent=capacity"
            )
