"""Builds objects from stored settings, which are untrusted.

A results folder may come from anybody, and its `request.json` names classes to call. This module is
the only way from stored settings to Hydra: it builds classes of an allow-list only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.system.errors import UserError
from harness.system.paths import ROOT
from harness.system.typed import TARGET
from harness.system.user_folder import exposed

# Outermost packages whose classes may be built; a user's folder adds its own modules.
OURS = ("harness", "methods")
# Modules that define the parts of a run. Other modules of the harness have classes that open files
# or start processes when they are called.
PARTS = (
    "harness.api",
    "harness.cache.attention",
    "harness.cache.integration",
    "harness.sampling.diffusion_forcing",
    "harness.sampling.guidance",
    "harness.sampling.loop",
    "harness.sampling.pipeline",
    "harness.models",
    "harness.cache.published",
    "harness.sampling.schedule",
    "harness.small_model.codec",
    "harness.small_model.scenes",
    "methods",
)
# Packages that export parts under the public names that configuration files use. Their other
# exports are refused, since they are not defined in one of PARTS.
FACES = ("harness.cache", "harness.sampling", "harness.small_model")


def build(settings: Any, source: Path | str, own: Path | None = None) -> Any:
    """Build the object that stored settings describe.

    source: folder or file of the settings, for messages.
    own: the user's folder, whose classes are allowed too; None for the `--config-dir` of this
    process.
    Raises  UserError: the settings name a class that is not allowed. InstantiationException: the
    class raised an error.
    """
    from hydra.utils import instantiate

    check(settings, source, own)
    return instantiate(settings)


def find_class(target: Any, source: Path | str, own: Path | None = None) -> type:
    """Return the class that a stored `_target_` names; `source` and `own` as for `build`.

    Raises  UserError: the class is not allowed.
    """
    own = own or exposed()
    found = _class(target, own)
    if found is None:
        module, _, name = str(target).rpartition(".")
        # Earlier versions exported more: the text encoder of the first small model, for example.
        if module in FACES and not hasattr(importlib.import_module(module), name):
            raise UserError(
                f"{source} names {target!r}, which this version does not have: it was made by an "
                "earlier one; score it with that version, or move its folder elsewhere"
            )
        folder = f" or {own}" if own is not None else ", or in a folder that --config-dir names"
        raise UserError(
            f"{source} names {target!r}, which is not built from stored settings: only classes of "
            f"the harness and of methods{folder} are; if you trust it, name its folder"
        )
    return found


def check(settings: Any, source: Path | str, own: Path | None = None) -> None:
    """Check that stored settings name only allowed classes; `source` and `own` as for `build`.

    Raises  UserError: another class, or an interpolation.
    """
    # Settings are resolved before they are stored, so an interpolation did not come from us. It
    # could read environment variables.
    for place, value in _leaves(settings):
        name = place.rpartition(".")[2]
        if name == TARGET:
            find_class(value, source, own)
        elif isinstance(value, str) and "${" in value:
            raise UserError(
                f"{source} holds {place}={value!r}, which would be looked up here: stored settings "
                "are values; repeat the command of this run, which writes them anew"
            )


def _leaves(settings: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted path; keys, and targets of any type, are values too."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            # A name could hold an interpolation too.
            yield f"{place}.(name)", name
            at = f"{place}.{name}" if place else str(name)
            if name == TARGET:
                yield at, value
            else:
                yield from _leaves(value, at)
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        for index, value in enumerate(settings):
            yield from _leaves(value, f"{place}[{index}]")
    else:
        yield place, settings


def _class(target: Any, own: Path | None) -> type | None:
    """Return the public class that a target names; None if its module is not allowed."""
    # Every check that needs no import comes first: importing a module executes it.
    if not isinstance(target, str) or not all(map(str.isidentifier, target.split("."))):
        return None
    module, _, name = target.rpartition(".")
    # Private names are no interface, and `__class__` and its like lead from one class to others.
    if not module or any(part.startswith("_") for part in target.split(".")):
        return None
    is_ours = module.split(".")[0] in OURS
    if is_ours and module not in FACES and not _is_part(module):
        return None
    place = ROOT if is_ours else own
    if place is None or not _lies_below(module, place):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception:  # noqa: BLE001  a module of the user's may raise anything when imported
        return None
    if not isinstance(found, type):
        return None
    # A module also contains the names that it imports; only classes defined in it are allowed.
    written = found.__module__
    at_home = _is_part(written) if is_ours else _lies_below(written, place)
    return found if at_home else None


def _is_part(module: str) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in PARTS)


def _lies_below(module: str, folder: Path) -> bool:
    """Whether a module's outermost package or file lies directly in a folder."""
    # Not in a subfolder: a virtual environment with packages of others may lie there too.
    # find_spec of an outermost name does not execute it.
    outer = module.split(".")[0]
    try:
        known = sys.modules.get(outer)
        spec = known.__spec__ if known is not None else find_spec(outer)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    if spec.submodule_search_locations is not None:  # a package, with or without __init__.py
        places = [Path(place).resolve().parent for place in spec.submodule_search_locations]
    else:
        places = [Path(str(spec.origin)).resolve().parent] if spec.has_location else []
    return places == [folder.resolve()]
