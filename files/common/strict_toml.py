"""Reads a service's settings from TOML into its dataclass, and refuses every key that the dataclass does not have.

Every service has this file in its package, as a link to the one in files/common.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "an absolute path"}

_Settings = TypeVar("_Settings")


class SettingsError(Exception):
    """A sentence for the operator: the file, the key, and the values that it takes."""


def read(kind: type[_Settings], path: Path) -> _Settings:
    """Read the file into the dataclass `kind`, whose fields are the keys. Raises SettingsError.

    A field that is a dataclass is a section. A field with a default may be missing in the file.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    try:
        settings: _Settings = _section(kind, "", content)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    return settings


def _section(kind: Any, prefix: str, content: dict[str, Any]) -> Any:  # noqa: ANN401 # a dataclass, as its caller says
    hints = get_type_hints(kind)
    wanted = {field.name: hints[field.name] for field in fields(kind)}
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    for name in sorted(needed - content.keys()):
        what = f"the section [{prefix}{name}]" if is_dataclass(wanted[name]) else f"{prefix}{name}"
        raise SettingsError(f"{what} is missing")
    for name in sorted(content.keys() - wanted.keys()):
        what = f"the section [{prefix}{name}]" if isinstance(content[name], dict) else f"{prefix}{name}"
        raise SettingsError(f"{what} is not known")
    return kind(**{name: _value(wanted[name], prefix + name, value) for name, value in content.items()})


def _value(kind: Any, name: str, value: Any) -> Any:  # noqa: ANN401 # whatever TOML has
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise SettingsError(f"{name} takes a section, not {value!r}")
        return _section(kind, f"{name}.", value)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise SettingsError(f"{name} takes a list, not {value!r}")
        return [_value(get_args(kind)[0], f"{name}[{place}]", one) for place, one in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{name} takes a section, not {value!r}")
        return {key: _value(get_args(kind)[1], f"{name}.{key}", one) for key, one in value.items()}
    if kind is Path and isinstance(value, str) and Path(value).is_absolute():
        return Path(value)
    # By the exact type, because Python takes true for a whole number.
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise SettingsError(f"{name} takes {_NAMES[kind]}, not {value!r}")
