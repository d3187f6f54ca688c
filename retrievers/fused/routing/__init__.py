"""Routers: which fused part a query is meant for, as weights of the parts."""

from __future__ import annotations

from retrievers.fused.routing.router import Router, make_router
from retrievers.fused.routing.settings import RouterSettings

__all__ = ["Router", "RouterSettings", "make_router"]
