"""Sparse models (SPLADE and the like) as a retriever: vectors with a dimension for each word."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.documents import Documents
from harness.errors import PluginError, UsageError
from harness.plugin import About
from harness.retriever import Capabilities, QueryKind, Retriever
from harness.types import TEXT_MODALITIES, Document, Query, Ranking
from harness.workspace import Workspace
from retrievers.shipped import TINY
from retrievers.st.checks import check_installed, find_named
from retrievers.st.encoder import VERSION
from retrievers.st.settings import SparseSettings

if TYPE_CHECKING:
    from retrievers.st.postings import Postings, Row, Sparse
    from retrievers.st.source import ModelSource
    from retrievers.st.texts import Task

log = logging.getLogger("clamr_bench.sentence_transformers")


class SparseTransformers(Retriever):
    """A sparse model of sentence-transformers, searched by inner products.

    Each text modality of a document is one vector of which only what is not zero is kept; the best
    one counts. Of a query with an image the text alone is read, never the image and never the
    instruction. An address names the model: ``tiny`` (built in, from a seed, untrained), a folder
    or a hub id. Dense and multi-vector models are ``sentence-transformers``.
    """

    about = About(
        title="A sparse model of sentence-transformers",
        version="1",
        licence="That of the model; the library's: Apache-2.0",
        citation="That of the model; Formal, Piwowarski, Clinchant, SPLADE: Sparse Lexical and "
        "Expansion Model for First Stage Ranking, SIGIR 2021, arXiv:2107.05720.",
        url="https://sbert.net",
    )
    Settings: ClassVar[type[SparseSettings]] = SparseSettings
    settings: SparseSettings
    capabilities = Capabilities(
        modalities=frozenset(TEXT_MODALITIES),
        query_kinds=frozenset({QueryKind.TEXT, QueryKind.IMAGE_TEXT}),
        ignores_images=True,
    )
    weights_help = "tiny, a folder or a hub id"
    masks = True

    _postings: Postings | None = None

    @property
    def untrained(self) -> bool:
        """Whether the weights are the built-in ones."""
        return self.weights == TINY

    @property
    def losses(self) -> Mapping[str, int]:
        """Texts that were cut, counted by modality."""
        return {} if self._postings is None else self._postings.losses

    def identity(self) -> dict[str, Any]:
        """Return the retriever's identity, the files' hashes or commit, and the precision."""
        check_installed(self.name)
        from retrievers.device import place_of

        source = self._source
        return {
            **super().identity(),
            "sentence_transformers": VERSION,
            "files": {"built_in": TINY} if source is None else source.identity(),
            "dtype": place_of(self.settings).precision,
        }

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Encode the documents that no earlier process encoded (see `Retriever.index`)."""
        from retrievers.st.postings import Postings

        postings = Postings(workspace, self._model.dim)
        postings.fill(
            documents,
            self._encode_documents,
            batch_size=self.settings.batch_size,
            total=len(documents),
            progress=self.progress,
        )
        self._postings = postings

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the documents that share a dimension with the query; others are left out."""
        if self._postings is None:
            raise PluginError(f"{self.name}: search was called before index; call index first.")
        asked = self._model.encode([query.text for query in queries], "query")
        lists = self._postings.search(asked, k, modalities=self.modalities, memory=self.memory)
        return Ranking({query.id: one for query, one in zip(queries, lists, strict=True)})

    def _encode_documents(self, batch: Sequence[Document]) -> tuple[list[Row], Counter[str]]:
        """Return a vector for each text of each document, and how many texts were cut."""
        reads = self.settings.reads
        texts = [
            (place, modality, text)
            for place, document in enumerate(batch)
            for modality, text in document.texts.items()
            if modality in reads
        ]
        plain = [text for _, _, text in texts]
        losses: Counter[str] = Counter()
        for (_, modality, _), cut in zip(texts, self._model.cut(plain), strict=True):
            if cut:
                losses[f"{modality.label} cut"] += 1
        rows: list[Row] = [{} for _ in batch]
        for (place, modality, _), vector in zip(
            texts, self._model.encode(plain, "document"), strict=True
        ):
            rows[place][modality] = vector
        return rows, losses

    @cached_property
    def _source(self) -> ModelSource | None:
        """The files; None for built-in weights."""
        if self.weights == TINY:
            return None
        from retrievers.st.folder import kind_of

        source = find_named(self.name, self.weights, self.settings)
        # A masked language model that was never saved by the library is one of SPLADE here.
        if source.read_json("modules.json") is not None and (kind := kind_of(source)) != "sparse":
            raise UsageError(
                f"{self.weights} is a {kind} model: use sentence-transformers/{self.weights}."
            )
        return source

    @cached_property
    def _model(self) -> SparseModel:
        check_installed(self.name)
        from retrievers.device import place_of
        from retrievers.st.loading import load
        from retrievers.st.tiny import tiny_sparse

        begun = time.perf_counter()
        if self._source is None:
            place = place_of(self.settings)
            model: Any = tiny_sparse().to(place.device, place.dtype)
        else:
            model = load(self._source, "sparse", self.settings)
        log.info("%s was loaded in %.1f s", self.weights, time.perf_counter() - begun)
        return SparseModel(str(self.weights), model, self.settings)


class SparseModel:
    """A loaded sparse model at work.

    Parameters
    ----------
    name
        What users call it.
    model
        A SparseEncoder.
    settings
        Prompts, similarity, the size of batches.

    Raises
    ------
    UsageError
        If its similarity is not one that vectors are searched by.
    """

    def __init__(self, name: str, model: Any, settings: SparseSettings) -> None:
        from retrievers.batches import Batches
        from retrievers.st.reader import Prompts, similarity_of

        self._name, self._model = name, model
        self._prompts = Prompts(name, model, settings)
        self._batches = Batches(model.device, settings.batch_inputs)
        self._most = settings.max_active_dims
        self._unit = similarity_of(name, model, settings.similarity) == "cosine"

    @cached_property
    def dim(self) -> int:
        """Dimension of the vectors: what comes out, for some models say another one before."""
        probe = self._model.encode_query(
            ["a"], convert_to_sparse_tensor=False, show_progress_bar=False
        )
        return int(probe.shape[-1])

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text of a document whether the model reads only its beginning."""
        return [read.cut for read in self._prompts.readers["document"].read(texts)]

    def encode(self, texts: Sequence[str], task: Task) -> list[Sparse]:
        """Return the vector of each text."""
        from retrievers.st.reader import text_inputs

        return self._batches.run(
            lambda batch: self._encode(batch, task),
            text_inputs(self._model, texts),
            list(map(len, texts)),
        )

    def _encode(self, batch: list[Any], task: Task) -> list[Sparse]:
        encode = getattr(self._model, f"encode_{task}")
        found = encode(
            batch,
            batch_size=len(batch),
            show_progress_bar=False,
            convert_to_sparse_tensor=False,
            max_active_dims=self._most,
            **self._prompts.options[task],
        ).float()
        # One batch is dense for a moment, where the model made it; a collection never is.
        rows, columns = found.nonzero(as_tuple=True)
        values = found[rows, columns].cpu().numpy()
        ends = np.searchsorted(rows.cpu().numpy(), np.arange(1, len(batch)))
        dimensions = np.split(columns.cpu().numpy().astype(np.int32), ends)
        made = list(zip(dimensions, np.split(values, ends), strict=True))
        return [(d, _unit(v)) for d, v in made] if self._unit else made


def _unit(values: Any) -> Any:
    return values / max(float(np.linalg.norm(values)), 1e-12)
