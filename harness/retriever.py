"""The retriever contract: `index` does all document-side work, `search` ranks.

BM25, dense, late interaction, fusion and remote services all fit this seam. A model author who
has token embeddings writes the smaller `harness.encoder.Encoder` instead.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.documents import Documents
from harness.errors import CapabilityError, UsageError
from harness.plugin import Direction, Plugin
from harness.progress import Progress
from harness.settings import Settings
from harness.types import Modality, Query, Ranking
from harness.workspace import TRAINING_NAME, Workspace, digest

if TYPE_CHECKING:
    from harness.late_interaction.attribution import Attribution

#: A workspace has this file once its index is complete: how long indexing took.
INDEX_NAME = "index.json"
#: Default of ``--memory``: 2 GiB.
DEFAULT_MEMORY = 2 * 2**30


class QueryKind(StrEnum):
    """What a query is made of; an instruction beside it changes nothing."""

    TEXT = "text"
    IMAGE = "image"
    IMAGE_TEXT = "image+text"

    @classmethod
    def of(cls, query: Query) -> QueryKind:
        """Return the kind of a query."""
        if query.image is None:
            return cls.TEXT
        return cls.IMAGE_TEXT if query.text.strip() else cls.IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a retriever can do; checked against the task before any work.

    Attributes
    ----------
    modalities
        Document modalities that it reads; at least one must occur in the collection.
    query_kinds
        Kinds of queries that it takes.
    directions
        Directions that it can rank in; see `Retriever.direction` for what the reverse one promises.
    trainable
        Whether ``clamr-bench train`` can train it.
    explains
        Whether it implements `Retriever.explain`.
    oracle
        Whether it reads the queries' gold attributes. Its rows are labelled and never count as
        best.
    ignores_images
        Whether it takes queries with an image and reads their text alone; a result counts them
        among what was not used (``query images not read``).
    """

    modalities: frozenset[Modality]
    query_kinds: frozenset[QueryKind] = frozenset({QueryKind.TEXT})
    directions: frozenset[Direction] = frozenset({Direction.FORWARD})
    trainable: bool = False
    explains: bool = False
    oracle: bool = False
    ignores_images: bool = False


class Retriever(Plugin, ABC):
    """Ranks documents for queries.

    Parameters
    ----------
    name
        The name that it is registered by.
    weights
        The rest of its address: a built-in name, a path or a hub id; None for the default.
    settings
        An instance of the class's `Settings`.
    """

    capabilities: ClassVar[Capabilities]
    #: Names of built-in weights, or () if an address may not name any.
    weights_help: ClassVar[str] = ""

    #: Seed of whatever is drawn at random; set by the runner, and no part of `identity`: several
    #: seeds of one retriever are one row of a table.
    seed: int = 0
    #: Bytes that indexing and searching may allocate for blocks of data; set by the runner, and no
    #: part of `identity`: a ranking does not depend on it.
    memory: int = DEFAULT_MEMORY
    #: Whether `search` and `explain` can leave modalities out of the scores of what was indexed
    #: with all. If not, ``--modalities`` takes them away from the documents.
    masks: bool = False
    #: The only modalities that may score, for one that `masks`; None for all. Set by the runner,
    #: and no part of `identity`: it is an option of the run.
    modalities: frozenset[Modality] | None = None
    #: In the reverse direction the documents ask: the runner compares, for each document, the
    #: scores that `search` gives it for all queries. Whoever declares that direction promises that
    #: scores of different queries are on one scale. Set by the runner, and no part of `identity`:
    #: the task says it.
    direction: Direction = Direction.FORWARD
    #: Where `index` and `search` report what they do beyond being at work; set by the runner.
    progress: Progress = Progress()
    #: Processes that index together (see `assist`); set by the runner.
    processes: int = 1

    def __init__(self, name: str, weights: str | None, settings: Settings) -> None:
        if weights and not self.weights_help:
            raise UsageError(
                f"retriever {name!r} takes no weights, but the address says {weights!r}; use "
                f"{name!r} alone."
            )
        self.name, self.weights, self.settings = name, weights, settings

    @property
    def address(self) -> str:
        """``name[/weights]``, or ``file.py:Class[/weights]``."""
        name = self.file or self.name
        return f"{name}/{self.weights}" if self.weights else name

    @property
    def untrained(self) -> bool:
        """Whether the weights in use were never trained; such runs are saved but never listed."""
        return False

    @property
    def losses(self) -> Mapping[str, int]:
        """What of the documents could not be used, counted by kind; known once `index` has run.

        ``video missing``, ``asr cut``, ``documents skipped``.
        """
        return {}

    @property
    def training(self) -> Path | None:
        """The folder that says how the weights were trained, if clamr-bench trained them."""
        folder = Path(self.weights).expanduser() if self.weights else None
        return folder if folder is not None and (folder / TRAINING_NAME).is_file() else None

    def close(self) -> None:
        """Give back what a run held, such as worker processes; called at its end."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that determines the output beside the data.

        Extend it with revisions and hashes of weights, dtypes, processors and prompts.
        """
        identity: dict[str, Any] = {
            "name": self.name,
            "version": self.about.version,
            "weights": self.weights,
            "settings": self.settings.model_dump(mode="json"),
        }
        if self.source_sha256:
            identity["source_sha256"] = self.source_sha256
        return identity

    def index_identity(self) -> dict[str, Any]:
        """Return, as JSON values, all that determines what `index` makes, beside the data.

        The workspace is keyed by it. A retriever whose `search` alone reads some settings leaves
        those out: then changing one indexes nothing anew.
        """
        return self.identity()

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of `identity`."""
        return digest(self.identity())

    @abstractmethod
    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Do all document-side work.

        Parameters
        ----------
        documents
            The collection; sized, and can be iterated more than once. Not held in memory.
        workspace
            Where to keep what was made; what an earlier process completed there can be used.
        """

    def timed_index(self, documents: Documents, workspace: Workspace) -> float | None:
        """Index, and return how long that took; the workspace's lock is held.

        Returns
        -------
        float or None
            Seconds of the process that did all of it, this one or an earlier one; None if several
            did parts.
        """
        timing, started = workspace.path / INDEX_NAME, workspace.path / "index.started"
        interrupted = started.exists()
        started.touch()
        start = time.perf_counter()
        self.index(documents, workspace)
        seconds = None if interrupted else time.perf_counter() - start
        if not timing.exists():
            with workspace.file(timing.name) as temporary:
                temporary.write_text(json.dumps({"seconds": seconds}))
        recorded: float | None = json.loads(timing.read_text())["seconds"]
        return recorded

    def index_bytes(self, workspace: Workspace) -> int:
        """Return the bytes on disk of what `index` made."""
        return workspace.size()

    def assist(self, documents: Documents, workspace: Workspace) -> None:
        """Do a share of the work of `index`, which runs in another process at the same time.

        The default leaves all to that process. `processes` says how many there are.
        """

    @abstractmethod
    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the indexed documents.

        Parameters
        ----------
        queries
            Queries without gold attributes (unless the retriever declares ``oracle``).
        k
            How many documents to return for each query; fewer are allowed.
        """

    def explain(
        self,
        queries: Sequence[Query],
        documents: Sequence[Sequence[str]],
        modalities: frozenset[Modality] | None = None,
    ) -> list[list[Attribution]]:
        """Take scores of indexed documents apart; for those who declare ``explains``.

        Parameters
        ----------
        queries
            As for `search`.
        documents
            For each query, ids of documents.
        modalities
            The only modalities whose tokens may win: a mask, nothing is encoded anew. None for
            all that the retriever scores by.

        Returns
        -------
        list of list of Attribution
            For each query, one for each of its documents.

        Raises
        ------
        CapabilityError
            If the retriever cannot, even for no queries.
        """
        raise CapabilityError(
            f"retriever {self.address!r} cannot explain its scores: that takes token embeddings, "
            "as encoders make them."
        )

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return what stands for each query token of `explain`, or None where it has no text."""
        return None
