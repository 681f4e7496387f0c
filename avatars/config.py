"""Configuration: a dataclass is the schema, TOML holds what differs from its defaults, and unknown keys are errors.

Nested dataclasses are TOML tables. `load_config(TrainConfig, "fast.toml")` returns a TrainConfig; `save_config` writes the resolved one
beside the result, so that it can be passed back with `--config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from avatars.errors import ConfigError
from avatars.files import atomic_path

C = TypeVar("C")


def load_config(schema: type[C], path: str | Path) -> C:
    """Read TOML strictly into the dataclass `schema`; ConfigError names file, key, the known keys and the nearest one."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"configuration {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    return from_dict(schema, values, str(path))


def from_dict(schema: type[C], values: dict[str, Any], where: str = "configuration") -> C:
    """Build `schema` from nested dicts; ConfigError for unknown keys and values of the wrong kind."""
    hints = typing.get_type_hints(schema)
    known = {f.name: hints[f.name] for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown key {key!r}.{hint} Known: {', '.join(sorted(known))}.")
        arguments[key] = _convert(known[key], value, f"{where}: {key}")
    try:
        return schema(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def check_numbers(config: Any, positive: Collection[str] = (), most: Mapping[str, float] | None = None) -> None:
    """ValueError unless every number in the dataclass `config` is finite and not negative, those named `positive` more than zero, and none above `most`."""
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        top = (most or {}).get(f.name, math.inf)
        if not math.isfinite(value) or value < 0 or value > top or (value == 0 and f.name in positive):
            low = "more than 0" if f.name in positive else "0 or more"
            raise ValueError(f"{f.name} must be {low}{f' and at most {top}' if math.isfinite(top) else ''}, got {value}")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of a config; None values are left out, as TOML has none."""
    result = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value is not None:
            result[f.name] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return result


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved config as TOML, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(_toml(to_dict(config)), encoding="utf-8")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        for option in options:
            try:
                return _convert(option, value, where)
            except ConfigError:
                if option is options[-1]:
                    raise
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a table, got {value!r}.")
        return from_dict(typing.cast(type, hint), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, got {value!r}.")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, got {value!r}.")
        args = [a for a in typing.get_args(hint) if a is not Ellipsis]
        if origin is tuple and Ellipsis not in typing.get_args(hint) and len(args) != len(value):
            raise ConfigError(f"{where} must have {len(args)} entries, got {len(value)}.")
        return origin(_convert(args[min(i, len(args) - 1)], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise ConfigError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}.")


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    lines = [f"{k} = {_toml_value(v)}\n" for k, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines.append(f"\n[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}")
    return "".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{text}"'
