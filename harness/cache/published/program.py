"""What differs between the states of the study's program that produced its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WIDE = ("int16", "int8")
CHOICES = {
    "codes": WIDE,
    "extent": ("capacity", "filled"),
    "history": ("capacity", "filled"),
    "cadence": ("pass", "commit"),
    "places": ("none", "index", "mask"),
}


@dataclass(frozen=True)
class Program:
    """Habits of a program that decodes and encodes its cache at every pass.

    codes: the type of a stored code, whatever its bits.
    extent: what is encoded: the whole capacity, zeros where no frame is yet, or the filled part.
    history: what a policy sees: the capacity, frames still to come included, or the filled part.
    cadence: encode at every pass, or only in the commit pass; noisy passes then only decode.
    compete: frames that were dropped or pooled lie in the policy's history, as zeros or copies of
    their mean, and may be chosen again; else they are out.
    places: how a method with tiers remembers where tokens lie: `none` where ranges suffice, an
    int64 `index` a token, or a bool `mask` of the capacity beside it.
    beside: an exact buffer of the whole capacity is held beside the codes.

    Raises  ValueError: an unknown choice; a policy that is to see frames that are not encoded.
    """

    codes: Literal["int16", "int8"] = "int16"
    extent: Literal["capacity", "filled"] = "capacity"
    history: Literal["capacity", "filled"] = "filled"
    cadence: Literal["pass", "commit"] = "pass"
    compete: bool = False
    places: Literal["none", "index", "mask"] = "none"
    beside: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown choices."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"integration.{name}={getattr(self, name)}: choose {' or '.join(allowed)}"
                )
        if self.history == "capacity" and self.extent == "filled":
            raise ValueError(
                "integration.history=capacity: frames still to come are not stored with "
                "extent=filled, choose history=filled or extent=capacity"
            )
