"""Settings of scoring: what they ask of the kernel, and what they refuse before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.index.options import ScoringSettings
from harness.results import ResultsStore
from harness.settings import parse_model
from harness.types import Modality
from tests.conftest import Command

ENCODER = """
import numpy as np
from harness.api import About, Capabilities, Encoder, Modality, TokenEmbeddings

class Letters(Encoder):
    about = About(title="Letters", version="1", licence="MIT", citation="None")
    capabilities = Capabilities(modalities=frozenset({Modality.DESCRIPTION}))
    encoded = 0

    def embed(self, text):
        words = [[word.count(chr(97 + i)) for i in range(26)] for word in text.lower().split()]
        return np.array(words, np.float32).reshape(-1, 26)

    def encode_queries(self, batch):
        return TokenEmbeddings.of([{Modality.TEXT: self.embed(q.text)} for q in batch], dim=26)

    def encode_documents(self, batch):
        with open(PATH, "a") as log:
            log.write("x" * len(batch))
        rows = [{m: self.embed(text) for m, text in d.texts.items()} for d in batch]
        return TokenEmbeddings.of(rows, dim=26)
"""


def test_settings_become_the_scoring() -> None:
    settings = ScoringSettings(
        score_modalities=["asr", "video"], weights={"ocr": 0.5}, normalise=True
    )
    scoring = settings.scoring
    assert scoring.modalities == {Modality.ASR, Modality.VIDEO}
    assert scoring.weights == {Modality.OCR: 0.5}
    assert scoring.normalise
    assert ScoringSettings().scoring.modalities is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"score_modalities": ["smell"]}, "unknown modality 'smell'"),
        ({"score_modalities": []}, "at least 1"),
        ({"weights": {"smell": 1}}, "unknown modality 'smell'"),
        ({"weights": {"ocr": 0}}, "above 0"),
        ({"weights": {"ocr": float("inf")}}, "above 0"),
        ({"weights": {"ocr": float("nan")}}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_model(ScoringSettings, values, "setting of mine")


def test_an_ablation_is_a_mask_not_another_encoding(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    log = tmp_path / "encoded.txt"
    path = tmp_path / "letters.py"
    path.write_text(ENCODER.replace("PATH", repr(str(log))))
    command = ("run", "--task", "multivent/v1", "--retriever", f"{path}:Letters")
    assert bench(*command).status == 0
    assert bench(*command, "--set", "Letters.score_modalities=[description]").status == 0
    assert bench(*command, "--set", "Letters.score_modalities=[ocr]").status == 0
    assert len(log.read_text()) == 18, "18 documents, encoded once"
    runs = list(ResultsStore(tmp_path / "results").runs())
    by_setting = {str(r.result.retriever.settings["score_modalities"]): r.result for r in runs}
    everything, same, nothing = (by_setting[key] for key in ("None", "['description']", "['ocr']"))
    assert same.files["run.trec.gz"] == everything.files["run.trec.gz"]
    assert nothing.evaluation.missing == nothing.evaluation.queries
    assert same.retriever.changed_settings == {"score_modalities": ["description"]}


def test_a_device_that_is_not_there(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = tmp_path / "letters.py"
    path.write_text(ENCODER.replace("PATH", repr(str(tmp_path / "log"))))
    command = ("run", "--task", "multivent/v1", "--retriever", f"{path}:Letters")
    bench(*command, "--set", "Letters.search_device=cuda:7").fails("cuda:7")
