"""The oracle router: what routing could gain at most, if every prediction were right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import DataError, UsageError
from harness.types import Query
from harness.workspace import Workspace
from retrievers.fused.routing.names import modalities_of
from retrievers.fused.routing.shares import Shares

#: The gold attribute that names the modality aimed at.
TARGET = "target"
_VERSION = "1"


class OracleRouter:
    """Routes by the gold attribute ``target``; a query without one is for all parts alike."""

    oracle = True
    untrained = False

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.fallbacks = shares.fallbacks

    def identity(self) -> dict[str, Any]:
        """Return what determines the weights, beside the queries."""
        return {"kind": "oracle", "version": _VERSION, "parts": self._shares.identity()}

    def prepare(self, workspace: Workspace) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to give back."""

    def route(self, queries: Sequence[Query]) -> list[Mapping[str, float]]:
        """Return the weights of the parts for each query.

        Raises
        ------
        DataError
            If a query's target names no modality.
        """
        return [self._weights(query) for query in queries]

    def _weights(self, query: Query) -> Mapping[str, float]:
        target = query.attributes.get(TARGET)
        if target is None:
            return self._shares.uniform("queries without a target", query.id)
        try:
            wanted = modalities_of(target)
        except UsageError as error:
            raise DataError(
                f"query {query.id!r}: the gold attribute {TARGET} = {target!r} is not a modality, "
                f"nor several joined by '+' ({error}) The oracle router needs one; choose another."
            ) from None
        return self._shares.of(dict.fromkeys(wanted, 1.0), query.id)
