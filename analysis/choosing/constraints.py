"""Parses and checks constraints: `peak_gib<=8`, `runtime_s<=1.1x`, `ssim>=bf16-0.05`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.choosing.frontiers import EPSILON, OF_ITSELF
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError, did_you_mean

# Forms: `peak_gib<=8`, `runtime_s<=1.1x` (times BF16's value), `ssim>=bf16-0.05`.
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
FORM = re.compile(
    rf"\s*(?P<name>\w+)\s*(?P<op><=|>=|<|>)\s*"
    # Either a number, perhaps with an x, or BF16's value and a signed difference.
    rf"(?:(?P<plain>{NUMBER})(?P<times>x?)|bf16\s*(?P<sign>[+-])\s*(?P<more>{NUMBER}))\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Constraint:
    """One bound of one quantity.

    amount: by `kind` the bound itself (`number`), a factor of BF16's value (`times`), or a
        difference to it (`more`; negative for less).
    """

    quantity: str
    op: Literal["<=", ">=", "<", ">"]
    amount: float
    kind: Literal["number", "times", "more"] = "number"

    def __str__(self) -> str:
        # Printed as typed, so that a note can be copied into a command.
        if self.kind == "more":
            return f"{self.quantity}{self.op}bf16{self.amount:+g}"
        return f"{self.quantity}{self.op}{self.amount:g}{'x' if self.kind == 'times' else ''}"

    def limit(self, reference: pd.Series | None) -> float:
        """Return the bound as a number.

        A fidelity of BF16 is by definition that of a video to itself, even without a BF16 run.
        Raises  UserError: the bound is relative to BF16's value and there is none.
        """
        if self.kind == "number":
            return self.amount
        # A bound may refer to BF16's fidelity, which is known without a run: a video equals itself.
        by_definition = OF_ITSELF.get(self.quantity, np.nan)
        found = None if reference is None else reference.get(self.quantity)
        base = by_definition if found is None else float(found)
        if not np.isfinite(base):
            title = QUANTITIES[self.quantity].title
            what = "no BF16 run" if reference is None else f"no finite {title} of BF16"
            raise UserError(
                f"{self} is told by BF16's value and there is {what} here: give a plain number, "
                "or run method=bf16 with the same settings"
            )
        return base * self.amount if self.kind == "times" else base + self.amount

    def excess(self, values: pd.Series, limit: float) -> pd.Series:
        """Return how far values are on the wrong side of the bound; negative on the right side."""
        return values - limit if self.op.startswith("<") else limit - values

    def met(self, values: pd.Series, limit: float) -> pd.Series:
        """Return which values satisfy the bound; a missing value does not."""
        over = self.excess(values, limit)
        # Equal numbers differ by rounding, so a bound that includes its limit needs some slack.
        return over <= EPSILON if self.op.endswith("=") else over < -EPSILON


def parse(word: str, known: Collection[str]) -> Constraint:
    """Parse one constraint.

    known: the available quantities, for the error message.
    Raises  UserError: not a constraint, or an unknown quantity.
    """
    found = FORM.fullmatch(word)
    if found is None:
        raise UserError(
            f"{word!r} is no constraint: give <quantity><=<number>, with x for times BF16's value "
            "(runtime_s<=1.1x) or bf16 and a difference (ssim>=bf16-0.05); also >=, < and >"
        )
    quantity = named(found["name"].lower(), known)
    op: Literal["<=", ">=", "<", ">"] = found["op"]  # type: ignore[assignment]
    if found["more"] is not None:
        return Constraint(quantity, op, float(found["sign"] + found["more"]), "more")
    return Constraint(quantity, op, float(found["plain"]), "times" if found["times"] else "number")


def named(name: str, known: Collection[str]) -> str:
    """Return the name if it is a quantity.

    Raises  UserError: there is none of this name; suggests close and available names.
    """
    # Known to the harness and not only to these results: a quantity that is merely missing here
    # gets a better reason from the caller than "no such quantity".
    if name in QUANTITIES:
        return name
    hint = did_you_mean(name, list(QUANTITIES))
    raise UserError(f"there is no quantity {name!r}{hint}: choose {', '.join(known)}")


def fixed(words: Sequence[str]) -> tuple[Constraint, ...]:
    """Parse constraints of our own data files."""
    return tuple(parse(word, QUANTITIES) for word in words)


def readable(
    constraints: Sequence[Constraint], values: pd.DataFrame, reference: pd.Series | None
) -> tuple[dict[Constraint, float], list[str]]:
    """Compute the bounds that can be evaluated here; explain the others."""
    limits: dict[Constraint, float] = {}
    unread: list[str] = []
    for each in constraints:
        # A bound that nothing can be compared with excludes nobody and is named instead.
        if each.quantity not in values or values[each.quantity].isna().all():
            unread.append(f"{each}: nothing here has {QUANTITIES[each.quantity].title}")
            continue
        try:
            limits[each] = each.limit(reference)
        except UserError as error:
            unread.append(str(error))
    return limits, unread
