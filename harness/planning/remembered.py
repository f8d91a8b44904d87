"""Remembers what decoders need: counting them imports diffusers, the slowest part of a plan."""

from __future__ import annotations

from dataclasses import asdict

from harness.models.preset import VideoModel
from harness.planning.model_needs import SETTLED, Decoding, decoding
from harness.system.notes import noted


def remembered(model: VideoModel) -> Decoding:
    """Return the memory of a model's decoder; count it if no earlier plan did.

    Raises  UserError: see `decoding`.
    """
    kind = type(model.decoder)
    if not kind.__module__.startswith("harness."):  # the code version says nothing of a user's own
        return decoding(model)
    settings = {name: str(x) for name, x in vars(model.decoder).items() if name[0] != "_"}
    asked = [kind.__qualname__, settings, model.latent_shape(SETTLED), model.dtype]
    known = noted("decoding", asked, lambda: asdict(decoding(model)))
    return Decoding(**{**known, "pixel_bytes": tuple(known["pixel_bytes"])})
