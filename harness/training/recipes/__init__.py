"""Recipes by name, which lie beside this file, or from a YAML file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.errors import UsageError, did_you_mean
from harness.settings import problems
from harness.training.recipe import Recipe

_SUFFIX = ".yaml"


def names() -> list[str]:
    """Return the names of the recipes that come with clamr-bench."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))


def load(recipe: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    recipe
        A name of `names`, or the path of a YAML file.
    changes
        Values by dotted field: ``{"optimiser.lr": 1e-4}``. A mapping is merged into the part that
        it is for; all else, a list among them, takes the place of what was there.

    Raises
    ------
    UsageError
        If there is no such recipe, or it is no YAML, or a field is unknown or cannot have its
        value: each by its dotted name.
    """
    try:
        values = yaml.safe_load(_text(recipe))
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {recipe} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(
            f"recipe {recipe} is not a mapping of fields; see --recipe cpu-tiny --show."
        )
    for field, value in (changes or {}).items():
        nested: Any = value
        for part in reversed(field.split(".")):
            nested = {part: nested}
        values = _merged(values, nested, ())
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"recipe {recipe}: {'; '.join(problems(error, Recipe))}") from None


def show(recipe: str, changes: Mapping[str, Any] | None = None) -> str:
    """Return a recipe as YAML: as it was written, comments and all, or as `changes` make it."""
    found = load(recipe, changes)
    if not changes:
        return _text(recipe)
    return yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def taken(given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Take what is for the recipe out of the values of `harness.settings.parse_assignments`.

    ``--set recipe.optimiser.lr=1e-4`` stands there as ``{"recipe.optimiser": {"lr": 1e-4}}``.

    Returns
    -------
    dict
        Changes as `load` takes them.
    """
    changes: dict[str, Any] = {}
    for target in [name for name in given if f"{name}.".startswith("recipe.")]:
        inside = f"{target}.".removeprefix("recipe.")
        changes |= {f"{inside}{key}": value for key, value in given.pop(target).items()}
    return changes


def _text(recipe: str) -> str:
    """Return the YAML of a recipe by name or path."""
    if recipe in names():
        return (files(__name__) / f"{recipe}{_SUFFIX}").read_text(encoding="utf-8")
    path = Path(recipe).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if path.exists():
            raise UsageError(f"recipe {recipe} cannot be read: {error}") from None
        raise UsageError(
            f"there is no recipe {recipe!r}: give the path of a YAML file, or one of "
            f"{', '.join(names())}.{did_you_mean(recipe, names())}"
        ) from None


def _merged(old: Any, new: Any, place: tuple[str, ...]) -> Any:
    if not isinstance(new, dict):
        return new
    if isinstance(old, list):
        raise UsageError(
            f"recipe.{'.'.join(place)} is a list, which is set whole: --set "
            f"'recipe.{'.'.join(place)}=[...]'."
        )
    kept = old if isinstance(old, dict) else {}
    merged = {key: _merged(kept.get(key), value, (*place, str(key))) for key, value in new.items()}
    return {**kept, **merged}
