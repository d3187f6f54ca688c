"""What is checked before and after a model of the library is loaded."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.types import Modality
from retrievers.model_settings import READS
from retrievers.st.settings import FrameSettings, SentenceSettings, SparseSettings

if TYPE_CHECKING:
    from retrievers.st.reader import Reader
    from retrievers.st.source import ModelSource

log = logging.getLogger("clamr_bench.sentence_transformers")


def find_named(
    name: str, weights: str | None, settings: SentenceSettings | SparseSettings
) -> ModelSource:
    """Return the files of the model that an address names.

    Raises
    ------
    UsageError
        If it names none.
    """
    check_installed(name)
    from retrievers.st.source import find_model

    if not weights:
        raise UsageError(
            f"{name} needs a model: {name}/tiny (built in, untrained), {name}/DIR or "
            f"{name}/OWNER/NAME."
        )
    return find_model(weights, settings.revision, code=settings.trust_remote_code)


def check_modalities(settings: FrameSettings, reader: Reader) -> None:
    """Say what a model does not read; what was asked for and cannot be read is an error.

    Raises
    ------
    UsageError
        Naming the modalities.
    """
    asked = {Modality.parse(name) for name in settings.encode_modalities or ()}
    for can, what, modalities in (
        (reader.reads_images, "images", {Modality.VIDEO, Modality.IMAGE}),
        (reader.reads_texts, "texts", {m for m in READS if m.is_text}),
    ):
        if can:
            continue
        strange = ", ".join(m.label for m in sorted(asked & modalities))
        if strange:
            raise UsageError(
                f"encode_modalities asks for {strange}, and {reader.name} reads no {what}: leave "
                "it out, or choose another model."
            )
        if not reader.reads_texts:
            raise UsageError(
                f"{reader.name} reads no texts, hence no queries: choose a model that does."
            )
        log.info("%s reads no %s: they are left out", reader.name, what)


def check_installed(name: str) -> None:
    """Check that the library is there.

    Raises
    ------
    UsageError
        Saying what to install.
    """
    missing = [each for each in ("torch", "sentence_transformers") if find_spec(each) is None]
    if not missing:
        # The library imports bitsandbytes, which warns of CPU kernels that nobody needs.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import sentence_transformers

        if not hasattr(sentence_transformers, "MultiVectorEncoder"):
            missing = ["sentence-transformers 6 or later"]
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}: pip install --upgrade 'clamr-bench[models]'."
        )
