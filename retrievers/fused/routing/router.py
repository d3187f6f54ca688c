"""The router contract, and how a router is made of its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from harness.types import Modality, Query
from harness.workspace import Workspace
from retrievers.fused.routing.endpoint import EndpointRouter
from retrievers.fused.routing.oracle import OracleRouter
from retrievers.fused.routing.prototypes import PrototypeRouter
from retrievers.fused.routing.settings import (
    EndpointSettings,
    OracleSettings,
    PrototypeSettings,
    RouterSettings,
)
from retrievers.fused.routing.shares import Shares


class Router(Protocol):
    """Says how much each fused part counts for a query.

    Attributes
    ----------
    oracle
        Whether it reads gold attributes of the queries.
    fallbacks
        How many queries got the same weight for every part, by reason.
    """

    oracle: bool
    fallbacks: Counter[str]

    @property
    def untrained(self) -> bool:
        """Whether it decides by weights that were never trained."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that determines the weights; no secrets."""

    def prepare(self, workspace: Workspace) -> None:
        """Do what can be done, and refuse what cannot work, before the first query.

        Parameters
        ----------
        workspace
            The fused retriever's. What other runs can use again goes into a workspace beside it.
        """

    def route(self, queries: Sequence[Query]) -> list[Mapping[str, float]]:
        """Return for each query the weight of each part: at least 0, with sum 1."""

    def close(self) -> None:
        """Give back what routing held."""


def make_router(
    settings: RouterSettings,
    labels: Sequence[str],
    modalities: Mapping[str, frozenset[Modality]],
) -> Router:
    """Make the router that `settings` describe.

    Parameters
    ----------
    settings
        Of any kind.
    labels
        Labels of the fused parts, at least one.
    modalities
        The modalities that each part scores, by label.

    Raises
    ------
    UsageError
        If a setting cannot be right: an encoder, a file, an address.
    """
    shares = Shares(labels, modalities)
    match settings:
        case OracleSettings():
            return OracleRouter(shares)
        case PrototypeSettings():
            return PrototypeRouter(settings, shares)
        case EndpointSettings():
            return EndpointRouter(settings, shares)
