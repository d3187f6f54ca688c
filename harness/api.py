"""Everything that a plugin needs, in one place: the stable surface of `API_VERSION`."""

from __future__ import annotations

from harness import API_VERSION
from harness.coverage import Coverage
from harness.dataset import DatasetStore, DatasetWriter
from harness.dataset.task import StoredTask
from harness.documents import Documents, ListedDocuments
from harness.encoder import Encoder, EncoderSettings, Trainable
from harness.errors import (
    CapabilityError,
    ClamrBenchError,
    DataError,
    PluginError,
    RankingError,
    ResultError,
    StorageError,
    UsageError,
)
from harness.evaluation import Evaluation
from harness.late_interaction import TokenEmbeddings
from harness.late_interaction.attribution import Attribution, attribute
from harness.plugin import About, Direction
from harness.policy import OwnPolicy
from harness.progress import Progress
from harness.retriever import Capabilities, QueryKind, Retriever
from harness.settings import Settings
from harness.task import Column, Group, Protocol, Split, Task
from harness.types import Document, Media, Modality, Qrels, Query, RankedList, Ranking
from harness.workspace import Workspace

__all__ = [
    "API_VERSION",
    "About",
    "Attribution",
    "Capabilities",
    "CapabilityError",
    "ClamrBenchError",
    "Column",
    "Coverage",
    "DataError",
    "DatasetStore",
    "DatasetWriter",
    "Direction",
    "Document",
    "Documents",
    "Encoder",
    "EncoderSettings",
    "Evaluation",
    "Group",
    "ListedDocuments",
    "Media",
    "Modality",
    "OwnPolicy",
    "PluginError",
    "Progress",
    "Protocol",
    "Qrels",
    "Query",
    "QueryKind",
    "RankedList",
    "Ranking",
    "RankingError",
    "ResultError",
    "Retriever",
    "Settings",
    "Split",
    "StorageError",
    "StoredTask",
    "Task",
    "TokenEmbeddings",
    "Trainable",
    "UsageError",
    "Workspace",
    "attribute",
]
