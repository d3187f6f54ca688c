"""The dataset store: one folder that holds a prepared dataset.

::

    dataset.json                 schema version, task, version, digests, coverage (``manifest``)
    test/documents-00000.parquet one row a document; media by reference
    test/documents-00001.parquet ...
    test/queries.parquet
    test/qrels.parquet
    train/ ...                   the same for every further split

Parquet parts are typed, memory-mapped and streamed; ``store`` reads them, ``writer`` makes them.
A split may have the documents of another one.
"""

from __future__ import annotations

from harness.dataset.manifest import SCHEMA_VERSION, Manifest
from harness.dataset.portions import Portion
from harness.dataset.store import DatasetStore
from harness.dataset.writer import DatasetWriter

__all__ = ["SCHEMA_VERSION", "DatasetStore", "DatasetWriter", "Manifest", "Portion"]
