"""What the policies' settings must obey, said the same way everywhere."""

from __future__ import annotations

from harness.api import Budget, CacheSpec, VideoSize


def require_shares(owner: object, *names: str, above: bool = False) -> None:
    """Refuse fields that are not a share from 0 (or `above` 0) to 1.

    Raises  ValueError: names the field, its value and what is allowed.
    """
    for name in names:
        share = getattr(owner, name)
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1 or (above and share == 0):
            low = "a share above 0, at most 1" if above else "a share from 0 to 1"
            raise ValueError(f"{type(owner).__name__}.{name}={share}: choose {low}")


def require_choice(owner: object, name: str, *allowed: str) -> None:
    """Refuse a field that is none of the words allowed.

    Raises  ValueError: names the field, its value and what is allowed.
    """
    value = getattr(owner, name)
    if value not in allowed:
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise ValueError(f"{type(owner).__name__}.{name}={value}: choose {words}")


def require_counts(owner: object, *names: str, least: int = 0) -> None:
    """Refuse fields that are not a whole number from `least` on.

    Raises  ValueError: names the field, its value and what is allowed.
    """
    for name in names:
        count = getattr(owner, name)
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise ValueError(
                f"{type(owner).__name__}.{name}={count}: choose a whole number, at least {least}"
            )


def most_frames(budget: str, spec: CacheSpec) -> int:
    """Frames that a budget can hold at most, before the sizes of the video are known.

    Exact for frames and tokens; budgets in bytes mean something only in a `VideoSize`, so they are
    taken for as large as can be and checked when the policy is `sized`.
    """
    return Budget(budget).frames(VideoSize(spec.tokens_per_frame, 2**40, 1, 1))
