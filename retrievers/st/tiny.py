"""The library's own classes at tiny size, from a seed: for tests and demonstrations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from harness.quiet import quiet
from retrievers.qwen.tiny import FOLDER
from retrievers.source import TOKENIZER

T = TypeVar("T", bound=nn.Module)

_END = "<|endoftext|>"
_HIDDEN = 96
_LENGTH = 128
#: Pixels a side. The sample's videos are no larger.
_SIDE = 64
#: Standard deviation of the token embedding. With 0.3 the untrained model already matches equal
#: words; with the stock 0.02 it starts at chance.
_EMBEDDING_STD = 0.3
_TOWER: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tiny_dense(seed: int = 0, dim: int | None = None) -> SentenceTransformer:
    """Return an untrained BERT with mean pooling, and a projection if `dim` is given."""
    with _seeded(seed):
        modules: list[nn.Module] = [_transformer(BertModel), Pooling(_HIDDEN, "mean")]
        if dim is not None:
            modules.append(Dense(_HIDDEN, dim, bias=False, activation_function=nn.Identity()))
        return _ready(SentenceTransformer, modules)


def tiny_multi_vector(seed: int = 0) -> MultiVectorEncoder:
    """Return an untrained ColBERT-style BERT: a projected unit vector for each token."""
    with _seeded(seed):
        project = Dense(
            _HIDDEN, 32, bias=False, activation_function=nn.Identity(),
            module_input_name="token_embeddings",
        )  # fmt: skip
        normalise = Normalize(module_input_name="token_embeddings")
        modules = [_transformer(BertModel), project, MultiVectorMask(), normalise]
        return _ready(MultiVectorEncoder, modules)


def tiny_sparse(seed: int = 0) -> SparseEncoder:
    """Return an untrained SPLADE; its vectors keep the 32 largest values."""
    with _seeded(seed):
        modules = [_transformer(BertForMaskedLM, "fill-mask"), SpladePooling("max")]
        return _ready(SparseEncoder, modules, max_active_dims=32)


def tiny_images(dim: int, seed: int = 0) -> SentenceTransformer:
    """Return an untrained CLIP that reads texts and images."""
    tokenizer = _tokenizer(_LENGTH)
    end = tokenizer.convert_tokens_to_ids(_END)
    # CLIP pools where a text ends, so it must end with the mark whether or not it is padded.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, end)]
    )
    text = {
        **_TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _LENGTH,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {**_TOWER, "image_size": _SIDE, "patch_size": 16}
    square = {"height": _SIDE, "width": _SIDE}
    images = CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size=square)
    with _seeded(seed):
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim))
        processor: Any = CLIPProcessor
        return _ready(SentenceTransformer, [_saved(clip, processor(images, tokenizer))])


def _transformer(made: Any, task: Any = "feature-extraction") -> Transformer:
    tokenizer = _tokenizer(_LENGTH)
    config = BertConfig(**_TOWER, vocab_size=len(tokenizer), max_position_embeddings=_LENGTH)
    model = made(config)
    nn.init.normal_(model.get_input_embeddings().weight, 0, _EMBEDDING_STD)
    return _saved(model, tokenizer, task)


def _saved(model: Any, processor: Any, task: Any = "feature-extraction") -> Transformer:
    """Return the library's module around a model; it is made of a folder only."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        module: Transformer = Transformer(folder, transformer_task=task)
    return module


def _ready(made: Callable[..., T], modules: Sequence[nn.Module], **options: Any) -> T:
    model = made(modules=list(modules), device="cpu", **options)
    model.eval()
    return model


def _tokenizer(length: int) -> Any:
    """Return a byte-level tokeniser, which spells any language."""
    made: Any = PreTrainedTokenizerFast
    return made(
        tokenizer_file=str(Path(FOLDER) / TOKENIZER), pad_token=_END, eos_token=_END,
        model_max_length=length,
    )  # fmt: skip


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed; the process's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
