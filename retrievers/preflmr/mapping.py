"""From the image tower to late interaction: two small networks.

`Prefix` turns the class token into a few vectors. `Mapping` is a layer of BERT with cross-attention
in the middle: patches look at each other, then at the text. Written out here because transformers
takes a block with cross-attention for a decoder, whose self-attention would see earlier patches
only.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig
from transformers.activations import ACT2FN

from harness.errors import PluginError


class Named(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Modules under the names that checkpoints have, which can be any."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Prefix(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two linear layers with a tanh between them.

    Parameters
    ----------
    width
        Of the image tower.
    prefix, dim
        Number and dimension of the vectors.
    """

    def __init__(self, width: int, prefix: int, dim: int) -> None:
        super().__init__()
        self._shape = (prefix, dim)
        total = prefix * dim
        self.model = nn.Sequential(
            nn.Linear(width, total // 2), nn.Tanh(), nn.Linear(total // 2, total)
        )

    def forward(self, classes: torch.Tensor) -> torch.Tensor:
        """Return vectors, shape ``(images, prefix, dim)``, of class tokens ``(images, width)``."""
        made: torch.Tensor = self.model(classes)
        return made.unflatten(-1, self._shape)


class Mapping(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Layers of BERT with cross-attention.

    Parameters
    ----------
    config
        Width, heads, feed-forward width, dropout and number of layers.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the patches, shape ``(images, patches, width)``.

        Parameters
        ----------
        patches
            Floating, shape ``(images, patches, width)``.
        text
            Floating, shape ``(images, tokens, width)``: hidden states, of which all are looked at,
            instruction and padding included.
        """
        for layer in self.layer:
            patches = layer(patches, text)
        return patches


class _Layer(nn.Module):  # type: ignore[misc]  # torch is not typed here
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention = _Attention(config)
        self.crossattention = _Attention(config)
        self.intermediate = Named(dense=nn.Linear(width, inner))
        self.output = _Output(config, inner)
        self._activation = ACT2FN[config.hidden_act]

    def forward(self, patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        seen = self.crossattention(self.attention(patches, patches), text)
        inner = self._activation(self.intermediate.dense(seen))
        made: torch.Tensor = self.output(inner, seen)
        return made


class _Attention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Attention of every position to every other, without a mask; then the residual's norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads:
            raise PluginError(f"the mapping block's {heads} heads do not divide its width, {width}")
        self._heads, self._dropout = heads, config.attention_probs_dropout_prob
        parts = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        # `self` is the name in the files.
        self.add_module("self", Named(**parts))
        self.output = _Output(config, width)

    def forward(self, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        parts = self.get_submodule("self")
        query, key, value = (
            linear(given).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for linear, given in ((parts.query, states), (parts.key, seen), (parts.value, seen))
        )
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self._dropout if self.training else 0.0
        )
        made: torch.Tensor = self.output(found.transpose(1, 2).flatten(2), states)
        return made


class _Output(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A linear layer, dropout, and the norm of its sum with what came in (post-norm)."""

    def __init__(self, config: BertConfig, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.LayerNorm(self.dropout(self.dense(states)) + before)
        return made
