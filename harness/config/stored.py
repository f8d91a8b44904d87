"""Objects built from what a results folder says: stored settings are data, whoever wrote them.

A folder of results may come from anybody, and its `request.json` names classes to call. Nothing
that is read from one reaches Hydra but through here.
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
from harness.system.user_folder import exposed

OURS = ("harness", "methods")
# Where the parts of a run are written, of all modules of the harness: the others hold classes that
# open files or start processes when they are called.
PARTS = (
    "harness.api",
    "harness.cache.attention",
    "harness.cache.integration",
    "harness.sampling.guidance",
    "harness.sampling.loop",
    "harness.models",
    "harness.cache.published",
    "harness.sampling.schedule",
    "harness.small_model.codec",
    "harness.small_model.world",
    "methods",
)
# Packages that export parts under the public names that configuration files use. What they export
# besides is refused, since it is not written in one of PARTS.
FACES = ("harness.cache", "harness.sampling", "harness.small_model")
TARGET = "_target_"


def build(settings: Any, source: Path | str, own: Path | None = None) -> Any:
    """The object that stored settings describe.

    source: the folder or file that they come from, for the sentence. own: the folder of
    `--config-dir`, whose classes may be named too; else the one that this process was started with.
    Raises  UserError: they name what they may not. InstantiationException: what a class raises.
    """
    from hydra.utils import instantiate

    check(settings, source, own)
    return instantiate(settings)


def find_class(target: Any, source: Path | str, own: Path | None = None) -> type:
    """The class that a stored target names.

    Raises  UserError: it may not be named.
    """
    own = own or exposed()
    found = _class(target, own)
    if found is None:
        folder = f" or {own}" if own is not None else ", or in a folder that --config-dir names"
        raise UserError(
            f"{source} names {target!r}, which is not built from stored settings: only classes of "
            f"the harness and of methods{folder} are; if you trust it, name its folder"
        )
    return found


def check(settings: Any, source: Path | str, own: Path | None = None) -> None:
    """Refuse stored settings that name anything but classes of ours and of the user's own folder.

    They are resolved when they are stored, so whatever would be resolved again is refused as well.
    Raises  UserError.
    """
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
    """Every value with its dotted place; names and targets of any kind are values too."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
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
    """The public class of that name, if it is written where it may be; nothing else is imported."""
    if not isinstance(target, str) or not all(map(str.isidentifier, target.split("."))):
        return None
    module, _, name = target.rpartition(".")
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
    except Exception:  # noqa: BLE001  whatever the user's module raises, it gives no class
        return None
    if not isinstance(found, type):
        return None
    # A module also holds what it imports: only what is written in it, or below it, is meant.
    written = found.__module__
    at_home = _is_part(written) if is_ours else _lies_below(written, place)
    return found if at_home else None


def _is_part(module: str) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in PARTS)


def _lies_below(module: str, folder: Path) -> bool:
    """Whether a module's outermost package lies in a folder itself, as `<folder>/<name>` or a file.

    Not deeper: an environment with other people's packages may lie there too. Nothing is run to
    find out.
    """
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
