"""What a model's files say before it is loaded; loading without surprises."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from harness.errors import PluginError, UsageError
from retrievers.st.folder import kind_of
from retrievers.st.settings import Kind
from retrievers.st.source import find_model
from retrievers.st.tiny import tiny_dense, tiny_images, tiny_multi_vector, tiny_sparse
from tests.test_sentence_transformers import QUERIES, encoder, queries, save


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A saved dense model with a projection of its own."""
    return save(tiny_dense(3, dim=32), tmp_path / "model")


def edit(file: Path, **values: Any) -> None:
    told = json.loads(file.read_text())
    told.update(values)
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def as_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))


@pytest.mark.parametrize("module", [".", "2_Dense"])
def test_pickles_are_refused_unread(dense: Path, tmp_path: Path, module: str) -> None:
    mark = tmp_path / "was-read"
    (dense / module / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    assert len(encoder(dense).encode_queries(queries())) == len(QUERIES)  # beside safetensors
    as_pickle(dense / module, mark)
    with pytest.raises(PluginError, match=r"pickle.*safetensors.*save_pretrained\('NEW'\)"):
        encoder(dense).encode_queries(queries())
    (dense / module / "pytorch_model.bin").unlink()
    with pytest.raises(PluginError, match="safetensors"):
        encoder(dense).encode_queries(queries())
    assert not mark.exists()


def test_code_that_comes_with_a_model_runs_only_if_asked_for(dense: Path, tmp_path: Path) -> None:
    mark = tmp_path / "has-run"
    (dense / "mine.py").write_text(
        textwrap.dedent(f"""
            from pathlib import Path
            from sentence_transformers.base.modules import Normalize
            Path({str(mark)!r}).touch()
            class Mine(Normalize):
                pass
            """)
    )
    modules = json.loads((dense / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Mine", "type": "mine.Mine"})
    (dense / "modules.json").write_text(json.dumps(modules))
    (dense / "3_Mine").mkdir()
    with pytest.raises(UsageError, match=r"mine\.Mine.*trust_remote_code=true"):
        encoder(dense).encode_queries(queries())
    assert not mark.exists()
    found = encoder(dense, trust_remote_code=True).encode_queries(queries())
    assert len(found) == len(QUERIES)
    assert mark.exists()


def test_an_architecture_that_transformers_lacks_needs_code(dense: Path) -> None:
    edit(dense / "config.json", auto_map={"AutoModel": "mine.Mine"})
    assert len(encoder(dense).encode_queries(queries())) == len(QUERIES)  # it knows BERT
    edit(dense / "config.json", model_type="mine")
    with pytest.raises(UsageError, match=r"config\.json: mine\.Mine.*trust_remote_code=true"):
        encoder(dense).encode_queries(queries())


def test_a_tensor_that_is_missing_is_named(dense: Path) -> None:
    tensors = load_file(dense / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("0.attention.self.query.weight"))
    del tensors[lost]
    save_file(tensors, dense / "model.safetensors", {"format": "pt"})
    with pytest.raises(PluginError, match=f"{lost}.*at random"):
        encoder(dense).encode_queries(queries())


def test_a_pooler_that_nobody_uses_may_be_missing(dense: Path) -> None:
    tensors = load_file(dense / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, dense / "model.safetensors", {"format": "pt"})
    assert len(encoder(dense).encode_queries(queries())) == len(QUERIES)


def test_a_damaged_file_is_one_message(dense: Path) -> None:
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        whole = (dense / name).read_bytes()
        (dense / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PluginError, match="cannot be loaded"):
            encoder(dense).encode_queries(queries())
        (dense / name).write_bytes(whole)
    (dense / "modules.json").write_text("{")
    with pytest.raises(PluginError, match="not JSON"):
        encoder(dense).encode_queries(queries())


@pytest.mark.parametrize(
    ("made", "kind"),
    [(tiny_dense, "dense"), (tiny_sparse, "sparse"), (tiny_multi_vector, "multi-vector")],
)
def test_the_kind_is_what_the_files_say(tmp_path: Path, made: Any, kind: Kind) -> None:
    folder = save(made(), tmp_path / "model")
    assert kind_of(find_model(str(folder), None)) == kind
    if kind == "sparse":
        with pytest.raises(UsageError, match="use sentence-transformers-sparse/"):
            encoder(folder).encode_queries(queries())


def test_the_kinds_of_others(dense: Path) -> None:
    config = dense / "config_sentence_transformers.json"
    edit(config, model_type=None)
    assert kind_of(find_model(str(dense), None)) == "dense"
    edit(config, query_prefix="[Q] ")
    assert kind_of(find_model(str(dense), None)) == "multi-vector"
    edit(config, model_type="ColBERT")
    assert kind_of(find_model(str(dense), None)) == "multi-vector"
    edit(config, model_type="CrossEncoder")
    with pytest.raises(PluginError, match=r"CrossEncoder.*makes no vectors"):
        encoder(dense).encode_queries(queries())


def test_layers_at_random_are_refused(tmp_path: Path) -> None:
    folder = save(tiny_dense(3), tmp_path / "model")
    with pytest.raises(PluginError, match="drawn at random"):
        encoder(folder, kind="multi-vector").encode_queries(queries())


def test_a_projection_can_be_used_token_by_token(dense: Path) -> None:
    found = encoder(dense, kind="multi-vector").encode_queries(queries())
    library = MultiVectorEncoder(str(dense), device="cpu").encode_query([QUERIES[0]])[0]
    assert found.vectors[: len(library)] == pytest.approx(library.numpy(), abs=1e-5)


def test_a_bare_transformer_is_pooled_by_its_mean(tmp_path: Path) -> None:
    made = tiny_dense(3)
    made[0].model.save_pretrained(tmp_path / "bare")
    made.tokenizer.save_pretrained(tmp_path / "bare")
    found = encoder(tmp_path / "bare").encode_queries(queries())
    expected = made.encode_query(list(QUERIES), normalize_embeddings=True)
    assert found.vectors == pytest.approx(expected, abs=1e-5)


def test_a_clip_that_the_library_never_saved(tmp_path: Path) -> None:
    made = tiny_images(32, 3)
    made[0].model.save_pretrained(tmp_path / "bare")
    made[0].processor.save_pretrained(tmp_path / "bare")
    mine = encoder(tmp_path / "bare")
    assert mine.images is not None
    expected = made.encode_query(list(QUERIES[:1]), normalize_embeddings=True)
    assert mine.encode_queries(queries()[:1]).vectors == pytest.approx(expected, abs=1e-5)


def test_an_adapter_is_loaded_with_its_base(tmp_path: Path) -> None:
    base = save(tiny_dense(3), tmp_path / "base")
    made = SentenceTransformer(str(base), device="cpu")
    made.add_adapter(LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False))
    made[0].model.peft_config["default"].base_model_name_or_path = str(base)
    adapter = save(made, tmp_path / "adapter")
    assert (adapter / "adapter_config.json").is_file()
    mine = encoder(adapter)
    expected = made.encode_query(list(QUERIES), normalize_embeddings=True)
    plain = encoder(base).encode_queries(queries()).vectors
    assert mine.encode_queries(queries()).vectors == pytest.approx(expected, abs=1e-5)
    assert mine.encode_queries(queries()).vectors != pytest.approx(plain, abs=1e-2)
    assert set(mine.identity()["files"]) == {"kind", "adapter", "base"}


def test_the_identity_is_the_files(dense: Path, tmp_path: Path) -> None:
    before = encoder(dense).identity()
    moved = tmp_path / "elsewhere"
    shutil.copytree(dense, moved)
    assert encoder(moved).identity() == before
    tensors = load_file(moved / "2_Dense/model.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, moved / "2_Dense/model.safetensors")
    assert encoder(moved).identity() != before
    assert encoder(dense, dtype="float16").identity() != before


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"neither modules\.json nor config\.json"):
        encoder(tmp_path).encode_queries(queries())
    with pytest.raises(UsageError, match="needs a model"):
        encoder("").encode_queries(queries())
    with pytest.raises(UsageError, match="no such folder"):
        encoder("a/b/c").encode_queries(queries())


def test_a_hub_id_without_a_network_is_one_clear_message() -> None:
    code = """
        from harness.errors import PluginError
        from retrievers.st.source import find_model
        try:
            find_model("all-MiniLM-L6-v2", None)
        except PluginError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "'sentence-transformers/all-MiniLM-L6-v2' are not on this machine" in done.stdout
    assert done.stdout.count("\n") == 1


def test_loading_is_quiet(dense: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(dense / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(kept, dense / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    encoder(dense).encode_queries(queries())
    encoder("tiny").encode_queries(queries())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_half_precision(dense: Path) -> None:
    found = encoder(dense, dtype="bfloat16").encode_queries(queries()).vectors
    plain = encoder(dense).encode_queries(queries()).vectors
    assert found == pytest.approx(plain, abs=0.02)
    assert torch.tensor(found).isfinite().all()
