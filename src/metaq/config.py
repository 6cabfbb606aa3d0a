"""Frozen configurations: validated, written to JSON and read back, unknown keys refused."""

import dataclasses
import difflib
import json
import types
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from metaq.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Config")

MOST_NAMES = 12
"""Names in an error message."""


def near_match(word: str, known: Iterable[str]) -> str:
    """A half-sentence for error messages: the known word nearest to `word`, or all of them, or the first of many."""
    names = sorted(known)
    if not names:
        return "there is none."
    close = difflib.get_close_matches(word, names, n=1)
    more = ", …" if len(names) > MOST_NAMES else ""
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(names[:MOST_NAMES])}{more}."


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def require(condition: bool, message: str) -> None:
    """Raise :class:`ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


EXTRAS = {
    "PIL": "report",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "constriction": "lab",
    "optuna": "lab",
    "scipy": "lab",
    "sklearn": "lab",
    "lightning": "lightning",
    "transformers": "transformers",
    "onnx": "onnx",
    "onnxscript": "onnx",
}
"""The extra that brings a module; the extra ``lab`` holds ``report``."""

PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn"}
"""Names of packages that are not those of their modules."""


def needs(*modules: str) -> None:
    """Raise :class:`ConfigError` for the first of `modules` that is not installed, with the extra that brings it."""
    for module in modules:
        if find_spec(module) is None:
            raise missing(module)


def needed(module: str) -> Any:
    """Import a module of :data:`EXTRAS`, or one below it; raise :class:`ConfigError` as :func:`needs` does."""
    needs(module.partition(".")[0])
    return import_module(module)


def missing(module: str) -> ConfigError:
    """The error that says which extra brings a module of :data:`EXTRAS`."""
    extra = EXTRAS[module]
    return ConfigError(
        f"{PACKAGES.get(module, module)} is not installed; the extra {extra} of metaq brings it, as in: "
        f"pip install -e '.[{extra}]'"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: a frozen dataclass of numbers, strings and further configurations."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, ready for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s output; missing keys take their defaults.

        Raises
        ------
        ConfigError
            For an unknown key, a value of the wrong type, or one that validation refuses.
        """
        return _build(cls, values, prefix="")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from :meth:`to_json`'s output."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"configuration: not valid JSON ({error}).") from error
        if not isinstance(values, dict):
            raise ConfigError("configuration: the JSON text must hold one object.")
        return cls.from_dict(values)

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with ``key=value`` texts applied; ``outer.inner=value`` reaches nested configurations.

        Raises
        ------
        ConfigError
            For a text without ``=``, an unknown key, or a value that does not fit the key.
        """
        values = self.to_dict()
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            require(bool(separator), f"--set {assignment}: write it as key=value.")
            _assign(type(self), values, key.strip().split("."), text.strip(), key.strip())
        return type(self).from_dict(values)


def _assign(kind: type[Config], values: dict[str, Any], path: list[str], text: str, key: str) -> None:
    hints = get_type_hints(kind)
    head, *rest = path
    require(head in hints, f"{key}: no such option; {near_match(head, hints)}")
    inner = _without_none(hints[head]) if _is_optional(hints[head]) else hints[head]
    if rest:
        require(_is_config(inner), f"{key}: {head} has no options of its own.")
        if values.get(head) is None:
            values[head] = {}
        _assign(inner, values[head], rest, text, key)
        return
    parsed = _parse(hints[head], text, key)
    require(parsed is None or not _is_config(inner), f"{key}: name one of its options, as in {key}.option=value.")
    values[head] = parsed


def _parse(kind: Any, text: str, key: str) -> Any:
    if _is_optional(kind):
        return None if text.lower() in ("none", "null") else _parse(_without_none(kind), text, key)
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return [_parse(inner, part.strip(), key) for part in text.split(",") if part.strip()]
    if kind is bool:
        require(text.lower() in ("true", "false"), f"{key}: {text!r} is neither true nor false.")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError as error:
            name = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}: {text!r} is not {name}.") from error
    return text


def _build(cls: type[ConfigT], values: Mapping[str, Any], *, prefix: str) -> ConfigT:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        require(key in hints, f"{prefix}{key}: no such option; {near_match(str(key), hints)}")
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}")
    for field in dataclasses.fields(cls):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        require(has_default or field.name in arguments, f"{prefix}{field.name}: must be given.")
    return cls(**arguments)


def _convert(kind: Any, value: Any, key: str) -> Any:
    if _is_config(kind):
        require(isinstance(value, Mapping), f"{key}: expected an object with options.")
        return _build(kind, value, prefix=f"{key}.")
    if _is_optional(kind):
        return None if value is None else _convert(_without_none(kind), value, key)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        require(value in choices, f"{key}: {value!r} is unknown; {near_match(str(value), map(str, choices))}")
        return value
    if get_origin(kind) is tuple:
        require(isinstance(value, list | tuple), f"{key}: expected a list.")
        return tuple(_convert(get_args(kind)[0], item, key) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right_type = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    require(right_type, f"{key}: {value!r} is not of type {kind.__name__}.")
    return value


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _without_none(kind: Any) -> Any:
    return next(option for option in get_args(kind) if option is not type(None))
