"""What training asks of encoders: gradients, saving, weights that ship, media decoded once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from harness.encoder import Trainable
from harness.errors import ClamrBenchError, PluginError, UsageError
from harness.late_interaction import TokenEmbeddings
from harness.registry import make_retriever
from harness.training.lora import add_lora, trainable
from harness.training.recipe import AdapterRecipe, Recipe
from harness.types import Document, Modality, Query
from retrievers import shipped
from retrievers.kept import Kept
from retrievers.qwen.form import VL, VL2
from retrievers.shipped import write_builtin
from tests.clamr_cases import OMNI, clamr, documents, pooled, queries
from tests.clamr_cases import VL as CLAMR_VL
from tests.clip_cases import TYPES, clip, encoder, pictures, saved, siglip, write
from tests.colqwen_cases import base_checkpoint, colqwen, stock_checkpoint
from tests.media_files import media, sine, write_sound
from tests.preflmr_cases import preflmr

Make = Callable[..., Any]

#: Every built-in model, by the name of its file.
BUILT_IN: dict[str, tuple[Make, str]] = {
    "clamr-tiny": (clamr, "tiny"),
    "clamr-tiny-omni": (clamr, "tiny-omni"),
    "clamr-pooled-tiny": (pooled, "tiny"),
    "colqwen-tiny": (colqwen, "tiny"),
    "colqwen-tiny-2": (colqwen, "tiny-2"),
    "clip-tiny": (clip, "tiny"),
    "siglip-tiny": (siglip, "tiny"),
    "preflmr-tiny": (preflmr, "tiny"),
}
built_in = pytest.mark.parametrize(("make", "name"), BUILT_IN.values(), ids=BUILT_IN)
#: Weights and LoRA in one sum round otherwise than two sums.
MERGED = 5e-6


def lora(**values: Any) -> Recipe:
    return Recipe(adapter=AdapterRecipe(rank=4, alpha=8, dropout=0.1), **values)


def full(**values: Any) -> Recipe:
    return Recipe(adapter=AdapterRecipe(kind="full"), **values)


def trained(made: Any, recipe: Recipe) -> Any:
    """The encoder with other values in all that the recipe trains."""
    add_lora(made.module, made.lora_targets(), recipe)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(made.module).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    made.module.eval()
    return made


def vectors(made: Any, folder: Path) -> NDArray[np.float32]:
    """All vectors of the documents and queries of the cases."""
    folder.mkdir(exist_ok=True)
    found = made.encode_documents(documents(folder)[:3])
    return np.concatenate([found.vectors, made.encode_queries(queries()[:3]).vectors])


def same(mine: Any, other: Any, folder: Path, within: float = 1e-6) -> None:
    found = vectors(mine, folder)
    np.testing.assert_allclose(vectors(other, folder), found, rtol=0, atol=within)


# ------------------------------------------------------------------------- saving


def checkpoint(kind: str, folder: Path) -> tuple[Make, Path]:
    """An encoder and a checkpoint of it, as it is published."""
    if kind == "colqwen-2":
        stock_checkpoint(VL2, folder)
        return colqwen, folder
    if kind == "colqwen":
        base_checkpoint(VL, folder)
        return colqwen, folder
    return {"vl": (clamr, CLAMR_VL), "omni": (clamr, OMNI), "pooled": (pooled, CLAMR_VL)}[kind]


KINDS = ("vl", "omni", "pooled", "colqwen", "colqwen-2")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_saved_with_all_that_its_base_lacks(kind: str, tmp_path: Path) -> None:
    make, base = checkpoint(kind, tmp_path / "base")
    made = trained(make(base), lora())
    made.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert ("custom_text_proj" in config["target_modules"]) == (kind != "pooled")
    again = make(tmp_path / "saved")
    assert not again.untrained
    same(made, again, tmp_path)
    # Trained on and saved once more, it is an adapter of the same base.
    further = trained(again, lora())
    further.save(tmp_path / "further")
    same(further, make(tmp_path / "further"), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_is_saved_where_all_was_trained(kind: str, tmp_path: Path) -> None:
    make, base = checkpoint(kind, tmp_path / "base")
    made = trained(make(base), full())
    made.save(tmp_path / "saved")
    again = make(tmp_path / "saved")
    assert not again.untrained
    same(made, again, tmp_path)
    # An adapter whose base was trained too is worth nothing without that base.
    both = trained(trained(make(base), lora()), full())
    both.save(tmp_path / "both")
    assert not (tmp_path / "both" / "adapter_config.json").exists()
    same(both, make(tmp_path / "both"), tmp_path, within=MERGED)


@built_in
@pytest.mark.parametrize("recipe", [full(), lora()], ids=["full", "lora"])
def test_a_built_in_model_is_saved_whole(
    make: Make, name: str, recipe: Recipe, tmp_path: Path
) -> None:
    made = trained(make(name, initial_seed=0), recipe)
    names = made.module.state_dict().keys()
    made.save(tmp_path / "saved")
    # What is saved is merged in a copy: training could go on.
    assert made.module.state_dict().keys() == names
    again = make(tmp_path / "saved")
    assert made.untrained
    assert not again.untrained
    same(made, again, tmp_path, within=MERGED if recipe == lora() else 1e-6)
    assert again.identity()["files"] != made.identity()["files"]


@pytest.mark.parametrize("kind", TYPES)
def test_towers_are_saved_with_what_prepares_their_input(kind: str, tmp_path: Path) -> None:
    base = write(kind, tmp_path / "base")
    made = trained(encoder(kind, base), lora())
    made.save(tmp_path / "saved")
    same(made, encoder(kind, tmp_path / "saved"), tmp_path, within=MERGED)
    first, again = encoder(kind, base).identity(), encoder(kind, tmp_path / "saved").identity()
    assert first["preparation"] == again["preparation"]


@pytest.mark.parametrize("recipe", [full(), lora()], ids=["full", "lora"])
def test_a_projection_that_nothing_trained_is_not_taken_for_a_trained_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    pooled("tiny").save(base)
    assert clamr(base).untrained
    assert not pooled(base).untrained
    trained(pooled(base), recipe).save(tmp_path / "saved")
    assert not pooled(tmp_path / "saved").untrained
    late = clamr(tmp_path / "saved")
    assert late.untrained
    late.encode_queries(queries()[:1])
    assert late.untrained


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_model_on_a_quantised_base_is_saved(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    made = trained(clamr(CLAMR_VL, quantise=bits), lora())
    made.save(tmp_path / "adapter")
    same(made, clamr(tmp_path / "adapter", quantise=bits), tmp_path)
    # Built-in weights are no base for an adapter: they are written as plain numbers.
    made = trained(clamr("tiny", quantise=bits), lora())
    made.save(tmp_path / "whole")
    again = clamr(tmp_path / "whole")
    found, near = vectors(made, tmp_path), vectors(again, tmp_path)
    # 8-bit layers round their inputs too.
    assert (found * near).sum(axis=1).min() > (1 - 1e-5 if bits == "4bit" else 0.98)


def test_a_whole_checkpoint_has_the_precision_asked_for(tmp_path: Path) -> None:
    made = trained(clamr("tiny", dtype="bfloat16"), full())
    made.save(tmp_path / "saved")
    kinds = {n: t.dtype for n, t in load_file(tmp_path / "saved" / "model.safetensors").items()}
    # The projection is small, and loaded in float32 in any case.
    projection = {n for n in kinds if n.startswith("custom_text_proj")}
    assert {kinds.pop(name) for name in projection} == {torch.float32}
    assert set(kinds.values()) == {torch.bfloat16}


def test_layers_of_several_ranks_are_no_adapter(tmp_path: Path) -> None:
    made = trained(clamr(CLAMR_VL), lora())
    layer = made.module.backbone.language_model.layers[0].mlp.up_proj
    layer.r["default"], layer.scaling["default"] = 2, 4.0
    with pytest.raises(PluginError, match="LoRA layers differ in"):
        made.save(tmp_path / "saved")


# --------------------------------------------------------------------- gradients


def collection(folder: Path) -> list[Document]:
    """Documents of all modalities, of one, and of none."""
    shown = saved(folder, [pictures()[0], pictures()[0][::-1]])
    texts = {
        Modality.ASR: "a crowd by the river",
        Modality.OCR: "LIVE",
        Modality.DESCRIPTION: "boats at night",
    }
    heard = sine(440, 16_000, 0.5)[None]
    sound = (media(write_sound(folder / "a.wav", heard, 16_000, "pcm_s16le", "s16", "mono")),)
    return [
        Document("all", texts, {Modality.VIDEO: shown, Modality.AUDIO: sound}),
        Document("nothing"),
        Document("text", {Modality.OCR: "harbour fire " * 5}),
        Document("video", {}, {Modality.VIDEO: shown[:1]}),
    ]


ASKED = [Query("a", "a boat"), Query("b", "what is written on the harbour wall at night?")]


def in_items(vectors: torch.Tensor, numbers: torch.Tensor) -> list[NDArray[np.float32]]:
    """The vectors of each item that count, ordered by modality."""
    rows = zip(vectors.detach().float(), numbers, strict=True)
    return [
        row[kept][torch.argsort(kept_numbers, stable=True)].numpy()
        for row, own in rows
        for kept in [own != 0]
        for kept_numbers in [own[kept]]
    ]


def of_items(found: TokenEmbeddings) -> list[NDArray[np.float32]]:
    made = []
    for item in range(len(found)):
        one = found[item : item + 1]
        kept = np.repeat(one.modalities, np.diff(one.segment_offsets))
        order = np.argsort(kept[kept != 0], kind="stable")
        made.append(one.vectors[kept != 0][order])
    return made


def gradients(made: Any, batch: Sequence[Document], *, autocast: bool) -> dict[str, torch.Tensor]:
    """The gradients of a contrastive loss in which every token has a part, by name."""
    made.module.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, numbers = made.forward_documents(batch)
        asked, _ = made.forward_queries(ASKED)
    assert not found[1].any()
    assert not numbers[1].any()
    assert {int(number) for number in numbers.unique()} - {0}
    similarities = torch.einsum("qtd,bsd->qbts", asked.float(), found.float()) / 0.05
    scores = similarities.masked_fill(numbers[None, :, None] == 0, -30).logsumexp(-1).mean(-1)
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 2])).backward()
    return {name: parameter.grad for name, parameter in trainable(made.module).items()}


def idle(name: str, make: Make) -> bool:
    """Whether a tensor has no part in the vectors."""
    unused = ("logit_scale", "logit_bias", "backbone.audio_tower.audio_bos_eos_token.weight")
    if make is preflmr:
        # Its mapping is of the images of queries, of which there are none here.
        return any(part in name for part in (".pooler.", "post_layernorm", "transformer_mapping"))
    return name in unused or (make is pooled and name.startswith("custom_text_proj"))


@built_in
@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_every_trained_tensor_has_a_finite_gradient(
    make: Make, name: str, kind: str, tmp_path: Path
) -> None:
    """All weights in float32; or LoRA in bfloat16 with recomputed activations, also on 4 bits."""
    settings: dict[str, Any] = {}
    if kind == "qlora":
        if make in (clip, siglip, preflmr):
            pytest.skip("these models are not quantised")
        pytest.importorskip("bitsandbytes")
        settings = {"quantise": "4bit"}
    made = make(name, **settings)
    trained(made, full() if kind == "full" else lora(gradient_checkpointing=True))
    batch = collection(tmp_path)
    found = gradients(made, batch, autocast=kind != "full")
    still = [
        name
        for name, gradient in found.items()
        if not idle(name, make) and (gradient is None or not gradient.any())
    ]
    assert still == []
    assert all(gradient.isfinite().all() for gradient in found.values() if gradient is not None)
    # Evaluation has no dropout, and is repeatable: what `encode_...` gives.
    made.module.eval()
    for _ in range(2):
        for mine, theirs in (
            (in_items(*made.forward_documents(batch)), of_items(made.encode_documents(batch))),
            (in_items(*made.forward_queries(ASKED)), of_items(made.encode_queries(ASKED))),
        ):
            assert len(mine) == len(theirs)
            for one, other in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["clamr-tiny-omni", "clamr-pooled-tiny", "colqwen-tiny"])
def test_recomputed_gradients_and_those_of_small_groups_are_the_same(
    name: str, tmp_path: Path
) -> None:
    make, weights = BUILT_IN[name]
    batch = collection(tmp_path)

    def found(*, recompute: bool = False, budget: int = 10_000) -> dict[str, torch.Tensor]:
        made = make(weights)
        add_lora(made.module, made.lora_targets(), full(gradient_checkpointing=recompute))
        made.engine.budget = budget
        return gradients(made, batch, autocast=False)

    plain = found()
    for other in (found(recompute=True), found(budget=40)):
        for tensor, gradient in plain.items():
            if gradient is not None:
                size = float(gradient.norm())
                assert float((other[tensor] - gradient).norm()) <= 1e-4 * size + 1e-7, tensor


@pytest.mark.parametrize("make", [clamr, colqwen, clip, preflmr])
def test_dropout_is_drawn_from_the_processs_seed(make: Make, tmp_path: Path) -> None:
    made = trained(make("tiny"), lora())
    assert isinstance(made, Trainable)
    made.module.train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(made.forward_documents(collection(tmp_path))[0].detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# ------------------------------------------------------------ media decoded once


@pytest.mark.parametrize("make", [clamr, clip, preflmr])
def test_a_later_epoch_decodes_nothing_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = make("tiny"), collection(tmp_path)
    first = made.forward_documents(batch)
    read: list[str] = []
    real = made._loader.load

    def noted(documents: Sequence[Document]) -> Iterator[Any]:
        read.extend(document.id for document in documents)
        return real(documents)

    monkeypatch.setattr(made._loader, "load", noted)
    again = made.forward_documents(batch[::-1])
    assert read == []
    for mine, theirs in zip(in_items(*first), in_items(*again)[::-1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    # Less of a document is another document, and so is another one of that id.
    made.forward_documents([batch[0].only(frozenset({Modality.OCR})), batch[2]])
    assert read == ["all"]
    other = Document("text", {Modality.OCR: "a tower"})
    read.clear()
    changed = made.forward_documents([other])[0]
    assert read == ["text"]
    assert changed.shape != first[0][2:3].shape or not torch.allclose(changed, first[0][2:3])
    made.close()
    made.forward_documents(batch)
    assert read == ["text", "all", "nothing", "text", "video"]


@pytest.mark.parametrize("make", [clamr, clip, preflmr])
def test_workers_decode_what_is_expected_and_not_kept(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = make("tiny", workers=1), collection(tmp_path)
    asked: list[list[str]] = []
    real = made._loader.expect

    def noted(documents: Sequence[Document]) -> None:
        asked.append([document.id for document in documents])
        real(documents)

    monkeypatch.setattr(made._loader, "expect", noted)
    made.expect(batch[2:])
    found = [made.forward_documents(batch[:2]), made.forward_documents(batch[2:])]
    made.expect(batch)
    made.close()
    assert asked == [["text", "video"], []]
    assert made.seconds["decode"] > 0
    alone = make("tiny").encode_documents(batch)
    for mine, theirs in zip(
        [row for part in found for row in in_items(*part)], of_items(alone), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=12), st.integers(0, 60)
)
def test_what_is_kept_stays_within_its_bytes(epochs: list[list[int]], budget: int) -> None:
    kept: Kept[bytes] = Kept(len, budget)
    made: list[str] = []

    def make(batch: Sequence[Document]) -> Iterator[bytes]:
        for document in batch:
            made.append(document.id)
            yield document.id.encode() * int(document.id)

    for numbers in epochs:
        batch = [Document(str(number)) for number in numbers]
        missing = [document.id for document in kept.missing(batch)]
        made.clear()
        assert kept.of(batch, make) == [d.id.encode() * int(d.id) for d in batch]
        assert made == missing
        held = {d.id for d in map(Document, map(str, range(10))) if not kept.missing([d])}
        assert sum(int(id_) for id_ in held) <= budget


def test_the_one_longest_unused_gives_way() -> None:
    kept: Kept[bytes] = Kept(len, 3)
    one, two, three, four = (Document(name) for name in "abcd")
    for document in (one, two, three, one, four):
        kept.of([document], lambda batch: iter([b"x"] * len(batch)))
    assert kept.missing([one, two, three, four]) == [two]


# ----------------------------------------------------------- weights that ship


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the families' packages."""
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "packages")
    return tmp_path / "packages"


def family_of(file: str) -> str:
    return "clip" if file.startswith("siglip") else file.split("-")[0]


@pytest.mark.parametrize("file", BUILT_IN)
def test_trained_weights_that_ship_are_used(file: str, packages: Path, tmp_path: Path) -> None:
    make, name = BUILT_IN[file]
    drawn = vectors(make(name), tmp_path)
    made = trained(make(name), lora())
    path = packages / family_of(file) / "weights" / f"{file}.safetensors"
    write_builtin(made, path)
    found = make(name)
    assert made.untrained
    assert not found.untrained
    assert found.identity()["files"] == {name: hashlib.sha256(path.read_bytes()).hexdigest()}
    tensors = load_file(path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert ("custom_text_proj.weight" in tensors) == (make in (clamr, colqwen))
    state = found.module.state_dict()
    for key, tensor in tensors.items():
        assert torch.equal(state[key], tensor.float()), key
    rounded = (vectors(made, tmp_path) * vectors(found, tmp_path)).sum(axis=1)
    assert rounded.min() > 0.999
    # Training from nothing starts from the same values with and without the file.
    again = make(name, initial_seed=0)
    assert again.untrained
    assert again.identity()["files"] == name
    np.testing.assert_array_equal(vectors(again, tmp_path), drawn)
    assert abs(vectors(make(name, initial_seed=1), tmp_path) - drawn).max() > 1e-3
    # A model that was saved can be shipped as well as one in memory.
    made.save(tmp_path / "saved")
    write_builtin(make(tmp_path / "saved"), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("file", ["clamr-tiny", "clamr-pooled-tiny", "clip-tiny", "preflmr-tiny"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(next(iter(t))), "missing"),
        (lambda t: t.update(extra=torch.ones(1)), "not part of the model: extra"),
        (lambda t: t.update({next(iter(t)): torch.ones(1)}), "of another shape"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_of_another_version_are_refused_by_name(
    file: str, change: Callable[[Any], object], words: str, packages: Path
) -> None:
    make, name = BUILT_IN[file]
    path = packages / family_of(file) / "weights" / f"{file}.safetensors"
    write_builtin(make(name), path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(PluginError, match=words) as error:
        make(name).encode_queries(queries())
    assert "initial_seed=0" in str(error.value)


def test_values_too_large_to_ship_are_named(tmp_path: Path) -> None:
    made = clip()
    with torch.no_grad():
        made.module.logit_scale.fill_(1e6)
    with pytest.raises(PluginError, match="logit_scale cannot be written in float16"):
        write_builtin(made, tmp_path / "file.safetensors")
    assert not (tmp_path / "file.safetensors").exists()


@pytest.mark.parametrize("make", [clamr, pooled, colqwen, clip, siglip, preflmr])
def test_only_built_in_weights_are_drawn(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"initial_seed = 3: only built-in weights"):
        make(tmp_path, initial_seed=3)
    with pytest.raises(ClamrBenchError, match="initial_seed"):
        make_retriever("clamr", {"initial_seed": 3})


def test_what_ships_is_known_without_torch() -> None:
    code = (
        "import sys, tempfile\n"
        "from pathlib import Path\n"
        "from retrievers import shipped\n"
        "shipped.ROOT = Path(tempfile.mkdtemp())\n"
        "from harness.registry import make_retriever\n"
        "names = ('clamr/tiny', 'clamr-pooled/tiny', 'colqwen/tiny', 'clip/tiny', 'siglip/tiny',"
        "    'preflmr/tiny')\n"
        "drawn = [make_retriever(name).untrained for name in names]\n"
        "for name in names:\n"
        "    retriever = name.split('/')[0]\n"
        "    family = {'clamr-pooled': 'clamr', 'siglip': 'clip'}.get(retriever, retriever)\n"
        "    file = shipped.place(family, retriever, 'tiny')\n"
        "    file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.write_bytes(b'')\n"
        "print(drawn, [make_retriever(name).untrained for name in names])\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [f"{[True] * 6} {[False] * 6}", "[]"]
