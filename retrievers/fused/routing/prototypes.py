"""The prototype router: a query goes where the examples most like it belong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from harness.encoder import EncoderRetriever, EncoderSettings
from harness.errors import PluginError, UsageError
from harness.registry import make_retriever
from harness.types import Modality, Query
from harness.workspace import Workspace, digest
from retrievers.fused.routing.names import modality_named
from retrievers.fused.routing.settings import PrototypeSettings
from retrievers.fused.routing.shares import Shares

log = logging.getLogger("clamr_bench.routing")

_DEFAULT = "prototypes.yaml"
_VERSION = "1"

Examples = Mapping[Modality, tuple[str, ...]]


class PrototypeRouter:
    """Routes by the cosine of a query's vector with those of example queries of each modality.

    Several vectors of a text are averaged. Only modalities that some part scores are compared. A
    text without a vector is for all parts alike.

    Raises
    ------
    UsageError
        If the encoder or the file of examples cannot be used.
    """

    oracle = False

    def __init__(self, settings: PrototypeSettings, shares: Shares) -> None:
        self._settings, self._shares = settings, shares
        self.fallbacks = shares.fallbacks
        self._examples = _chosen(read_examples(settings.prototypes), shares, settings.prototypes)
        retriever = make_retriever(settings.encoder, settings.encoder_settings)
        if not isinstance(retriever, EncoderRetriever):
            raise UsageError(
                f"router: {settings.encoder!r} is a retriever without vectors; encoder must be "
                "one with, such as clip or sentence-transformers/ID."
            )
        self._retriever = retriever

    @property
    def untrained(self) -> bool:
        """Whether the encoder's weights were never trained."""
        return self._retriever.untrained

    def identity(self) -> dict[str, Any]:
        """Return what determines the weights: examples by content, the encoder, the choice."""
        chosen = self._settings
        return {
            "kind": "prototypes",
            "version": _VERSION,
            "encoder": self._retriever.index_identity(),
            "prototypes": digest({m.label: texts for m, texts in self._examples.items()}),
            "similarity": chosen.similarity,
            "choice": chosen.choice,
            "temperature": chosen.temperature if chosen.choice == "soft" else None,
            "parts": self._shares.identity(),
        }

    def prepare(self, workspace: Workspace) -> None:
        """Encode the examples; a hundred short texts need no cache.

        Raises
        ------
        UsageError
            If the encoder gives an example no vector.
        """
        _ = self._prototypes

    def close(self) -> None:
        """Let the encoder give back what it holds."""
        self._retriever.close()

    def route(self, queries: Sequence[Query]) -> list[Mapping[str, float]]:
        """Return the weights of the parts for each query."""
        vectors = self._vectors([query.text for query in queries])
        return [self._weights(query, vector) for query, vector in zip(queries, vectors)]

    def _weights(self, query: Query, vector: NDArray[np.float64]) -> Mapping[str, float]:
        if not vector.any():
            return self._shares.uniform("queries without a vector", query.id)
        pool = np.mean if self._settings.similarity == "mean" else np.max
        near = {m: float(pool(rows @ vector)) for m, rows in self._prototypes.items()}
        best = max(near.values())
        if self._settings.choice == "hard":
            # Of exactly equal ones the first; they are in the order of modality numbers.
            first = next(modality for modality, value in near.items() if value == best)
            return self._shares.of({first: 1.0}, query.id)
        scaled = {m: (value - best) / self._settings.temperature for m, value in near.items()}
        return self._shares.of({m: float(np.exp(v)) for m, v in scaled.items()}, query.id)

    @cached_property
    def _prototypes(self) -> dict[Modality, NDArray[np.float64]]:
        """Unit vectors of the examples, ``(n_examples, dim)``, by modality in order of number."""
        made = {}
        for modality, texts in self._examples.items():
            made[modality] = self._vectors(texts)
            for text, vector in zip(texts, made[modality]):
                if not vector.any():
                    raise UsageError(
                        f"router: encoder {self._settings.encoder!r} gives no vector for the "
                        f"{modality.label} example {text!r}; reword it or choose another encoder."
                    )
        return made

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return mean vectors of length 1, shape ``(n_texts, dim)``; zeros where there is none."""
        encoder = self._retriever.encoder
        settings = self._retriever.settings
        size = settings.batch_size if isinstance(settings, EncoderSettings) else len(texts)
        rows: list[NDArray[np.float64]] = []
        for first in range(0, len(texts), size):
            # The text alone: examples have neither image nor instruction.
            batch = [Query(str(n), text) for n, text in enumerate(texts[first : first + size])]
            made = encoder.encode_queries(batch)
            if len(made) != len(batch):
                raise PluginError(
                    f"encoder {self._settings.encoder!r} returned {len(made)} items for "
                    f"{len(batch)} queries."
                )
            for start, stop in zip(made.offsets[:-1].tolist(), made.offsets[1:].tolist()):
                total = made.widen(start, stop).astype(np.float64).sum(axis=0)
                rows.append(total / (np.linalg.norm(total) or 1.0))
        return np.stack(rows) if rows else np.zeros((0, 0))


def read_examples(path: Path | None) -> Examples:
    """Read the example queries of each modality; the package's own for None.

    Raises
    ------
    UsageError
        If the file is missing or is not ``{modality: [text, ...]}``.
    """
    try:
        if path is None:
            text = files(__package__).joinpath(_DEFAULT).read_text(encoding="utf-8")
        else:
            text = path.expanduser().read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"router: prototypes {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"router: prototypes {path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict) or not values:
        raise UsageError(
            f"router: prototypes {path} is not a mapping of modalities to example queries, as "
            "'ocr: [the words on the banner, ...]'."
        )
    examples: dict[Modality, tuple[str, ...]] = {}
    for name, texts in values.items():
        try:
            modality = modality_named(str(name))
        except UsageError as error:
            raise UsageError(f"router: prototypes {path}: {error}") from None
        if modality in examples:
            raise UsageError(
                f"router: prototypes {path} has {modality.label} twice, once as {name!r}; join "
                "the two lists."
            )
        if not isinstance(texts, list) or not texts:
            raise UsageError(f"router: prototypes {path}: {name!r} is not a list of queries.")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise UsageError(
                    f"router: prototypes {path}: {name!r} has {text!r}, which is no text; quote it."
                )
        examples[modality] = tuple(texts)
    return {modality: examples[modality] for modality in sorted(examples)}


def _chosen(examples: Examples, shares: Shares, path: Path | None) -> Examples:
    """Return the examples of modalities that some part scores."""
    chosen = {m: texts for m, texts in examples.items() if m in shares.scored}
    if not chosen:
        raise UsageError(
            f"router: prototypes {path or 'of the package'} are of "
            f"{', '.join(m.label for m in examples)}, but the parts score "
            f"{', '.join(m.label for m in sorted(shares.scored)) or 'nothing'}; give a file with "
            "examples of these."
        )
    for label, own in shares.modalities.items():
        if not own & chosen.keys():
            log.warning(
                "router: there are no prototypes of what part %s scores, so it gets no weight",
                label,
            )
    return chosen
