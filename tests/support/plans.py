"""Plans methods."""

from __future__ import annotations

from harness.planning import request
from harness.planning.forecast import Forecast, forecast


def planned(*words: str) -> list[Forecast]:
    options, others = request.split(words)
    setting, methods = request.resolve(options, others, None)
    return [forecast(name, method, setting) for name, method in methods.items()]
