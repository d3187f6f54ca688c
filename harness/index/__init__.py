"""How token embeddings are kept on disk and searched."""

from __future__ import annotations

from harness.index.exact import ExactIndex
from harness.index.filling import Encoded
from harness.index.store import EmbeddingStore

__all__ = ["EmbeddingStore", "Encoded", "ExactIndex"]
