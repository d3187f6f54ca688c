"""What encoders on a Qwen backbone share. torch is imported when the model is first used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.media import AudioSampling, MediaLoader
from harness.retriever import QueryKind
from harness.types import Document, Modality, Query
from retrievers.media_encoder import CuttingEncoder, check_installed
from retrievers.qwen.form import Family, Form
from retrievers.qwen.packing import packed
from retrievers.qwen.sequence import Content, Tokens
from retrievers.qwen.settings import QwenSettings
from retrievers.shipped import identity_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.training.plan import Blueprint
    from retrievers.qwen.backbone import LateInteraction
    from retrievers.qwen.engine import Engine
    from retrievers.qwen.loading import Weights
    from retrievers.qwen.prompt import Prompt
    from retrievers.qwen.tokens import Vocabulary

#: Sampling rate of Whisper's features.
RATE = 16_000


class QwenEncoder(CuttingEncoder[Tokens]):
    """Late interaction over the tokens of a Qwen backbone.

    A retriever says what its `family` is and makes its prompts.
    """

    Settings: ClassVar[type[QwenSettings]] = QwenSettings
    settings: QwenSettings
    family: ClassVar[Family]
    #: Whether an item is one vector, its last token's hidden state.
    pooled: ClassVar[bool] = False
    weight_settings = ("base", "revision", "projection", "initial_seed")

    def __init__(self, name: str, weights: str | None, settings: QwenSettings) -> None:
        super().__init__(name, weights, settings)
        built_in = weights in self.built_in.names
        if built_in and (settings.base or settings.projection):
            raise UsageError(
                f"{name}/{weights} is whole: leave the settings base and projection out."
            )
        if weights and not built_in and Path(weights).expanduser().is_dir():
            self.untrained = not self._is_trained()

    @abstractmethod
    def make_prompt(self, model: LateInteraction, vocabulary: Vocabulary) -> Prompt:
        """Return what makes the sequences for a model."""

    def readable(self, form: Form) -> tuple[Modality, ...]:
        """Return what is read with a form's weights."""
        return form.modalities

    def identity(self) -> dict[str, Any]:
        """Return the files' hashes or commits, the precision, and what the media reader does."""
        check_installed(self.name)
        from retrievers.device import Place

        return {
            self.family.name: self.family.version,
            "files": identity_of(self.weights, self._shipped)
            if self._weights is None
            else self._weights.identity(),
            "dtype": Place.of(self.settings).precision,
            "media": self._loader.identity(),
        }

    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return a vector for each token of a query, its augmentation included; pooled: one."""
        asked = self._asked(batch)
        vectors = self._encoded([tokens for item in asked for tokens in item])
        return self._packed(asked, vectors)

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return the text of each token of a query; None for a pooled vector.

        A token of its picture has the row and column that it stands for.
        """
        if self.pooled:
            return None
        prompt = self.engine.prompt
        return [text for tokens in self._asked([query])[0] for text in prompt.spelled(tokens)]

    def blueprint(self) -> Blueprint:
        """Return the architecture, without weights (see `harness.training.plan`)."""
        from retrievers.qwen.published import blueprint

        return blueprint(self.weights, self.settings, self.family)

    @property
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""
        return self.engine.model

    def lora_targets(self) -> Sequence[str]:
        """Return the linear layers of the language model, and the projection where it is used."""
        from retrievers.qwen.adapter import lora_targets

        return lora_targets(self.engine.model, project=not self.pooled)

    def forward_queries(self, batch: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        return self.engine.padded(self._asked(batch))

    def forward_documents(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        return self.engine.padded(self._cut(batch))

    def save(self, folder: Path) -> None:
        """Write an adapter where only LoRA layers were trained, else a whole checkpoint.

        Of built-in weights, which no adapter can name as its base, always a whole checkpoint. A
        pooled model leaves its projection out, which nothing trains.
        """
        from retrievers.device import Place
        from retrievers.qwen.saving import save

        engine = self.engine
        save(
            engine.model,
            folder,
            self._weights,
            Place.of(self.settings).dtype,
            tokenizer=engine.prompt.vocabulary.folder,
            project=not self.pooled,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model as `retrievers.shipped.write_builtin` takes them."""
        from retrievers.qwen.adapter import merged
        from retrievers.qwen.names import PROJECTION

        found = merged(self.engine.model)
        return {n: t for n, t in found.items() if not (self.pooled and n.startswith(PROJECTION))}

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded once, when it is first needed."""
        check_installed(self.name)
        from retrievers.qwen.built_in import load_built_in
        from retrievers.qwen.engine import Engine
        from retrievers.qwen.loading import load
        from retrievers.qwen.tokens import Vocabulary

        settings, project = self.settings, not self.pooled
        if self._weights is None:
            model, folder = load_built_in(
                str(self.weights), settings, self.family, self._shipped, project=project
            )
        else:
            model = load(self._weights, settings, self.family, project=project)
            folder = self._weights.base.folder
            self.untrained = not self._is_trained()
        self._check_modalities(self.readable(model.form))
        prompt = self.make_prompt(model, Vocabulary(folder))
        return Engine(model, prompt, settings.batch_tokens, pooled=self.pooled)

    def _is_trained(self) -> bool:
        """Return whether all that makes a vector was trained; a bare backbone's projection not."""
        check_installed(self.name)
        from retrievers.qwen.loading import has_projection

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
        if self.weights in self.built_in.names:
            return None
        from retrievers.qwen.loading import find_weights

        return find_weights(self.weights or self.family.released, self.settings)

    @cached_property
    def _loader(self) -> MediaLoader:
        settings = self.settings
        reads = settings.encode_modalities or self.capabilities.modalities
        return settings.loader(
            video=Modality.VIDEO in reads,
            audio=AudioSampling(RATE, settings.audio_seconds) if Modality.AUDIO in reads else None,
            images=Modality.IMAGE in reads,
            losses=self.losses,
        )

    @property
    def _reads(self) -> frozenset[Modality]:
        asked = self.settings.encode_modalities
        return frozenset(self.readable(self.engine.form) if asked is None else asked)

    def _asked(self, batch: Sequence[Query]) -> list[list[Tokens]]:
        """Return the sequence of each query; none for one that was an image alone, and damaged.

        An instruction says what to do with an image: it is read before the text where there is one.
        """
        made = []
        for query, picture in zip(batch, self._pictures.of(batch), strict=True):
            text = query.text
            if picture is not None:
                text = " ".join(part for part in (query.instruction, text) if part)
            lost = picture is None and QueryKind.of(query) is QueryKind.IMAGE
            made.append([] if lost else [self.engine.prompt.query(text, picture)])
        return made

    def _made(self, batch: Sequence[Document]) -> Iterator[list[Tokens]]:
        return map(self.engine.prompt.document, self._contents(batch))

    def _contents(self, batch: Sequence[Document]) -> Iterator[Content]:
        """Yield the documents' content, decoded ahead."""
        return map(Content.of, self._loader.load(batch))

    def _batches(self, pieces: Sequence[Tokens]) -> float:
        return sum(map(len, pieces)) / self.engine.budget

    def _packed(
        self, items: Sequence[Sequence[Tokens]], vectors: Sequence[NDArray[np.float32]]
    ) -> TokenEmbeddings:
        return packed(items, vectors, pooled=self.pooled)
