"""Checks settings against the type annotations of the classes that they configure.

This happens before a model, method, metric or attention backend is built. Constructors therefore
never get a value of the wrong type, and all error messages have one form: name=value and what is
allowed.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from harness.system.errors import UserError, did_you_mean

TARGET = "_target_"
OF_HYDRA = (TARGET, "_args_", "_partial_", "_recursive_", "_convert_")
# Integers of tensors and tables have 64 bits; a larger one would fail far from its setting.
LARGEST = 2**63


def wanted(hint: Any, value: Any) -> str | None:
    """Return what to give instead, if a value does not fit a type hint; None if it fits."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return None
    if origin in (Union, types.UnionType):
        # One type that fits is enough; otherwise the message names all of them.
        asked = [wanted(each, value) for each in inner]
        return None if None in asked else " or ".join(dict.fromkeys(map(str, asked)))
    if hint in PLAIN:
        fits, words = PLAIN[hint]
        return None if fits(value) else words
    if origin is Literal:
        # The types too, because True equals 1.
        is_one = any(value == each and type(value) is type(each) for each in inner)
        return None if is_one else f"one of {', '.join(map(str, inner))}"
    if origin in LISTS:
        # A list or tuple, of any or of fixed length.
        of_each = [hint for hint in inner if hint is not Ellipsis]
        is_fixed = origin is tuple and Ellipsis not in inner
        many = f"a list of {len(of_each)}" if is_fixed else "a list"
        # An ellipsis fits no type, so `wanted` gives the words for one element.
        words = f"{many}, each {wanted(of_each[0], ...)}" if of_each else many
        if not isinstance(value, list | tuple) or (is_fixed and len(value) != len(of_each)):
            return words
        hints = of_each if is_fixed else of_each[:1] * len(value)
        # strict=False: a list without a type for its elements has no hints, and fits.
        all_fit = all(wanted(*pair) is None for pair in zip(hints, value, strict=False))
        return None if all_fit else words
    if hint is dict or origin in (dict, Mapping):
        return None if isinstance(value, Mapping) else "a group of settings"
    # Another class: the value must be a built object, or the settings that build one.
    if inspect.isclass(hint) and hint is not object and not isinstance(value, Mapping):
        is_built = not isinstance(value, str | int | float | list | None)
        return None if is_built else f"what builds a {hint.__name__}, as {{{TARGET}: <class>}}"
    return None


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that fits a float, and no bool."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


# For each plain type: a test of the value, and what to give otherwise. Exact types, because bool is
# a subclass of int.
PLAIN: dict[Any, tuple[Callable[[Any], bool], str]] = {
    None: (lambda value: value is None, "null"),
    types.NoneType: (lambda value: value is None, "null"),
    bool: (lambda value: type(value) is bool, "true or false"),
    int: (lambda value: type(value) is int and abs(value) < LARGEST, "a whole number"),
    float: (_is_number, "a finite number"),
    str: (lambda value: isinstance(value, str), "a text in quotes"),
}
LISTS = (list, tuple, Sequence)


def demand(name: str, hint: Any, value: Any) -> None:
    """Check that a value fits a type hint.

    Raises  UserError: name=value and what to give.
    """
    asked = wanted(hint, value)
    if asked is not None:
        raise UserError(f"{name}={shown(value)}: give {asked}")


def demand_known(name: str, given: Iterable[Any], known: Sequence[str]) -> None:
    """Check that a group has known settings only.

    Raises  UserError: the first unknown setting, with the known ones.
    """
    for key in given:
        if key not in known:
            near = did_you_mean(str(key), known)
            full = f"{name}.{key}" if name else str(key)
            raise UserError(f"there is no setting {full}{near}? Choose {', '.join(known)}")


def demand_fields(name: str, values: Any, kind: type[Any]) -> None:
    """Check a group of settings against a dataclass: names, types, and required fields.

    Raises  UserError: the value is not a group, or one of its settings cannot be used.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise UserError(f"{name}={shown(values)} is no group of settings: leave {name} as it is")
    demand_known(name, values, list(hints))
    for field in dataclasses.fields(kind):
        if field.name in values:
            demand(f"{name}.{field.name}", hints[field.name], values[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{name} lacks {field.name}: type +{name}.{field.name}=<value>")


def check_parts(name: str, config: Any) -> None:
    """Check all objects that a configuration describes against their annotations, nested ones too.

    Imports their classes. A class that cannot be imported is skipped; building it reports that.
    Raises  UserError: an unknown setting, a missing one, or one of the wrong type.
    """
    if isinstance(config, Mapping):
        if TARGET in config:
            _check_call(name, config)
        for key, value in config.items():
            check_parts(f"{name}.{key}", value)
    elif isinstance(config, list):
        for value in config:
            check_parts(name, value)


def build(name: str, config: Any, *kinds: type) -> Any:
    """Build the object that a resolved configuration describes.

    name: its name on the command line. kinds: classes that the object must belong to; none for any.
    Raises  UserError: a setting or the object has the wrong type.
            InstantiationException: the class does not exist or refuses its settings.
    """
    # Here, because the parent process imports this module and should start quickly.
    from hydra.utils import instantiate

    check_parts(name, config)
    built = instantiate(config)
    if kinds and not isinstance(built, kinds):
        # Packages export their classes: the public name is that of the package, not the module.
        wanted = [f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}" for kind in kinds]
        raise UserError(f"{name} builds {type(built).__name__}: give a {' or '.join(wanted)}")
    return built


def _check_call(name: str, config: Mapping[Any, Any]) -> None:
    """Check the settings of one object against the parameters of its class."""
    target = config[TARGET]
    if not isinstance(target, str) or not target:
        raise UserError(f"{name}.{TARGET}={shown(target)}: give a class as module.Class")

    try:
        # Hydra's get_object would log a failed import; building reports it in one sentence.
        found = pkgutil.resolve_name(target)
        parameters = inspect.signature(found).parameters
        hints = typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # noqa: BLE001  an import may raise anything; building reports it
        return
    # A class that takes **kwargs names its settings nowhere.
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    known = [each.name for each in parameters.values() if each.kind is not each.VAR_KEYWORD]
    given = [key for key in config if key not in OF_HYDRA]
    if not takes_all:
        demand_known(name, given, known)
    needed = [
        each.name
        for each in parameters.values()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and each.default is each.empty
    ]
    # Positional arguments may stand for any of the needed ones.
    missing = [] if "_args_" in config else [each for each in needed if each not in config]
    if missing:
        raise UserError(f"{name} lacks {', '.join(missing)}: type +{name}.{missing[0]}=<value>")
    # Parameters without an annotation, and those in **kwargs, take any value.
    for key in given:
        if key in hints:
            demand(f"{name}.{key}", hints[key], config[key])


def shown(value: Any) -> str:
    """Return a value as typed on the command line, truncated to 80 characters."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
