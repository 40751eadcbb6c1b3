"""Frozen dataclasses as configuration: from and to plain dictionaries, with typed overrides."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from cosyjax.errors import InputError, nearest

Config = TypeVar("Config")


def to_dict(config: Any) -> Any:
    """Turns a config into JSON-ready dictionaries and lists."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (tuple, list)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(item) for key, item in config.items()}
    return config


def from_dict(cls: type[Config], values: Mapping[str, Any], path: str = "") -> Config:
    """Builds the dataclass `cls`; raises InputError for an unknown key or a wrong type."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            where = f"{path}{key}"
            raise InputError(f"{cls.__name__} has no key {where!r}; {nearest(key, names)}")
    return cls(**{key: _convert(hints[key], v, f"{path}{key}") for key, v in values.items()})


def override(config: Config, assignment: str) -> Config:
    """Returns `config` with one dotted assignment such as "lm.num_layers=12" applied.

    Raises:
      InputError: no "=", an unknown key, or a value that does not fit the field's type.
    """
    key, sep, text = assignment.partition("=")
    if not sep:
        raise InputError(f"{assignment!r} is not an assignment; write key=value, e.g. seed=1")
    return _replace(config, key.strip().split("."), text.strip(), key.strip())


def _replace(config: Any, keys: list[str], text: str, path: str) -> Any:
    if isinstance(config, dict) and len(keys) > 1:
        if keys[0] not in config:
            raise InputError(f"no key {path!r}; {nearest(keys[0], config)}")
        return {**config, keys[0]: _replace(config[keys[0]], keys[1:], text, path)}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InputError(f"{path!r} goes into a value that has no keys")
    names = [f.name for f in dataclasses.fields(config)]
    head = keys[0]
    if head not in names:
        raise InputError(f"{type(config).__name__} has no key {path!r}; {nearest(head, names)}")
    if len(keys) > 1:
        value = _replace(getattr(config, head), keys[1:], text, path)
    else:
        value = _convert(typing.get_type_hints(type(config))[head], parse_value(text), path)
    return dataclasses.replace(config, **{head: value})


def parse_value(text: str) -> Any:
    """Reads a Python literal, true, false or none; anything else is text."""
    import ast

    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, path + ".")  # type: ignore[arg-type]
    if origin is dict and isinstance(value, Mapping):
        return {key: _convert(args[1], v, f"{path}.{key}") for key, v in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        items = args[:1] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        return tuple(_convert(item, v, path) for item, v in zip(items, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or hint
    wrong_bool = isinstance(value, bool) and wanted is not bool
    if isinstance(wanted, type) and (not isinstance(value, wanted) or wrong_bool):
        raise InputError(
            f"{path}={value!r} is a {type(value).__name__}; {wanted.__name__} is needed"
        )
    return value
