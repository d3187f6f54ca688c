"""From weights to a model at work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.errors import PluginError
from retrievers.device import place_of
from retrievers.preflmr.engine import Engine
from retrievers.preflmr.images import image_processor
from retrievers.preflmr.loading import load
from retrievers.preflmr.pieces import Cutter
from retrievers.preflmr.questions import Questions
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.preflmr.tiny import FOLDER, tiny_model
from retrievers.preflmr.wordpieces import DOCUMENTS, QUERIES, Side, WordPieces
from retrievers.shipped import read
from retrievers.source import Source


def assemble(
    source: Source | None,
    settings: PreFLMRSettings,
    shipped: Path | None,
    losses: Counter[str],
) -> Engine:
    """Return a loaded model with what feeds it.

    Parameters
    ----------
    source
        The checkpoint; None for the built-in model.
    settings
        How it is loaded, and what it is given.
    shipped
        File of the built-in model's trained weights; None to draw them.
    losses
        Where to count what of documents could not be used.

    Raises
    ------
    PluginError
        If weights, tokenisers or image processor are missing or do not fit one another.
    UsageError
        If the settings ask for what this machine cannot do.
    """
    if source is None:
        place = place_of(settings)
        model = tiny_model(settings.initial_seed or 0)
        if shipped is not None:
            shapes = {name: tuple(each.shape) for name, each in model.state_dict().items()}
            model.load_state_dict(read(shipped, shapes))
        model.to(place.device, place.dtype)
    else:
        model = load(source, settings)
    architecture = model.architecture

    def pieces(side: Side, length: int | None) -> WordPieces:
        folder = FOLDER if source is None else source.folder / side.folder
        made = WordPieces(folder, side, length)
        _check(made, architecture.text.vocab_size, architecture.text.max_position_embeddings)
        return made

    images = image_processor(architecture.side, source)
    questions = Questions(
        pieces(QUERIES, settings.query_length),
        architecture.instruction_end,
        architecture.query_skipped,
    )
    cutter = Cutter(
        pieces(DOCUMENTS, settings.document_length),
        images,
        architecture.prefix,
        losses,
        punctuation=not architecture.mask_punctuation,
    )
    return Engine(model, questions, cutter, settings.batch_inputs)


def _check(pieces: WordPieces, vocabulary: int, positions: int) -> None:
    if pieces.size > vocabulary:
        raise PluginError(
            f"{pieces.folder} has {pieces.size} entries, the text encoder {vocabulary}: this is "
            "the tokeniser of another model."
        )
    if pieces.length > positions:
        raise PluginError(
            f"sequences of {pieces.length} tokens ({pieces.side.length_key}) are longer than the "
            f"{positions} positions of the text encoder: set query_length and document_length."
        )
