"""Dense and multi-vector models as encoders. The library is imported when a model is first used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.late_interaction.embeddings import SPAN_FIELDS
from harness.media import LoadedDocument, MediaLoader
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import Document, Modality, Query
from retrievers.media_encoder import MediaEncoder
from retrievers.model_settings import READS
from retrievers.shipped import TINY
from retrievers.st.checks import check_installed, check_modalities, find_named
from retrievers.st.settings import FrameSettings, Kind, SentenceSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrievers.st.reader import Reader
    from retrievers.st.source import ModelSource

#: Version of what vectors are made of: raise it when the same input would give others.
VERSION = 1

_WHOLE = (0.0, 0.0, 1.0, 1.0)

#: A modality of a document with its vectors ``(n, dim)`` and their spans ``(n, 7)``.
Part = tuple[Modality, "NDArray[np.float32]", "NDArray[np.float32]"]


class FrameEncoder(MediaEncoder):
    """Encodes texts by one model of the library, and frames by the same or another one.

    A retriever says what its models are.
    """

    Settings: ClassVar[type[FrameSettings]] = FrameSettings
    settings: FrameSettings

    def __init__(self, name: str, weights: str | None, settings: FrameSettings) -> None:
        super().__init__(name, weights, settings)
        self.untrained = weights == TINY

    @property
    @abstractmethod
    def texts(self) -> Reader:
        """The model that reads texts."""

    @property
    @abstractmethod
    def images(self) -> Reader | None:
        """The model that reads images; None if there is none."""

    @abstractmethod
    def files(self) -> dict[str, Any]:
        """Return, as JSON values, what names the models' files."""

    def expect(self, documents: Sequence[Document]) -> None:
        """Let the workers begin on the documents after the next batch when they are free."""
        if self.images is not None:
            self._loader.expect(self._restricted(documents))

    def identity(self) -> dict[str, Any]:
        """Return the files' hashes or commits, the precision, and how media are read."""
        check_installed(self.name)
        from retrievers.device import place_of
        from retrievers.st.loading import image_backend

        return {
            "sentence_transformers": VERSION,
            "files": self.files(),
            "dtype": place_of(self.settings).precision,
            "media": self._loader.identity(),
            "image_backend": image_backend(),
        }

    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return one vector for each query, or one for each of its tokens.

        A query without text is its image; an instruction is never read.
        """
        told = [query for query in batch if QueryKind.of(query) is not QueryKind.IMAGE]
        shown = [query for query in batch if QueryKind.of(query) is QueryKind.IMAGE]
        pictures = self._pictures.of(shown)
        seen = [picture for picture in pictures if picture is not None]
        with self._computing():
            texts = iter(self.texts.queries([query.text for query in told]) if told else ())
            images = iter(self.images.images(seen) if self.images is not None and seen else ())
        coming, made = iter(pictures), []
        for query in batch:
            if QueryKind.of(query) is not QueryKind.IMAGE:
                made.append({Modality.TEXT: next(texts)})
            elif next(coming) is None:
                made.append({})
            else:
                made.append({Modality.IMAGE: next(images)})
        return TokenEmbeddings.of(made)

    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the documents' vectors, and where in its source each comes from."""
        parts: list[list[Part]] = [[] for _ in batch]
        texts: list[tuple[int, Modality, str]] = []
        waiting: list[tuple[int, LoadedDocument]] = []
        images = self.images
        for place, loaded in enumerate(self._loaded(batch)):
            texts.extend((place, m, text) for m, text in loaded.document.texts.items())
            if images is None or not _pictures(loaded):
                continue
            # Frames are large: they go to the model as soon as they fill a batch.
            waiting.append((place, loaded))
            if sum(len(_pictures(each)) for _, each in waiting) >= images.most_images:
                self._see(images, waiting, parts)
                waiting = []
        if images is not None and waiting:
            self._see(images, waiting, parts)
        if texts:
            with self._computing():
                found = self.texts.documents([(modality, text) for _, modality, text in texts])
            for (place, modality, _), (vectors, spans) in zip(texts, found, strict=True):
                parts[place].append((modality, vectors, spans))
        return TokenEmbeddings.concatenate([_packed(each) for each in parts])

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return the token of each vector of a query; None for a model of single vectors."""
        return self.texts.query_tokens(query.text)

    def _see(
        self, images: Reader, waiting: Iterable[tuple[int, LoadedDocument]], parts: list[list[Part]]
    ) -> None:
        """Encode the frames and images of documents."""
        waiting = list(waiting)
        with self._computing():
            found = iter(images.images([p for _, loaded in waiting for p in _pictures(loaded)]))
        for place, loaded in waiting:
            if loaded.frames is not None and len(loaded.frames):
                seconds = loaded.frames.seconds.tolist()
                made = [next(found) for _ in seconds]
                vectors = images.pooled(made)
                shown = (
                    [(seconds[0], seconds[-1], *_WHOLE, np.nan)]
                    if images.pools
                    else [
                        (second, second, *_WHOLE, number)
                        for second, number, each in zip(
                            seconds, loaded.frames.numbers.tolist(), made, strict=True
                        )
                        for _ in each
                    ]
                )
                parts[place].append((Modality.VIDEO, vectors, np.asarray(shown, np.float32)))
            if loaded.images:
                # Pictures of a document need not show one thing, as the frames of a video do.
                made = [next(found) for _ in loaded.images]
                vectors = np.concatenate(made)
                spans = np.full((len(vectors), len(SPAN_FIELDS)), np.nan, np.float32)
                spans[:, 2:6] = _WHOLE
                spans[:, 6] = np.repeat(np.arange(len(made)), [len(each) for each in made])
                parts[place].append((Modality.IMAGE, vectors, spans))

    @property
    def _reads(self) -> frozenset[Modality]:
        """What is asked for and can be read."""
        pictures = {Modality.VIDEO, Modality.IMAGE}
        asked = self.settings.reads
        return asked if self.images is not None else asked - pictures

    @cached_property
    def _loader(self) -> MediaLoader:
        reads = self.settings.reads
        return self.settings.loader(
            video=Modality.VIDEO in reads, images=Modality.IMAGE in reads, losses=self.losses
        )

    def _loaded(self, batch: Sequence[Document]) -> Iterator[LoadedDocument]:
        """Yield what is read of the documents, decoded ahead."""
        readable = [*self._restricted(batch)]
        if self.images is None:
            return map(LoadedDocument, readable)
        return self._loader.load(readable)


class SentenceTransformers(FrameEncoder):
    """A dense or multi-vector model of sentence-transformers, with its own prompts and similarity.

    It reads texts and, where the model takes images, frames and images of documents. Of a query
    with an image the text alone is read, never the image and never the instruction. An address
    names the model: ``tiny`` (built in, from a seed, untrained), a folder or a hub id. Sparse
    models are ``sentence-transformers-sparse``.
    """

    about = About(
        title="A model of sentence-transformers",
        version="1",
        licence="That of the model; the library's: Apache-2.0",
        citation="That of the model; Reimers, Gurevych, Sentence-BERT: Sentence Embeddings using "
        "Siamese BERT-Networks, EMNLP 2019, arXiv:1908.10084.",
        url="https://sbert.net",
    )
    Settings: ClassVar[type[SentenceSettings]] = SentenceSettings
    settings: SentenceSettings
    capabilities = Capabilities(
        modalities=frozenset(READS),
        query_kinds=frozenset({QueryKind.TEXT, QueryKind.IMAGE_TEXT}),
        directions=frozenset(Direction),
        ignores_images=True,
    )
    weights_help = "tiny, a folder or a hub id"

    @property
    def texts(self) -> Reader:
        """The model."""
        return self._reader

    @property
    def images(self) -> Reader | None:
        """The model, if it reads images."""
        return self._reader if self._reader.reads_images else None

    def files(self) -> dict[str, Any]:
        """Return the hashes or the commit of the model's files, and its kind."""
        if self._source is None:
            return {"built_in": TINY}
        return {"kind": self._kind, **self._source.identity()}

    @cached_property
    def _source(self) -> ModelSource | None:
        """The files; None for built-in weights."""
        if self.weights == TINY:
            return None
        return find_named(self.name, self.weights, self.settings)

    @cached_property
    def _kind(self) -> Kind:
        from retrievers.st.folder import kind_of

        if self._source is None:
            return "dense"
        kind = kind_of(self._source) if self.settings.kind == "auto" else self.settings.kind
        if kind == "sparse":
            raise UsageError(
                f"{self.weights} is a sparse model: use sentence-transformers-sparse/"
                f"{self.weights}."
            )
        return kind

    @cached_property
    def _reader(self) -> Reader:
        check_installed(self.name)
        from retrievers.device import place_of
        from retrievers.st.loading import load
        from retrievers.st.reader import Reader
        from retrievers.st.tiny import tiny_dense

        if self._source is None:
            place = place_of(self.settings)
            model: Any = tiny_dense().to(place.device, place.dtype)
        else:
            model = load(self._source, self._kind, self.settings)
        reader = Reader(str(self.weights), model, self._kind, self.settings, self.losses)
        check_modalities(self.settings, reader)
        return reader


def _pictures(loaded: LoadedDocument) -> list[NDArray[np.uint8]]:
    """Return a document's frames and images, in this order."""
    frames = [] if loaded.frames is None else list(loaded.frames.pixels)
    return [*frames, *loaded.images]


def _packed(parts: Sequence[Part]) -> TokenEmbeddings:
    """Return a document's vectors as embeddings of one item."""
    filled = [part for part in parts if len(part[1])]
    if not filled:
        return TokenEmbeddings.of([{}])
    numbers = np.concatenate(
        [np.full(len(vectors), int(modality), np.int64) for modality, vectors, _ in filled]
    )
    return TokenEmbeddings.from_padded(
        np.concatenate([vectors for _, vectors, _ in filled])[None],
        np.ones((1, len(numbers)), np.int64),
        numbers[None],
        spans=np.concatenate([spans for _, _, spans in filled])[None],
    )
