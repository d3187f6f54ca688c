"""Typed settings of tasks and retrievers.

A plugin declares one subclass of `Settings`. It validates what comes from YAML, from Python and
from ``--set NAME.KEY=VALUE``, is printed by ``clamr-bench retrievers NAME``, and enters the
fingerprint of every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UsageError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Base of a plugin's settings: frozen, and unknown keys are errors.

    Give every field a default and a description: both are shown to users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def parse_model(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate `values` as `model`, with an error that a user can act on.

    Parameters
    ----------
    model
        The pydantic model.
    values
        What the user gave.
    where
        What the values belong to, for the message: ``setting of bm25-asr``.

    Raises
    ------
    UsageError
        Naming each unknown key (with the nearest known one) and each invalid value.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            key = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                known = list(model.model_fields)
                listed = f"known: {', '.join(known)}" if known else "there are none"
                problems.append(f"unknown {where}: {key!r} ({listed}).{did_you_mean(key, known)}")
            else:
                reason = detail["msg"].removeprefix("Value error, ")
                # A whole mapping would bury the reason, and may hold what is not to be shown.
                given = detail["input"]
                value = "" if isinstance(given, Mapping) else f" = {given!r}"
                problems.append(f"{where} {key!r}{value}: {reason}")
        raise UsageError("; ".join(problems)) from None


def parse_assignments(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse ``NAME.KEY=VALUE`` strings; a value is read as YAML (``3``, ``true``, ``[a, b]``).

    Returns
    -------
    dict
        ``{name: {key: value}}``.

    Raises
    ------
    UsageError
        If an assignment has another form or its value is not YAML.
    """
    import yaml

    parsed: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        name, dot, key = target.strip().rpartition(".")
        if not (equals and dot and name and key):
            raise UsageError(
                f"--set {assignment!r} is not NAME.KEY=VALUE; for example --set bm25-asr.k1=1.5."
            )
        try:
            parsed.setdefault(name, {})[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(
                f"--set {assignment!r}: the value {text!r} is not YAML; quote it."
            ) from None
    return parsed


def given_to(settings: Mapping[str, Mapping[str, Any]], name: str, address: str) -> dict[str, Any]:
    """Return what is given for a plugin, by its name or, going before that, its whole address."""
    return {**settings.get(name, {}), **settings.get(address, {})}


def problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Yield what is wrong with a file of nested fields, each by its dotted name.

    Parameters
    ----------
    error
        What validating the file's values as `model` gave.
    model
        The model of the whole file.
    """
    for detail in error.errors(include_url=False):
        place = ".".join(map(str, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            above = detail["loc"][:-1]
            fields = _model_at(model, above).model_fields
            known = [".".join(map(str, (*above, key))) for key in fields]
            listed, near = ", ".join(known), did_you_mean(place, known)
            yield f"unknown field {place!r} (known: {listed}).{near}"
        else:
            reason = detail["msg"].removeprefix("Value error, ")
            given = detail["input"]
            value = "" if isinstance(given, (dict, BaseModel)) else f" = {given!r}"
            yield f"{place}{value}: {reason}" if place else reason


def _model_at(model: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    """Return the model that the fields of a place belong to."""
    for part in place:
        if part in model.model_fields:  # Else it counts a list, or is a key of a mapping.
            model = next(_models(model.model_fields[str(part)].annotation), model)
    return model


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (tuple, list, dict, Union, UnionType, Annotated):
        for part in get_args(kind):
            yield from _models(part)


def describe_settings(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """List ``(key, type, default, description)`` of every setting, for ``--help``-like tables."""
    return [
        (key, _spelled(info.annotation), _shown(info.default), info.description or "")
        for key, info in model.model_fields.items()
    ]


def _spelled(kind: Any) -> str:
    """Return a type as a user would write its values."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _spelled(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(map(_spelled, parts)))
    if isinstance(kind, type) and issubclass(kind, Enum) and not issubclass(kind, int):
        return " | ".join(str(member.value) for member in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "mapping"
    if kind is type(None):
        return "none"
    inner = [_spelled(part) for part in parts if part is not Ellipsis]
    if origin in (list, tuple):
        return f"list of {' and '.join(inner)}"
    name = getattr(origin or kind, "__name__", str(kind)).lower()
    return f"{name}[{', '.join(inner)}]" if inner else name


def _shown(default: Any) -> str:
    if isinstance(default, Enum):
        return str(default.value)
    return "none" if default is None else str(default)
