"""What a training would take, said before it is begun: ``clamr-bench train --plan``.

A 3B model is built on the meta device, where tensors have shapes and no storage, and gets its LoRA
layers by the code that trains it. So what is counted is what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from harness.encoder import Trainable
from harness.training.batches import Batches
from harness.training.lora import add_lora, trainable
from harness.training.recipe import OptimiserRecipe, Recipe

#: Bytes of float32: of what is trained, of its gradients and of Adam's moments.
_FLOAT32 = 4
_BFLOAT16 = 2
#: bitsandbytes quantises states in blocks with a float32 scale each, those of small tensors not.
_BLOCK, _SMALL = 256, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The decoder layers that activations are kept of, and how many tokens go through them.

    Attributes
    ----------
    layers, hidden, intermediate
        Their number, the width of the hidden states and of the MLP.
    document_tokens, query_tokens
        Most tokens of a document and of a query.
    """

    layers: int
    hidden: int
    intermediate: int
    document_tokens: int
    query_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model before it is loaded.

    Attributes
    ----------
    module
        On the meta device, with the names that the loaded one has.
    targets
        Its layers that take LoRA (see `harness.encoder.Trainable.lora_targets`).
    element
        Bytes of each weight that is not quantised.
    quantised
        Names of the layers whose weight matrices are quantised.
    quantised_element
        Bytes of each of their weights, scales included.
    decoder
        None where activations cannot be estimated.
    """

    module: nn.Module
    targets: Sequence[str]
    element: float = _FLOAT32
    quantised: frozenset[str] = frozenset()
    quantised_element: float = 0.0
    decoder: Decoder | None = None


@runtime_checkable
class Blueprinted(Protocol):
    """An encoder that knows its architecture without its weights."""

    def blueprint(self) -> Blueprint:
        """Return the model that the encoder's weights and settings would give; reads no weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the memory: its bytes, and how they come about."""

    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training takes.

    Attributes
    ----------
    tensors, parameters
        Trained.
    total
        Parameters of the model, those that LoRA adds included.
    saved
        Bytes of the trained tensors in a saved model, float32.
    memory
        Of each process on its GPU, by part.
    steps, documents, queries
        Of the whole training; None without a task. Documents and queries are at most that many.
    """

    tensors: int
    parameters: int
    total: int
    saved: int
    memory: dict[str, Part]
    steps: int | None = None
    documents: int | None = None
    queries: int | None = None
    left_out: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the plan for people."""
        share = f"{self.parameters / self.total:.1%} of {self.total:,}"
        lines = [
            f"trained: {self.parameters:,} parameters in {self.tensors:,} tensors ({share})",
            f"saved: {_size(self.saved)} (4 bytes a parameter)",
        ]
        if self.steps is not None:
            lines.append(
                f"steps: {self.steps:,}, with {self.documents:,} documents and at most "
                f"{self.queries:,} queries in all"
            )
        whole = sum(part.bytes for part in self.memory.values())
        lines.append(f"memory of each process, estimated: {_size(whole)}")
        lines += [f"  {name}: {_size(p.bytes)} = {p.formula}" for name, p in self.memory.items()]
        lines += [f"  not included: {what}" for what in self.left_out]
        return lines


def plan(
    encoder: Trainable, recipe: Recipe, batches: Batches | None = None, processes: int = 1
) -> Plan:
    """Return what it takes to train an encoder by a recipe.

    Parameters
    ----------
    encoder
        One that is `Blueprinted` is not loaded. The modules of others are, and are changed.
    recipe
        How.
    batches
        The batches of a task; without, nothing is said of steps.
    processes
        Processes that share each batch, a GPU each.

    Raises
    ------
    UsageError, PluginError
        As `add_lora`; or if the encoder's architecture cannot be known.
    """
    if isinstance(encoder, Blueprinted):
        blueprint = encoder.blueprint()
    else:
        blueprint = Blueprint(module=encoder.module, targets=encoder.lora_targets())
    module = blueprint.module
    add_lora(module, blueprint.targets, recipe)
    trained = trainable(module)
    parameters = sum(parameter.numel() for parameter in trained.values())
    memory = {
        **_weights(blueprint),
        "trained weights": Part(_FLOAT32 * parameters, f"4 B x {parameters:,} (float32)"),
        "gradients": Part(_FLOAT32 * parameters, f"4 B x {parameters:,} (float32)"),
        "optimiser": _states(recipe.optimiser, trained),
    }
    if recipe.precision == "bf16":
        copies = Part(_BFLOAT16 * parameters, f"2 B x {parameters:,}")
        memory["bf16 copies of trained weights"] = copies
    left_out = ["the GPU's own context (about 0.5 GB), fragmentation, what the loss needs"]
    if blueprint.decoder is None:
        left_out.append("activations, which depend on the model")
    else:
        memory |= _activations(blueprint.decoder, blueprint.element, recipe, processes)
        left_out.append("what frozen towers hold for a moment; there are no logits")
    steps = None if batches is None else batches.total
    documents = None if steps is None else steps * recipe.batch.documents
    return Plan(
        tensors=len(trained),
        parameters=parameters,
        total=sum(parameter.numel() for parameter in module.parameters()),
        saved=_FLOAT32 * parameters,
        memory=memory,
        steps=steps,
        documents=documents,
        queries=None if documents is None else documents * recipe.batch.queries,
        left_out=left_out,
    )


def _weights(blueprint: Blueprint) -> dict[str, Part]:
    """Return the parts of the weights that are not trained."""
    plain, packed, largest = 0, 0, 0
    for name, parameter in blueprint.module.named_parameters():
        if parameter.requires_grad:
            continue
        # LoRA moves a layer's own weight one level down.
        layer, _, last = name.replace(".base_layer.", ".").rpartition(".")
        if last == "weight" and layer in blueprint.quantised:
            packed += parameter.numel()
            largest = max(largest, parameter.numel())
        else:
            plain += parameter.numel()
    parts = {}
    if plain:
        formula = f"{blueprint.element:g} B x {plain:,}"
        parts["frozen weights"] = Part(round(blueprint.element * plain), formula)
    if packed:
        size = blueprint.quantised_element
        parts["frozen weights, quantised"] = Part(
            round(size * packed), f"{size:.3f} B x {packed:,} (scales included)"
        )
        parts["one layer's weight, unpacked"] = Part(_BFLOAT16 * largest, f"2 B x {largest:,}")
    return parts


def _states(recipe: OptimiserRecipe, trained: dict[str, nn.Parameter]) -> Part:
    """Return the optimiser's two moments."""
    sizes = [parameter.numel() for parameter in trained.values()]
    packed = sum(n for n in sizes if n >= _SMALL) if recipe.name.endswith("8bit") else 0
    plain = sum(sizes) - packed
    terms = [f"2 x 4 B x {plain:,}"] if plain else []
    if packed:
        terms.append(f"2 x (1 B + 4 B / {_BLOCK}) x {packed:,}")
    note = "; may move to the machine's memory" if recipe.name.startswith("paged") else ""
    size = 2 * (_FLOAT32 * plain + (1 + 4 / _BLOCK) * packed)
    return Part(round(size), " + ".join(terms) + note)


def layer_bytes(decoder: Decoder, recipe: Recipe, mask: int = 1) -> int:
    """Return the bytes that one decoder layer keeps of each token for the backward pass, in bf16.

    A gated decoder layer (Llama, Qwen) keeps the inputs of both norms in float32, and queries,
    keys, values and the output of attention: 16 B of each hidden unit; and three products of the
    MLP: 6 B of each intermediate unit. LoRA keeps the dropped-out input of each of seven layers and
    the mask of its dropout, and what is between A and B; all weights trained, the inputs.

    Parameters
    ----------
    decoder, recipe
        The layer, and what is trained.
    mask
        Bytes of an element of a dropout mask: 1 on a GPU, 4 on a CPU.
    """
    kept = 16 * decoder.hidden + 6 * decoder.intermediate
    if recipe.adapter.kind == "full":
        return kept + 4 * decoder.hidden + 2 * decoder.intermediate
    each = _BFLOAT16 + (mask if recipe.adapter.dropout else 0)
    inputs = 6 * decoder.hidden + decoder.intermediate
    return kept + each * inputs + 7 * _BFLOAT16 * recipe.adapter.rank


def _activations(
    decoder: Decoder, element: float, recipe: Recipe, processes: int
) -> dict[str, Part]:
    """Return what is kept between the forward and the backward pass."""
    batch = recipe.batch
    documents = -(-batch.documents // (batch.accumulate * processes))
    queries = documents * batch.queries
    if batch.chunk is not None:
        documents = min(documents, batch.chunk)
    of_documents = documents * decoder.document_tokens
    tokens = of_documents + queries * decoder.query_tokens
    said = (
        f"{documents} documents of {decoder.document_tokens:,} and {queries} queries of "
        f"{decoder.query_tokens} tokens at most"
    )
    # In float32 all that is kept in bf16 otherwise takes twice as much; norms take as much.
    scale = 1 if recipe.precision == "bf16" else 2
    each = scale * layer_bytes(decoder, recipe)
    if not recipe.gradient_checkpointing:
        size = decoder.layers * each * tokens
        formula = f"{decoder.layers} layers x {each:,} B x {tokens:,} ({said})"
        return {"activations": Part(size, formula)}
    width = round(element * decoder.hidden)
    return {
        "inputs of layers": Part(
            decoder.layers * width * tokens,
            f"{decoder.layers} layers x {width:,} B x {tokens:,} ({said})",
        ),
        "activations of one layer": Part(each * of_documents, f"{each:,} B x {of_documents:,}"),
    }


def _size(count: float) -> str:
    """Return bytes as people read them: 959.0 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
