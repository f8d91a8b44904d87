"""Validates settings of retention policies, with uniform error messages."""

from __future__ import annotations

from harness.api import Budget, CacheSpec, VideoSize


def require_shares(owner: object, *names: str, above: bool = False) -> None:
    """Check that the named fields of `owner` are shares from 0 to 1; `above` excludes 0.

    Raises  ValueError: a field is not; the message names the field, its value and the range.
    """
    for name in names:
        share = getattr(owner, name)
        # True and False are numbers in Python.
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1 or (above and share == 0):
            low = "a share above 0, at most 1" if above else "a share from 0 to 1"
            raise ValueError(f"{type(owner).__name__}.{name}={share}: choose {low}")


def require_choice(owner: object, name: str, *allowed: str) -> None:
    """Check that the named field of `owner` is one of the allowed words.

    Raises  ValueError: it is not; the message names the field, its value and the allowed words.
    """
    value = getattr(owner, name)
    if value not in allowed:
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise ValueError(f"{type(owner).__name__}.{name}={value}: choose {words}")


def require_counts(owner: object, *names: str, least: int = 0) -> None:
    """Check that the named fields of `owner` are whole numbers of at least `least`.

    Raises  ValueError: a field is not; the message names the field, its value and the minimum.
    """
    for name in names:
        count = getattr(owner, name)
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise ValueError(
                f"{type(owner).__name__}.{name}={count}: choose a whole number, at least {least}"
            )


def most_frames(budget: str, spec: CacheSpec) -> int:
    """Return an upper bound for the frames that a budget can hold, before the video size is known.

    It is exact for budgets in frames and tokens.
    """
    # Other budgets depend on the video size. Assume a huge video here: `sized` checks them later.
    return Budget(budget).frames(VideoSize(spec.tokens_per_frame, 2**40, 1, 1, spec.chunk_frames))
