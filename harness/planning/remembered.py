"""Remembers what decoders need: counting them imports diffusers, the slowest part of a plan.

The counts lie in the user's cache folder. They are counted again for other sizes, settings of the
decoder, and versions of this code, torch or diffusers.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict

from harness.models.preset import VideoModel
from harness.planning.model_needs import SETTLED, Decoding, decoding
from harness.system.files import write_json
from harness.system.paths import CACHE
from harness.system.version import code_version, package_version

FOLDER = CACHE / "decoding"


def remembered(model: VideoModel) -> Decoding:
    """Return the memory of a model's decoder; count it if no earlier plan did.

    If the note cannot be written, each plan counts again.
    Raises  UserError: see `decoding`.
    """
    kind = type(model.decoder)
    if not kind.__module__.startswith("harness."):  # the code version says nothing of a user's own
        return decoding(model)
    settings = {name: str(x) for name, x in vars(model.decoder).items() if name[0] != "_"}
    versions = [code_version(), *map(package_version, ("torch", "diffusers"))]
    asked = [kind.__qualname__, settings, model.latent_shape(SETTLED), model.dtype, versions]
    note = FOLDER / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):  # missing, damaged
        known = json.loads(note.read_text())
        return Decoding(**{**known, "pixel_bytes": tuple(known["pixel_bytes"])})
    found = decoding(model)
    with suppress(OSError):
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(note, asdict(found), durable=False)
    return found
