"""What a model's files say about it before any of it is loaded: its kind, and its dangers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import PluginError, UsageError
from retrievers.st.settings import Kind
from retrievers.st.source import ModelSource, model_files

#: ``model_type`` of ``config_sentence_transformers.json``; ColBERT is PyLate's.
_KINDS: dict[str, Kind] = {
    "SentenceTransformer": "dense",
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi-vector",
    "ColBERT": "multi-vector",
}
#: The class that loads and saves each kind.
CLASSES: dict[Kind, str] = {
    "dense": "SentenceTransformer",
    "multi-vector": "MultiVectorEncoder",
    "sparse": "SparseEncoder",
}
#: Modules that the library has itself; PyLate's are read as its own.
_OWN_MODULES = ("sentence_transformers.", "pylate.")
#: Weights that are pickles. A trainer's state beside them (training_args.bin) is never read.
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


def kind_of(model: ModelSource) -> Kind:
    """Return what the files say that the model is.

    A transformer that the library has never saved is taken for dense, as the library does, unless
    its own architecture is one of late interaction.

    Raises
    ------
    PluginError
        If it is none of these kinds: a reranker, or no model at all.
    """
    told = model.read_json("config_sentence_transformers.json") or {}
    named = told.get("model_type")
    if named in _KINDS:
        return _KINDS[named]
    if named is not None:
        raise PluginError(
            f"{model.name} is a {named!r} of sentence-transformers, which makes no vectors: give a "
            f"{', '.join(CLASSES.values())}."
        )
    config = model.read_json("config.json") or {}
    # PyLate before it named its type: only its models have marks before queries and documents.
    if "query_prefix" in told or "document_prefix" in told:
        return "multi-vector"
    architectures = [str(name) for name in config.get("architectures") or ()]
    if any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures):
        return "multi-vector"
    if model.read_json("modules.json") is None and not config:
        raise PluginError(
            f"{model.folder} has neither modules.json nor config.json: it is no model of "
            "sentence-transformers or transformers. Give the folder that save_pretrained wrote."
        )
    return "dense"


def check(model: ModelSource, kind: Kind, *, trusted: bool) -> None:
    """Make sure that loading runs no code that was not asked for, and leaves nothing at random.

    Parameters
    ----------
    model
        The files.
    kind
        What it is to be loaded as.
    trusted
        Whether code that comes with the model may run.

    Raises
    ------
    UsageError
        If it needs such code and is not trusted.
    PluginError
        If its weights are pickles, or would be drawn at random.
    """
    if not trusted:
        needs = next(_remote_code(model), None)
        if needs:
            raise remote_code_error(model.name, needs)
    for folder in _folders(model):
        pickles = [
            path.name
            for path in sorted(folder.iterdir())
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in _PICKLES)
        ]
        if pickles and not any(folder.glob("*.safetensors")):
            raise PluginError(
                f"{model.name}: the weights {folder.name}/{pickles[0]} are a pickle, which can run "
                f"code when it is read, and there are no safetensors beside it. {_conversion(kind)}"
            )
    _check_made_to_be(model, kind)


def weights_error(name: str, kind: Kind, reason: str) -> PluginError:
    """Return the error for weights that the library does not find as safetensors."""
    return PluginError(
        f"{name} cannot be loaded: {reason}. Its weights must be safetensors. {_conversion(kind)}"
    )


def remote_code_error(name: str, needs: str) -> UsageError:
    """Return the error for a model that needs code of its own, and may not run it."""
    return UsageError(
        f"{name} needs Python code that comes with it ({needs}). It would run with your rights: "
        "read it, then set trust_remote_code=true."
    )


def _conversion(kind: Kind) -> str:
    return (
        'Convert it where you trust the file: `python -c "from sentence_transformers import '
        f"{CLASSES[kind]} as M; M('OLD').save_pretrained('NEW')\"`, and give NEW; or set revision "
        "to one that has safetensors."
    )


def _remote_code(model: ModelSource) -> Iterator[str]:
    """Yield what needs code that neither the library nor transformers has."""
    from transformers import CONFIG_MAPPING

    for module in model.read_json("modules.json") or ():
        if not str(module.get("type")).startswith(_OWN_MODULES):
            yield f"modules.json: {module.get('type')}"
    for folder in _folders(model):
        place = folder.relative_to(model.folder)
        config = model.read_json((place / "config.json").as_posix())
        # Where transformers knows the architecture, it leaves the model's own code alone.
        if (
            isinstance(config, dict)
            and config.get("auto_map")
            and config.get("model_type") not in CONFIG_MAPPING
        ):
            yield f"{(place / 'config.json').as_posix()}: {_first(config['auto_map'])}"
        router = model.read_json((place / "router_config.json").as_posix()) or {}
        for kind in (router.get("types") or {}).values():
            if not str(kind).startswith(_OWN_MODULES):
                yield f"{(place / 'router_config.json').as_posix()}: {kind}"


def _first(auto_map: Any) -> str:
    return str(next(iter(auto_map.values()))) if isinstance(auto_map, dict) else str(auto_map)


def _check_made_to_be(model: ModelSource, kind: Kind) -> None:
    """Refuse what the library would complete by layers drawn at random."""
    if kind == "dense":
        return
    modules = model.read_json("modules.json")
    if modules is not None:
        told = model.read_json("config_sentence_transformers.json") or {}
        whole = _KINDS.get(str(told.get("model_type"))) == kind or (
            # The projection that it needs is there, whatever it was saved as.
            kind == "multi-vector" and any(str(m.get("type")).endswith(".Dense") for m in modules)
        )
    elif kind == "sparse":
        names = (model.read_json("config.json") or {}).get("architectures") or ()
        whole = any(str(name).endswith("ForMaskedLM") for name in names)
    else:
        whole = kind_of(model) == kind
    if not whole:
        raise PluginError(
            f"{model.name} was not saved as a {CLASSES[kind]}: as a {kind} model it would have "
            f"layers drawn at random. Train it and save it as a {CLASSES[kind]} first."
        )


def _folders(model: ModelSource) -> list[Path]:
    """Return the folders that hold anything of the model, its own first."""
    return sorted({model.folder, *(path.parent for path in model_files(model.folder))})
