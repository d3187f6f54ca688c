"""A loaded dense or multi-vector model: texts and images to vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.modality import infer_modality

from harness.errors import PluginError, UsageError
from harness.types import Modality
from retrievers.batches import Batches
from retrievers.st.settings import FrameSettings, Kind, PromptSettings, SentenceSettings
from retrievers.st.texts import Read, Task, TextReader, no_place

#: The library refuses anything else, and MaxSim over single vectors is the inner product.
_SIMILARITIES = ("cosine", "dot")


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """The vectors of one text or image.

    Attributes
    ----------
    vectors
        float32, shape ``(n, dim)``; one for a dense model, perhaps none for another.
    ids
        int64, shape ``(n,)``: the token of each vector, where it is known.
    positions
        int64, shape ``(n,)``: its place in the model's input, padding included.
    inputs
        The model's input, padding included.
    """

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64] | None = None
    positions: NDArray[np.int64] | None = None
    inputs: NDArray[np.int64] | None = None


class Prompts:
    """What stands before texts, as the library takes it and as `TextReader` does.

    Raises
    ------
    UsageError
        If the model has no prompt of a name that was asked for.
    """

    def __init__(self, name: str, model: Any, settings: PromptSettings | None) -> None:
        self.options: dict[Task, dict[str, str]] = {"query": {}, "document": {}}
        self.readers: dict[Task, TextReader] = {}
        for task in self.options:
            text = getattr(settings, f"{task}_prompt", None)
            called = getattr(settings, f"{task}_prompt_name", None)
            if text is None and called is None and task == "document":
                called = _passage_prompt(model)
            if called is not None and called not in model.prompts:
                raise UsageError(
                    f"{task}_prompt_name = {called!r}: {name} has "
                    f"{', '.join(map(repr, sorted(model.prompts))) or 'no prompts'}; give one of "
                    f"these, or its text as {task}_prompt."
                )
            if text is not None:
                self.options[task] = {"prompt": text}
            elif called is not None:
                self.options[task] = {"prompt_name": called}
            self.readers[task] = TextReader(model, task, text, called)


def _passage_prompt(model: Any) -> str | None:
    """Return the name of a model's prompt for documents, if that is not ``document``.

    The library means to look for these names too; but it gives every model an empty prompt called
    ``document``, which it finds first (6.2.0).
    """
    prompts = model.prompts
    if prompts.get("document"):
        return None
    return next((name for name in ("passage", "corpus") if prompts.get(name)), None)


def text_inputs(model: Any, texts: Sequence[str]) -> list[str | dict[str, str]]:
    """Return texts as the library takes them, whatever they say.

    The library would take a text that looks like the address of a picture for that picture, and
    fetch it, if the model reads pictures.
    """
    known = model.modalities
    return [text if infer_modality(text, known) == "text" else {"text": text} for text in texts]


class Reader:
    """A loaded model at work.

    Parameters
    ----------
    name
        What users call the model.
    model
        A SentenceTransformer or MultiVectorEncoder.
    kind
        Which of them.
    settings
        Pooling of frames, the size of batches; similarity and prompts if it has them.
    losses
        Where to count texts that were cut.

    Raises
    ------
    UsageError
        If the model's similarity is not one that vectors are searched by, or it has no prompt of a
        name that was asked for.
    """

    def __init__(
        self, name: str, model: Any, kind: Kind, settings: FrameSettings, losses: Counter[str]
    ) -> None:
        self.name, self.kind, self._model = name, kind, model
        self._losses = losses
        asked = settings if isinstance(settings, SentenceSettings) else None
        self._prompts = Prompts(name, model, asked)
        self._batches = Batches(model.device, settings.batch_inputs)
        self._frames_as = settings.frames_as
        self._unit = False
        if kind == "dense":
            similarity = "auto" if asked is None else asked.similarity
            self._unit = similarity_of(name, model, similarity) == "cosine"

    @property
    def reads_texts(self) -> bool:
        """Whether the model reads texts."""
        return "text" in self._modalities

    @property
    def reads_images(self) -> bool:
        """Whether the model reads images, hence frames."""
        return "image" in self._modalities

    @property
    def _modalities(self) -> Sequence[Any]:
        found: Sequence[Any] = self._model.modalities
        return found

    @property
    def most_images(self) -> int:
        """Images that are encoded together."""
        return self._batches.most

    def queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the vectors of queries."""
        return [made.vectors for made in self._texts(texts, "query")]

    def query_tokens(self, text: str) -> list[str] | None:
        """Return the token of each vector of a query; None where that is not known."""
        made = self._texts([text], "query")[0]
        tokenizer = self._prompts.readers["query"].tokenizer
        if made.ids is None or tokenizer is None:
            return None
        return [str(tokenizer.convert_ids_to_tokens(number)) for number in made.ids.tolist()]

    def documents(
        self, texts: Sequence[tuple[Modality, str]]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return vectors ``(n, dim)`` and their spans ``(n, 7)`` for texts of documents."""
        plain = [text for _, text in texts]
        read = self._prompts.readers["document"].read(plain)
        for (modality, _), each in zip(texts, read, strict=True):
            if each.cut:
                self._losses[f"{modality.label} cut"] += 1
        made = self._texts(plain, "document")
        return [(one.vectors, _spans(one, each)) for one, each in zip(made, read, strict=True)]

    def images(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Return the vectors of images, uint8 RGB of shape ``(height, width, 3)``."""
        from PIL import Image

        # Arrays would do, but for some processors not of several sizes.
        inputs = [Image.fromarray(picture) for picture in pictures]
        made = self._batches.run(
            lambda batch: self._encode(batch, "document"), inputs, [1] * len(inputs)
        )
        return [one.vectors for one in made]

    def pooled(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the vectors of a video's frames as the settings ask for."""
        joined = np.concatenate(vectors)
        if self.kind != "dense" or self._frames_as == "each":
            return joined
        one = joined.mean(axis=0) if self._frames_as == "mean" else joined.max(axis=0)
        return self._scaled(one[None])

    @property
    def pools(self) -> bool:
        """Whether the frames of a video become one vector."""
        return self.kind == "dense" and self._frames_as != "each"

    def _texts(self, texts: Sequence[str], task: Task) -> list[Made]:
        return self._batches.run(
            lambda batch: self._encode(batch, task),
            text_inputs(self._model, texts),
            list(map(len, texts)),
        )

    def _encode(self, batch: list[Any], task: Task) -> list[Made]:
        encode = getattr(self._model, f"encode_{task}")
        options = {
            "batch_size": len(batch), "show_progress_bar": False, **self._prompts.options[task],
        }  # fmt: skip
        try:
            if self.kind == "dense":
                found = encode(batch, convert_to_numpy=True, **options)
                return [Made(self._scaled(row[None])) for row in found.astype(np.float32)]
            return [_made(found) for found in encode(batch, output_value=None, **options)]
        except (ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PluginError(f"{self.name} cannot encode a {task}: {reason}") from error

    def _scaled(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit(vectors) if self._unit else vectors


def similarity_of(name: str, model: Any, asked: str) -> str:
    """Return the similarity of single vectors.

    Raises
    ------
    UsageError
        If it is neither the inner product nor the cosine.
    """
    found = str(model.similarity_fn_name) if asked == "auto" else asked
    if found not in _SIMILARITIES:
        raise UsageError(
            f"{name} compares vectors by {found}, and they are searched by inner products here: "
            "set similarity to cosine or dot if the model was trained so."
        )
    return found


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors scaled to length 1; zeros stay, and their cosine is 0."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)), np.float32)


def _made(found: dict[str, Any]) -> Made:
    """Return what counts of a multi-vector model's output for one input."""
    mask = found["attention_mask"].bool()
    vectors = found["token_embeddings"][mask].float().cpu().numpy()
    ids = found.get("input_ids")
    # A module that pools tokens leaves fewer vectors than there were tokens.
    if ids is None or ids.ndim != 1 or len(ids) != len(mask):
        return Made(vectors)
    inputs, positions = ids.cpu().numpy(), mask.cpu().numpy().nonzero()[0]
    return Made(vectors, inputs[positions], positions, inputs)


def _spans(made: Made, read: Read) -> NDArray[np.float32]:
    """Return where in its text each vector comes from: the text that was read, or its token."""
    spans = np.tile(np.asarray(no_place(), np.float32), (len(made.vectors), 1))
    if made.inputs is None or made.positions is None:
        if len(spans) == 1:
            spans[:, :2] = 0, read.end
        return spans
    # Padding is on one side; a chat template makes other ids, of which nothing is known.
    length = len(read.ids)
    for first in (0, len(made.inputs) - length):
        if length and np.array_equal(made.inputs[first : first + length], read.ids):
            for row, position in enumerate((made.positions - first).tolist()):
                place = read.places[position] if 0 <= position < length else None
                if place is not None:
                    spans[row, :2] = place
            break
    return spans
