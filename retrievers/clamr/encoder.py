"""CLaMR as encoders of the harness. torch is imported when the model is first used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.encoder import Encoder
from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.media import AudioSampling, FrameCache, FrameSampling, LoadedDocument, MediaLoader
from harness.plugin import About
from harness.retriever import Capabilities
from harness.types import Document, Modality, Query
from retrievers.clamr.ahead import Ahead
from retrievers.clamr.form import TEXTS
from retrievers.clamr.sequence import Content, Tokens
from retrievers.clamr.settings import ClamrSettings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from retrievers.clamr.engine import Engine
    from retrievers.clamr.loading import Weights

#: Version of what sequences and vectors are: raise it when the same input would give others.
VERSION = 1

#: What `clamr` without weights stands for.
RELEASED = "meetdavidwan/clamr"

#: Sampling rate of Whisper's features.
RATE = 16_000

#: Weights that need no files.
BUILT_IN = ("tiny", "tiny-omni")

#: Token budgets that are sorted by length together.
_TOGETHER = 4

_ABOUT = {
    "version": "1",
    "licence": "MIT; the backbones have licences of their own",
    "citation": "Wan, Wang, Stengel-Eskin, Cho, Bansal, CLaMR: Contextualized Late-Interaction "
    "for Multimodal Content Retrieval, arXiv:2506.06144, 2025.",
    "url": "https://github.com/meetdavidwan/clamr",
}


class Clamr(Encoder):
    """CLaMR: one contextualised sequence of all modalities, late interaction over its tokens.

    Both published forms: Qwen2.5-VL, and Qwen2.5-Omni, which hears. An address names weights:
    ``tiny`` or ``tiny-omni`` (built in, from a seed, untrained), a folder or a hub id of a
    checkpoint or of a LoRA adapter.
    """

    about = About(title="CLaMR, contextualised multimodal late interaction", **_ABOUT)
    Settings: ClassVar[type[ClamrSettings]] = ClamrSettings
    settings: ClamrSettings
    capabilities = Capabilities(
        modalities=frozenset((Modality.VIDEO, Modality.AUDIO, *TEXTS)), trainable=True
    )
    weights_help = (
        f"tiny, tiny-omni, a folder or a hub id; default: {RELEASED} (an adapter of "
        "Qwen/Qwen2.5-VL-3B-Instruct)"
    )
    pooled: ClassVar[bool] = False

    def __init__(self, name: str, weights: str | None, settings: ClamrSettings) -> None:
        super().__init__(name, weights, settings)
        self.untrained = weights in BUILT_IN
        if self.untrained and (settings.base or settings.projection):
            raise UsageError(
                f"{name}/{weights} is whole: leave the settings base and projection out."
            )
        if weights and weights not in BUILT_IN and Path(weights).expanduser().is_dir():
            self.untrained = not self._is_trained()

    def identity(self) -> dict[str, Any]:
        """Return the files' hashes or commits, the precision, and what the media reader does."""
        check_installed()
        from retrievers.clamr.checkpoint import Place

        files = self._weights
        return {
            "clamr": VERSION,
            "files": self.weights if files is None else files.identity(),
            "dtype": str(Place.of(self.settings).dtype).removeprefix("torch."),
            "media": self._loader.identity(),
        }

    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return a vector for each token of a query, its augmentation included; pooled: one."""
        sequences = [self.engine.prompt.query(query.text) for query in batch]
        return self._packed([[tokens] for tokens in sequences], self.engine.encode(sequences))

    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the vectors of the documents' tokens, and where in its source each comes from.

        Media are decoded ahead of the model.
        """
        engine = self.engine
        made: list[list[Tokens]] = []
        vectors: list[NDArray[np.float32]] = []
        waiting: list[Tokens] = []
        ahead = (engine.prompt.document(content) for content in self._contents(batch))
        for sequences in Ahead(ahead, depth=len(batch)):
            made.append(sequences)
            waiting.extend(sequences)
            # Several budgets together, so that like lengths meet; not all documents, so that the
            # rest is decoded while the model works.
            if sum(map(len, waiting)) >= _TOGETHER * engine.budget:
                vectors.extend(engine.encode(waiting))
                waiting = []
        vectors.extend(engine.encode(waiting))
        return self._packed(made, vectors)

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return the text of each token of a query; None for a pooled vector."""
        if self.pooled:
            return None
        prompt = self.engine.prompt
        return [prompt.vocabulary.spell(number) for number in prompt.query(query.text).ids.tolist()]

    @property
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""
        return self.engine.model

    def lora_targets(self) -> Sequence[str]:
        """Return the linear layers of the language model, and the projection."""
        from retrievers.clamr.adapter import lora_targets

        return lora_targets(self.engine.model)

    def forward_queries(self, batch: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        return self.engine.padded([[self.engine.prompt.query(query.text)] for query in batch])

    def forward_documents(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        prompt = self.engine.prompt
        return self.engine.padded([prompt.document(content) for content in self._contents(batch)])

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded once, when it is first needed."""
        check_installed()
        from retrievers.clamr.engine import Engine
        from retrievers.clamr.loading import load
        from retrievers.clamr.tiny import tiny_model
        from retrievers.clamr.tokens import Vocabulary

        if self._weights is None:
            model, folder = tiny_model(str(self.weights))
        else:
            model = load(self._weights, self.settings, project=not self.pooled)
            folder = self._weights.base.folder
            self.untrained = not self._is_trained()
        self._check_modalities(model.form.modalities)
        return Engine(model, Vocabulary(folder), self.settings, pooled=self.pooled)

    def close(self) -> None:
        """End the processes that decode media; they are started again when needed."""
        self._loader.close()

    def _is_trained(self) -> bool:
        """Return whether all that makes a vector was trained; a bare backbone's projection not."""
        check_installed()
        from retrievers.clamr.loading import has_projection

        files = self._weights
        return files is not None and (self.pooled or has_projection(files, self.settings))

    def _check_modalities(self, readable: Sequence[Modality]) -> None:
        strange = [m.label for m in self.settings.encode_modalities or () if m not in readable]
        if strange:
            raise UsageError(
                f"encode_modalities asks for {', '.join(strange)}, which these weights cannot "
                f"read: choose from {', '.join(m.label for m in readable)}"
                + (" (sound needs the Omni form)." if "audio" in strange else ".")
            )

    @cached_property
    def _weights(self) -> Weights | None:
        """The files; None for built-in weights."""
        if self.weights in BUILT_IN:
            return None
        from retrievers.clamr.loading import find_weights

        return find_weights(self.weights or RELEASED, self.settings)

    @cached_property
    def _loader(self) -> MediaLoader:
        settings = self.settings
        reads = settings.encode_modalities or tuple(Modality)
        return MediaLoader(
            frames=FrameSampling(settings.frame_sampling, settings.frames, settings.fps)
            if Modality.VIDEO in reads
            else None,
            audio=AudioSampling(RATE, settings.audio_seconds) if Modality.AUDIO in reads else None,
            on_damaged=settings.on_damaged,
            workers=settings.workers,
            cache=FrameCache() if settings.cache_frames else None,
        )

    def _contents(self, batch: Sequence[Document]) -> Iterator[Content]:
        """Yield the documents' content, decoded ahead."""
        form, asked = self.engine.form, self.settings.encode_modalities
        reads = frozenset(form.modalities if asked is None else asked)
        for loaded in self._loader.load(document.only(reads) for document in batch):
            yield _content(loaded)

    def _packed(
        self, items: Sequence[Sequence[Tokens]], vectors: Sequence[NDArray[np.float32]]
    ) -> TokenEmbeddings:
        """Join the vectors of each item's sequences, which follow one another."""
        parts, rest = [], iter(vectors)
        for sequences in items:
            found = [next(rest) for _ in sequences]
            if not found:
                parts.append(TokenEmbeddings.of([{}]))
            elif self.pooled:
                parts.append(TokenEmbeddings.of([{Modality.TEXT: np.concatenate(found)}]))
            else:
                numbers = np.concatenate([tokens.modalities for tokens in sequences])
                parts.append(
                    TokenEmbeddings.from_padded(
                        np.concatenate(found)[None],
                        np.ones((1, len(numbers)), np.int64),
                        numbers[None],
                        spans=np.concatenate([tokens.spans for tokens in sequences])[None],
                        keep_unassigned=True,
                    )
                )
        return TokenEmbeddings.concatenate(parts)


def check_installed() -> None:
    """Check that the libraries of the extra are there, and new enough.

    Raises
    ------
    UsageError
        Saying what to install.
    """
    missing = [name for name in ("torch", "peft", "tokenizers") if find_spec(name) is None]
    try:
        # The class that is Omni without a voice came with 5.22.
        from transformers import Qwen2_5OmniThinkerModel  # noqa: F401
    except ImportError:
        missing.append("transformers 5.22 or later")
    if missing:
        raise UsageError(
            f"clamr needs {', '.join(missing)}: pip install --upgrade 'clamr-bench[models]'."
        )


def _content(loaded: LoadedDocument) -> Content:
    frames, sound = loaded.frames, loaded.waveform
    return Content(
        frames=() if frames is None else list(frames.pixels),
        seconds=() if frames is None else frames.seconds.tolist(),
        sound=None if sound is None else sound.samples,
        texts=loaded.document.texts,
    )


class ClamrPooled(Clamr):
    """CLaMR's strongest baseline: the same backbone and input, one vector, the last token's.

    It stands for all modalities at once; it is stored under ``text``, and masking modalities at
    search time cannot take it apart.
    """

    about = About(title="Pooled vector of CLaMR's backbone", **_ABOUT)
    pooled: ClassVar[bool] = True

    def __init__(self, name: str, weights: str | None, settings: ClamrSettings) -> None:
        super().__init__(name, weights, settings)
        if not settings.contextualise:
            raise UsageError(
                f"{name} makes one vector of all modalities together: contextualise = false has "
                "no meaning for it; leave it out."
            )
