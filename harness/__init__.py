"""The benchmark harness: contracts, data, evaluation, results.

It knows no particular task and no particular model; those live in ``tasks`` and ``retrievers``
and register themselves as plugins. Importing this package does no work and loads nothing heavy.
"""

from __future__ import annotations

__version__ = "0.1.0"

#: Version of the plugin contracts (``Task``, ``Retriever``, ``Encoder``, ``Trainable``).
API_VERSION = 1

__all__ = ["API_VERSION", "__version__"]
