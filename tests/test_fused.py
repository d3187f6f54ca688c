"""The retriever `fused`: what it ranks, what it shares with its parts' runs, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import About, Capabilities, Settings
from harness.documents import Documents
from harness.errors import CapabilityError, ClamrBenchError, PluginError, UsageError
from harness.plugin import Direction
from harness.progress import Progress
from harness.registry import make_retriever
from harness.results import ResultsStore, SavedRun
from harness.retriever import QueryKind, Retriever
from harness.runfile import read_ranking
from harness.settings import parse_model
from harness.types import Modality, Query, Ranking
from harness.workspace import Workspace
from retrievers.fused.retriever import Fused
from retrievers.fused.settings import FusedSettings
from tests.conftest import Command
from tests.encoders import QUERIES, as_bytes, documents, plugin

#: By its file, so that it is found whatever is installed.
FUSED = f"{Path(__file__).parents[1] / 'retrievers' / 'fused' / 'retriever.py'}:Fused"
SAMPLE = (
    "--task", "multivent/sample", "--set", "multivent/sample.test_videos=12",
    "--set", "multivent/sample.train_videos=2",
)  # fmt: skip
LEXICAL = ("bm25-asr", "bm25-ocr", "bm25-description")


def make(**settings: Any) -> Fused:
    """Make the retriever as the registry does."""
    chosen = parse_model(FusedSettings, settings, "setting of fused")
    return Fused("fused", None, chosen)


def workspace(folder: Path, modalities: list[str] | None = None) -> Workspace:
    """Return a workspace keyed as the runner keys them."""
    identity = {"data": "0", "modalities": modalities, "retriever": {"name": "fused"}}
    return Workspace(folder / f"fused-{modalities}", identity)


def ranked(
    retriever: Retriever, folder: Path, k: int = 5, queries: Sequence[Query] = QUERIES
) -> Ranking:
    """Index twenty documents of words and search."""
    retriever.index(documents(20), workspace(folder))
    return retriever.search(queries, k)


def runs(tmp_path: Path) -> dict[str, SavedRun]:
    """The newest run of each retriever."""
    found = ResultsStore(tmp_path / "results").runs()
    ordered = sorted(found, key=lambda run: (run.result.created, run.result.run_id))
    return {run.result.retriever.name: run for run in ordered}


class Fake(Retriever):
    """A part that notes what it is asked."""

    about = About(title="Fake", version="1", licence="CC0", citation="Nobody.")
    capabilities = Capabilities(modalities=frozenset({Modality.ASR, Modality.OCR}))
    weights_help = "any name"

    def __init__(self, name: str, weights: str | None, settings: Settings) -> None:
        super().__init__(name, weights, settings)
        self.notes: list[str] = []
        self.seen: list[Sequence[Query]] = []
        self.closed = False

    @property
    def losses(self) -> Mapping[str, int]:
        return {"asr cut": 2, f"{self.weights} lost": 1}

    def index(self, documents: Documents, workspace: Workspace) -> None:
        self.ids = [document.id for document in documents]

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        self.seen.append(queries)
        rng = np.random.default_rng(self.seed)
        return Ranking.from_scores(
            {q.id: dict(zip(self.ids, rng.random(len(self.ids)).tolist())) for q in queries}
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """Let ``fake/NAME`` be an address; filled with what is made."""
    made: dict[str, Fake] = {}

    def make_fake(address: str, settings: Mapping[str, Any] | None = None) -> Retriever:
        if not address.startswith("fake/"):
            return make_retriever(address, settings)
        name = address.removeprefix("fake/")
        return made.setdefault(name, Fake("fake", name, Settings()))

    monkeypatch.setattr("retrievers.fused.parts.make_retriever", make_fake)
    return made


class Router:
    """Gives each query the weights that it is told."""

    untrained = False

    def __init__(self, weights: Mapping[str, Mapping[str, float]], *, oracle: bool = False) -> None:
        self._weights, self.oracle = weights, oracle
        self.prepared: Workspace | None = None
        self.seen: list[Query] = []
        self.closed = False

    def identity(self) -> dict[str, Any]:
        return {"fixed": self._weights}

    def prepare(self, workspace: Workspace) -> None:
        self.prepared = workspace

    def route(self, queries: Sequence[Query]) -> list[Mapping[str, float]]:
        self.seen += queries
        return [self._weights[query.id] for query in queries]

    def close(self) -> None:
        self.closed = True


# Runs.


@pytest.mark.parametrize(
    "options", [("--set", "Fused.method=minmax", "--set", "Fused.weights=[2,1,1]"), ()]
)
def test_a_fused_run_is_the_fusion_of_its_parts_runs(
    bench: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    own = [word for name in LEXICAL for word in ("--retriever", name)]
    parts = f"Fused.parts=[{', '.join(LEXICAL)}]"
    outcome = bench("run", *SAMPLE, *own, "--retriever", FUSED, "--set", parts, *options)
    assert outcome.status == 0, outcome.err
    found = runs(tmp_path)
    folders = [found[name].folder for name in LEXICAL]
    fusing = ("--method", "minmax", "--weights", "2,1,1") if options else ()
    assert bench("fuse", *folders, *fusing).status == 0
    online, offline = (
        as_bytes(read_ranking(run.folder / "run.trec.gz"))
        for run in (found["Fused"], runs(tmp_path)["fuse"])
    )
    assert online == offline
    result = found["Fused"].result
    assert result.retriever.modalities == ["asr", "ocr", "description"]
    assert result.measures == runs(tmp_path)["fuse"].result.measures
    assert result.retriever.changed_settings["parts"] == list(LEXICAL)
    assert result.efficiency.index_seconds == pytest.approx(
        sum(found[name].result.efficiency.index_seconds or 0 for name in LEXICAL)
    )


def test_the_saved_config_repeats_the_run(bench: Command, tmp_path: Path) -> None:
    parts = "Fused.parts=[bm25-text@asr+ocr, {retriever: bm25-text, settings: {k1: 0.5}, label: b}]"
    assert bench("run", *SAMPLE, "--retriever", FUSED, "--set", parts).status == 0
    run = runs(tmp_path)["Fused"]
    again = bench("run", "--config", run.folder / "config.yaml")
    assert again.status == 0, again.err
    assert "complete already" in again.err


def test_parts_and_their_own_runs_share_an_index(bench: Command, tmp_path: Path) -> None:
    parts = "Fused.parts=[bm25-asr, bm25-text@ocr]"
    assert bench("run", *SAMPLE, "--retriever", FUSED, "--set", parts).status == 0
    folder = tmp_path / "cache/workspaces"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/bm25*/*")}
    timing = {path: path.read_text() for path in folder.glob("*/index.json")}
    assert len(list(folder.iterdir())) == 3
    assert bench("run", *SAMPLE, "--retriever", "bm25-asr").status == 0
    outcome = bench("run", *SAMPLE, "--retriever", "bm25-text", "--modalities", "ocr")
    assert outcome.status == 0
    assert len(list(folder.iterdir())) == 3
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/bm25*/*")} == before
    assert {path: path.read_text() for path in folder.glob("*/index.json")} == timing
    found = runs(tmp_path)
    seconds = [found[name].result.efficiency.index_seconds for name in ("bm25-asr", "bm25-text")]
    assert found["Fused"].result.efficiency.index_seconds == pytest.approx(sum(map(float, seconds)))  # type: ignore[arg-type]


def test_modalities_of_a_run_limit_every_part(bench: Command, tmp_path: Path) -> None:
    parts = "Fused.parts=[bm25-asr, bm25-text, bm25-ocr]"
    outcome = bench("run", *SAMPLE, "--retriever", FUSED, "--set", parts,
                    "--retriever", "bm25-asr", "--retriever", "bm25-text",
                    "--modalities", "asr")  # fmt: skip
    assert outcome.status == 0, outcome.err
    found = runs(tmp_path)
    bench("fuse", found["bm25-asr"].folder, found["bm25-text"].folder)
    fused, offline = found["Fused"], runs(tmp_path)["fuse"]
    assert fused.result.measures == offline.result.measures
    assert fused.result.options.restriction == "only asr"


def test_the_settings_are_shown(bench: Command) -> None:
    shown = bench("retrievers", FUSED)
    assert shown.status == 0
    for word in ("parts", "method", "rrf_k", "depth", "weights", "router"):
        assert word in shown.out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), ("no parts", "parts=[")),
        (("parts=[bm25-asr, bm25-orc]",), ("part 'bm25-orc'", "Did you mean 'bm25-ocr'")),
        (("parts=[bm25-asr@orc]",), ("orc", "Did you mean 'ocr'", "{retriever: ADDRESS}")),
        (("parts=[bm25-asr@ocr]",), ("part 'bm25-asr@ocr'", "does not read ocr")),
        (("parts=[bm25-asr, bm25-asr]",), ("two parts", "label")),
        (("parts=[{retriever: bm25-asr, settings: {k9: 1}}]",), ("part 'bm25-asr'", "'k9'")),
        (("parts=[{retriever: bm25-asr, wieght: 1}]",), ("wieght",)),
        (("parts=[bm25-asr, bm25-ocr]", "weights=[1]"), ("1 weights",)),
        (("parts=[{retriever: bm25-asr, weight: 0}]",), ("one above 0",)),
        (("parts=[bm25-asr, bm25-ocr]", "weights=[1,2]", "method=max"), ("max takes none",)),
        (("parts=[{retriever: bm25-asr, weight: 2}]", "weights=[1]"), ("by itself",)),
        (("parts=[bm25-asr, bm25-ocr]", "weights=[1,2]", "router=oracle"), ("exclude",)),
        (("parts=[bm25-asr]", "method=rff"), ("method",)),
    ],
)
def test_settings_that_cannot_be_right(
    bench: Command, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    given = [word for one in settings for word in ("--set", f"Fused.{one}")]
    bench("run", *SAMPLE, "--retriever", FUSED, *given).fails(*words)


# Encoders: one model, one index, several masks.


def test_masks_of_one_encoder_share_model_and_index(tmp_path: Path) -> None:
    words = plugin(tmp_path)
    fused = make(parts=[f"{words}@asr", f"{words}@ocr"], method="mean")
    assert len(fused.retrievers) == 1
    assert fused.masks
    found = ranked(fused, tmp_path, k=30)
    assert len([path for path in tmp_path.iterdir() if (path / "identity.json").exists()]) == 2
    alone = {}
    for modality in (Modality.ASR, Modality.OCR):
        retriever = make_retriever(words)
        retriever.index(documents(20), Workspace(tmp_path / modality.label, {"data": "0"}))
        retriever.modalities = frozenset({modality})
        alone[modality] = retriever.search(QUERIES, 1000)
    for query, row in found.items():
        for document, score in zip(row.documents, row.scores, strict=True):
            scores = [
                dict(zip(one[query].documents, one[query].scores, strict=True)).get(document)
                for one in alone.values()
            ]
            known = [float(one) for one in scores if one is not None]
            assert score == pytest.approx(sum(known) / len(known))


def test_the_encoders_own_workspace_is_the_runners(tmp_path: Path) -> None:
    words = plugin(tmp_path)
    ranked(make(parts=[f"{words}@asr"]), tmp_path)
    encoder = make_retriever(words)
    key = {"data": "0", "modalities": None, "retriever": encoder.index_identity()}
    assert (Workspace.of(key, tmp_path).path / "index.json").exists()
    assert list(Workspace.of(key, tmp_path).path.glob("shard-*"))


def test_a_mask_at_search_time_limits_the_parts(tmp_path: Path) -> None:
    words = plugin(tmp_path)
    fused = make(parts=[f"{words}@asr", f"{words}@ocr"], method="mean")
    fused.index(documents(20), workspace(tmp_path))
    fused.modalities = frozenset({Modality.OCR})
    masked = fused.search(QUERIES, 30)
    only = make(parts=[f"{words}@ocr"], method="mean")
    only.index(documents(20), workspace(tmp_path))
    assert as_bytes(masked) == as_bytes(only.search(QUERIES, 30))


def test_a_fused_part_of_a_fused_retriever(tmp_path: Path) -> None:
    words = plugin(tmp_path)
    inner = {"retriever": FUSED, "settings": {"parts": [f"{words}@asr", f"{words}@ocr"]}}
    outer = make(parts=[{**inner, "modalities": ["asr"], "label": "a"},
                        {**inner, "modalities": ["ocr"], "label": "o"}])  # fmt: skip
    flat = make(parts=[f"{words}@asr", f"{words}@ocr"])
    nested, plain = ranked(outer, tmp_path), ranked(flat, tmp_path)
    assert as_bytes(nested) == as_bytes(plain)


# What a whole takes from its parts.


def test_it_can_do_what_all_parts_can(
    fakes: dict[str, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    able = {
        "a": Capabilities(
            modalities=frozenset({Modality.ASR, Modality.VIDEO}),
            query_kinds=frozenset(QueryKind),
            directions=frozenset(Direction),
            trainable=True,
        ),
        "b": Capabilities(modalities=frozenset({Modality.OCR}), oracle=True),
    }
    for name, one in able.items():
        fakes[name] = Fake("fake", name, Settings())
        fakes[name].capabilities = one  # type: ignore[misc]
    fused = make(parts=["fake/a@video", "fake/b"])
    assert fused.capabilities == Capabilities(
        modalities=frozenset({Modality.VIDEO, Modality.OCR}), oracle=True
    )
    assert fused.about.licence == "CC0"
    assert not fused.untrained
    monkeypatch.setattr(Fake, "untrained", property(lambda fake: fake.weights == "b"))
    assert fused.untrained


def test_gold_is_for_oracles_alone(fakes: dict[str, Fake], tmp_path: Path) -> None:
    fakes["b"] = Fake("fake", "b", Settings())
    fakes["b"].capabilities = Capabilities(  # type: ignore[misc]
        modalities=frozenset({Modality.OCR}), oracle=True
    )
    fused = make(parts=["fake/a", "fake/b"])
    ranked(fused, tmp_path, queries=[Query("q1", "red", attributes={"target": "asr"})])
    assert fakes["a"].seen[0][0].attributes == {}
    assert fakes["b"].seen[0][0].attributes == {"target": "asr"}


def test_what_the_runner_sets_reaches_the_parts(fakes: dict[str, Fake], tmp_path: Path) -> None:
    fused = make(parts=["fake/a", "fake/b"])
    fused.seed, fused.memory, fused.progress = 5, 2**25, Progress()
    ranked(fused, tmp_path)
    for fake in fakes.values():
        assert (fake.seed, fake.memory, fake.progress) == (5, 2**25, fused.progress)
    assert fused.losses == {"asr cut": 4, "a lost": 1, "b lost": 1}
    fused.close()
    assert all(fake.closed for fake in fakes.values())


def test_all_parts_are_closed_even_if_one_fails(
    fakes: dict[str, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = make(parts=["fake/a", "fake/b", "fake/c"])

    def fails() -> None:
        raise OSError("stuck")

    monkeypatch.setattr(fakes["b"], "close", fails)
    with pytest.raises(OSError, match="stuck"):
        fused.close()
    assert fakes["a"].closed
    assert fakes["c"].closed


@pytest.mark.parametrize("error", [CapabilityError, PluginError, UsageError])
@pytest.mark.parametrize("method", ["index", "search", "identity"])
def test_errors_of_a_part_name_it(
    fakes: dict[str, Fake],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: type[ClamrBenchError],
    method: str,
) -> None:
    fused = make(parts=["fake/a", {"retriever": "fake/b", "label": "second"}])

    def fails(*_: object) -> None:
        raise error("it broke.")

    monkeypatch.setattr(fakes["b"], method, fails)

    def use() -> None:
        fused.identity()
        ranked(fused, tmp_path)

    with pytest.raises(error, match=r"part 'second' of fused: it broke\."):
        use()


def test_a_part_that_returns_no_ranking_is_named(
    fakes: dict[str, Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fused = make(parts=["fake/a"])
    monkeypatch.setattr(fakes["a"], "search", lambda queries, k: [])
    with pytest.raises(PluginError, match=r"part 'fake/a' of fused.*list, not a Ranking"):
        ranked(fused, tmp_path)


def test_depth_is_what_is_taken_of_each_part(fakes: dict[str, Fake], tmp_path: Path) -> None:
    shallow = ranked(make(parts=["fake/a"], depth=3), tmp_path)
    assert {len(row) for row in shallow.values()} == {3}
    deep = ranked(make(parts=["fake/a"]), tmp_path, k=1)
    assert {len(row) for row in deep.values()} == {1}


def test_a_part_of_weight_0_is_not_searched(fakes: dict[str, Fake], tmp_path: Path) -> None:
    ranked(make(parts=["fake/a", {"retriever": "fake/b", "weight": 0}]), tmp_path)
    assert fakes["b"].seen == []


# Identity.


def test_identity_holds_the_parts_and_how_they_are_fused() -> None:
    plain = make(parts=["bm25-asr", "bm25-ocr"])
    others = [
        make(parts=["bm25-asr", "bm25-description"]),
        make(parts=["bm25-asr", {"retriever": "bm25-ocr", "settings": {"k1": 0.5}}]),
        make(parts=["bm25-asr", "bm25-ocr"], method="mean"),
        make(parts=["bm25-asr", "bm25-ocr"], weights=[2, 1]),
        make(parts=["bm25-asr", "bm25-text@ocr"]),
        make(parts=["bm25-asr", "bm25-text@description"]),
        make(parts=["bm25-asr", "bm25-ocr"], router="oracle"),
    ]
    assert len({one.fingerprint for one in (plain, *others)}) == len(others) + 1
    assert make(parts=["bm25-asr", {"retriever": "bm25-ocr"}]).fingerprint == plain.fingerprint


def test_a_part_is_written_as_it_is_given() -> None:
    given: list[Any] = [
        "bm25-asr",
        "bm25-text@asr+ocr",
        {"retriever": "some@where.py:Mine"},
        {"retriever": "bm25-ocr", "settings": {"k1": 2}, "weight": 0.0, "label": "screen"},
        {"retriever": "bm25-text", "modalities": ["ocr"], "label": "o"},
    ]
    settings = FusedSettings.model_validate({"parts": given})
    assert settings.model_dump(mode="json")["parts"] == given
    assert FusedSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert [part.name for part in settings.parts] == [
        "bm25-asr", "bm25-text@asr+ocr", "some@where.py:Mine", "screen", "o"
    ]  # fmt: skip
    assert json.dumps(settings.model_dump(mode="json"))


# Routing.


def routed(weights: Mapping[str, Mapping[str, float]], **settings: Any) -> tuple[Fused, Router]:
    fused, router = make(parts=["bm25-asr", "bm25-ocr"], **settings), Router(weights)
    fused.router = router  # type: ignore[assignment]
    return fused, router


@pytest.mark.parametrize("method", ["rrf", "zscore", "max"])
def test_a_hard_router_gives_the_list_of_one_part(tmp_path: Path, method: str) -> None:
    fused, router = routed(
        {
            "q1": {"bm25-asr": 1.0, "bm25-ocr": 0.0},
            "q2": {"bm25-asr": 0.0, "bm25-ocr": 1.0},
            "q3": {"bm25-asr": 0.5, "bm25-ocr": 0.5},
        },
        method=method,
    )
    found = ranked(fused, tmp_path)
    asr, ocr = (ranked(make_retriever(name), tmp_path / name) for name in LEXICAL[:2])
    assert as_bytes(found)["q1"] == as_bytes(asr)["q1"]
    assert as_bytes(found)["q2"] == as_bytes(ocr)["q2"]
    assert router.prepared is not None
    assert [query.id for query in router.seen] == ["q1", "q2", "q3"]
    fused.close()
    assert router.closed


def test_a_soft_router_weighs_each_query_by_itself(tmp_path: Path) -> None:
    soft = {"bm25-asr": 0.75, "bm25-ocr": 0.25}
    fused, _ = routed({"q1": soft, "q2": dict(zip(soft, (0.5, 0.5))), "q3": soft})
    found = as_bytes(ranked(fused, tmp_path))
    fixed = make(parts=["bm25-asr", "bm25-ocr"], weights=[0.75, 0.25])
    equal = make(parts=["bm25-asr", "bm25-ocr"], weights=[0.5, 0.5])
    assert found["q1"] == as_bytes(ranked(fixed, tmp_path))["q1"]
    assert found["q2"] == as_bytes(ranked(equal, tmp_path))["q2"]


def test_a_soft_router_says_which_parts_a_maximum_is_of(tmp_path: Path) -> None:
    soft = {"bm25-asr": 0.75, "bm25-ocr": 0.25}
    fused, _ = routed(dict.fromkeys(("q1", "q2", "q3"), soft), method="max")
    plain = make(parts=["bm25-asr", "bm25-ocr"], method="max")
    assert as_bytes(ranked(fused, tmp_path)) == as_bytes(ranked(plain, tmp_path))


def test_only_an_oracle_router_sees_gold(tmp_path: Path) -> None:
    queries = [Query("q1", "red circle", attributes={"target": "ocr"})]
    fused, router = routed({"q1": {"bm25-asr": 1.0, "bm25-ocr": 0.0}})
    ranked(fused, tmp_path, queries=queries)
    assert router.seen[0].attributes == {}
    oracle = make(parts=["bm25-asr", "bm25-ocr"], router="oracle")
    assert oracle.capabilities.oracle
    found = ranked(oracle, tmp_path, queries=queries)
    alone = ranked(make_retriever("bm25-ocr"), tmp_path / "alone", queries=queries)
    assert as_bytes(found) == as_bytes(alone)
