"""Plans methods."""

from __future__ import annotations

from harness.planning import request
from harness.planning.forecast import forecast
from harness.planning.predicted import Forecast
from harness.planning.setting import resolve


def planned(*words: str) -> list[Forecast]:
    options, others = request.split(words)
    setting, methods = resolve(request.request(options, others, None))
    return [forecast(name, method, setting) for name, method in methods.items()]
