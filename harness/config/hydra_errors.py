"""Turns errors of Hydra and OmegaConf into one sentence: found, allowed, what to type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from harness.system.errors import UserError, did_you_mean, first_line
from harness.system.paths import CONF
from harness.system.user_folder import exposed

# Errors of composing that the user can fix: wrong settings, and wrong files of their own.
# RecursionError: a file that lists itself in its defaults, or an interpolation of itself.
OF_COMPOSING = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
    RecursionError,
)
# Config groups by name, with the name of their list in `ls`.
LS = {name: f"{name}s" for name in ("method", "suite", "model", "attention", "integration")}
LS |= {"experiment": "experiments", "metrics": "metrics", "weights": "weights"}
SETTING = "name=value, as method=rtn_int4"


def demand_choices(words: Iterable[str]) -> None:
    """Check that settings of a config group give names of choices.

    Raises  UserError: a group has another value. HydraException: the setting cannot be parsed.
    """
    for word in words:
        # The group alone: without Hydra's signs, and without the package after the @.
        name = word.partition("=")[0].lstrip("+").partition("@")[0]
        if not name:
            raise UserError(_word_message(word))
        if "=" not in word or word.startswith("~") or not (CONF / name).is_dir():
            continue
        # The values of a sweep are checked when its jobs are composed.
        (override,) = OverridesParser.create().parse_overrides([word])
        value = None if override.is_sweep_override() else override.value()
        named = value if isinstance(value, list) and value else [value]
        if override.is_sweep_override() or all(map(_can_name, named)):
            continue
        # `metrics=[]` is the only empty choice: a run without scores.
        if isinstance(value, list) and not value and name == "metrics":
            continue
        listed = f", python -m harness ls {LS[name]} shows them" if name in LS else ""
        example = "metrics=[psnr,ssim] or metrics=[]" if name == "metrics" else f"{name}=<name>"
        raise UserError(f"{word}: give the name of a choice, as {example}{listed}")


def _can_name(value: object) -> bool:
    """Whether a value can be the name of a choice, a file below its group's folder."""
    # Hydra joins name and folder, so a path could lead out of the group. It accepts `.yaml` too,
    # but then `rtn_int4` and `rtn_int4.yaml` would be two names of one method.
    if not isinstance(value, str) or not value or value.endswith(".yaml"):
        return False
    return not value.startswith("/") and ".." not in value.split("/")


def sentence(error: Exception) -> str:
    """Return the message for an error of composing, in one line, with similar names."""
    # Facts come from attributes of the error where it has them; texts of libraries are searched
    # only where it has none, and are printed as they are if nothing is found.
    if isinstance(error, OverrideParseException):
        return _word_message(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _choice_message(error)
    if isinstance(error, UnicodeDecodeError | RecursionError):
        return _file_message(error)
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(
        cause.parent_node, DictConfig
    ):
        keys = sorted(str(key) for key in cause.parent_node)
        # A setting without its group (`seed=1`) is likelier than a misspelt group.
        settings: Any = OmegaConf.to_container(cause.parent_node, resolve=False)
        inner = [name for name in _names(settings) if name.endswith(f".{cause.key}")]
        near = (
            f", did you mean {' or '.join(inner)}" if inner else did_you_mean(str(cause.key), keys)
        )
        return f"there is no setting {cause.full_key}{near}? Choose {', '.join(keys)}"
    if isinstance(error, InterpolationKeyError) and error.full_key:
        missing = re.search(r"Interpolation key '([^']*)'", str(error))
        return (
            f"{error.full_key} takes its value from {missing[1] if missing else 'a setting'}, "
            f"which is not there: leave that setting in, or give {error.full_key} a value"
        )
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        reason = first_line(error).partition("resolving interpolation: ")[2] or first_line(error)
        return f"{error.full_key} cannot be read ({reason}): give it a value"
    # Hydra's text says what failed, that of OmegaConf why.
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        return " ".join(f"{error} ({cause})".split())
    return " ".join(str(error).split())


def _names(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names of the settings of a group, outer ones first."""
    yield from group
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in _names(value))


def _word_message(word: str) -> str:
    """Return the message for a setting that Hydra's grammar cannot parse."""
    name, equals, value = word.partition("=")
    if not equals:
        return f"{word!r} is no setting: give {SETTING}; python -m harness --help names them"
    # Before the =: Hydra's sign for adding or removing, and the dots, slashes and @ of a group.
    if not re.fullmatch(r"(\+\+?|~)?[A-Za-z_][\w./@-]*", name, re.ASCII):
        return f"{word!r} has no name that a setting can have: give {SETTING}"
    # The likely mistakes in turn; the last one to try is whether quotes would help.
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return f"{word!r} has a bracket {opening} without its {closing}: give both"
    for quote in "'\"":
        if value.replace(f"\\{quote}", "").count(quote) % 2:
            return f"{word!r} has a quote {quote} without the other: give both"
    if "'" not in value:
        quoted = f"{name}='{value}'"
        with suppress(HydraException):
            OverridesParser.create().parse_override(quoted)
            return f'{word} cannot be read without quotes: type "{quoted}"'
    return f"{word!r} cannot be read: give {SETTING}, texts in quotes"


def _choice_message(error: MissingConfigException) -> str:
    """Return the message for an unknown choice of a group."""
    assert error.missing_cfg_file is not None
    group, _, name = error.missing_cfg_file.rpartition("/")
    root = CONF / group
    shipped = [str(path.relative_to(root).with_suffix("")) for path in root.glob("**/*.yaml")]
    options = error.options or shipped  # Hydra gives no options for a list
    if not options:
        return " ".join(str(error).split())
    near = did_you_mean(name, options)
    return f"unknown {group} {name}{near}? Choose {group}={'|'.join(sorted(options))}"


def _file_message(error: Exception) -> str:
    """Return the message for an error that names no file, after a search for the faulty file."""
    # Bundled files are tested, so the fault is in the user's own folder.
    folder = exposed()
    if isinstance(error, RecursionError):
        where = f"a file of {folder}" if folder else "a setting"
        return f"{where} refers to itself: look at defaults: and ${{...}} of what was chosen"
    faults = list(unreadable(folder)) if folder else []
    return faults[0] if faults else f"a file is no UTF-8 text ({error}): save it as such"


def unreadable(folder: Path) -> Iterator[str]:
    """Yield a message for each configuration file in a folder that is not YAML in UTF-8."""
    for path in sorted(folder.glob("*/**/*.yaml")):
        try:
            yaml.safe_load(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            yield f"{path} is no UTF-8 text ({error}): save it as such"
        except (yaml.YAMLError, RecursionError, OSError) as error:
            yield f"{path} cannot be read ({' '.join(str(error).split())})"
