"""Names of measures -> what computes them: ir-measures, and ranks."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures
from ir_measures.measures import registry as _known_measures

from harness.errors import UsageError, did_you_mean
from harness.rank_measures import RANK_MEASURES

# In this order, and no others: ir-measures would also use whatever else is installed, and then a
# figure could depend on the machine.
PROVIDERS = (ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco)


def parse_measures(names: Sequence[str]) -> tuple[Any, ...]:
    """Return the measures called `names`: ir-measures objects, or `RankMeasure`.

    A name is ``Name``, ``Name@cutoff`` or ``Name(parameter=value)@cutoff``: ``nDCG@10``, ``RR``,
    ``R@10``, ``Success(rel=2)@1``. The hit rate, which many papers call R@1, is ``Success@1``;
    ``R@1`` is the share of the relevant documents that is found. ``MdR`` and ``MnR`` are ranks (see
    `harness.rank_measures`).

    Raises
    ------
    UsageError
        If there are none, one is given twice, is unknown, has an unknown or wrong parameter, or
        is a count, whose mean over queries says nothing.
    """
    if not names:
        raise UsageError("no measure given: name at least one, such as nDCG@10.")
    parsed: dict[str, str] = {}
    measures = []
    for name in names:
        measure = _parse_measure(name)
        if repr(measure) in parsed:
            raise UsageError(
                f"measures {parsed[repr(measure)]!r} and {name!r} are the same: give one of them."
            )
        parsed[repr(measure)] = name
        measures.append(measure)
    return tuple(measures)


def _parse_measure(name: str) -> Any:
    if name in RANK_MEASURES:
        return RANK_MEASURES[name]
    written, parameters, cutoff = _take_apart(name)
    if written not in _known_measures:
        raise UsageError(
            f"unknown measure {name!r}; common ones are nDCG@10, Success@1 (the hit rate, which "
            "many papers call R@1), R@10 (share of the relevant), P@10, RR, AP, MdR and MnR."
            + did_you_mean(
                written, [*RANK_MEASURES, *(measure.NAME for measure in _known_measures.values())]
            )
        )
    measure = _known_measures[written]
    if cutoff is not None:
        parameters[measure.AT_PARAM] = cutoff
    _check_parameters(name, measure, parameters)
    measure = measure(**parameters)
    if not isinstance(measure.aggregator(), ir_measures.MeanAgg):
        raise UsageError(f"measure {name!r} is a count over all queries, not a value of each.")
    if provider_of(measure) is None:
        raise UsageError(
            f"measure {name!r} is known to ir-measures, but not computed here: choose one that "
            f"{' or '.join(provider.NAME for provider in PROVIDERS)} computes."
        )
    return measure


def _take_apart(name: str) -> tuple[str, dict[str, Any], Any]:
    """Return name, parameters and cutoff (or None) of a written measure.

    `ir_measures.parse_measure` does it with syntax-tree classes that Python 3.12 deprecates and
    3.14 no longer has.
    """
    cutoff, parameters = None, {}
    try:
        node: ast.expr | None = ast.parse(name.strip(), mode="eval").body
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            cutoff = ast.literal_eval(node.right)
            node = node.left
        if isinstance(node, ast.Call) and not node.args:
            parameters = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
            node = node.func
    except (SyntaxError, ValueError):
        node = None
    if not isinstance(node, ast.Name):
        raise UsageError(
            f"measure {name!r} cannot be read: write Name, Name@10 or Name(parameter=value)@10."
        )
    return node.id, parameters, cutoff


def _check_parameters(name: str, measure: Any, parameters: Mapping[str, Any]) -> None:
    known = measure.SUPPORTED_PARAMS
    for parameter, value in parameters.items():
        if parameter not in known:
            raise UsageError(
                f"measure {name!r} has no parameter {parameter!r}; {measure.NAME} has "
                f"{', '.join(known)}." + did_you_mean(parameter, known)
            )
        positive = parameter not in {"cutoff", "rel"} or (type(value) is int and value > 0)
        if not known[parameter].validate(value) or not positive:
            raise UsageError(
                f"measure {name!r}: {parameter} cannot be {value!r}"
                + ("" if positive else "; it is a whole number above 0")
                + "."
            )
    for parameter, info in known.items():
        if info.required and parameter not in measure(**parameters).params:
            example = f"{measure.NAME}@{10 if parameter == 'cutoff' else 0.1}"
            raise UsageError(f"measure {name!r} needs a {parameter}, as in {example}.")


def provider_of(measure: Any) -> Any:
    """Return the provider that computes `measure`, or None."""
    return next((p for p in PROVIDERS if p.supports(measure)), None)
