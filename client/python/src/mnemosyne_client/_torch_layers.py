"""What a layer says of its parameters: their role, and how many inputs an output is summed of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class LayerHints:
    """What is known of a parameter from the layer that it belongs to.

    Attributes:
        role: Such as `weight`, `bias`, `embedding` or `norm`; empty if unknown.
        fan_in: Inputs that are summed into one output; 1 for biases, gains and embeddings.
        fan_out: Outputs that one input feeds.
    """

    role: str = ""
    fan_in: int = 1
    fan_out: int = 1


def hints_of_model(model: nn.Module) -> dict[torch.Tensor, LayerHints]:
    """Returns the hints of all parameters of `model`; of a shared one, those of its first layer."""
    hints: dict[torch.Tensor, LayerHints] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            hints.setdefault(parameter, _hint_of(module, name, parameter))
    return hints


def hint_of_name(name: str, parameter: torch.Tensor) -> LayerHints:
    """Returns what can be guessed of a parameter whose layer is not known.

    A tensor of two axes or more is taken for PyTorch's [outputs, inputs, ...], unless its name has
    "emb" in it.
    """
    last = name.rsplit(".", 1)[-1]
    role = last if last in ("weight", "bias") else ""
    if parameter.dim() < 2:
        return LayerHints(role)
    if "emb" in name.lower():
        return LayerHints("embedding", 1, parameter.shape[-1])
    return LayerHints(role, math.prod(parameter.shape[1:]), parameter.shape[0])


def _hint_of(module: nn.Module, name: str, parameter: torch.Tensor) -> LayerHints:
    if parameter.dim() < 2:
        is_norm = name == "weight" and not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        return LayerHints("norm" if is_norm else hint_of_name(name, parameter).role)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return LayerHints("embedding", 1, module.embedding_dim)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        inputs = module.in_channels // module.groups
        return LayerHints("weight", inputs * math.prod(module.kernel_size), module.out_channels)
    if isinstance(module, nn.modules.normalization.LayerNorm):
        return LayerHints("norm")
    return LayerHints(
        "weight" if "weight" in name else "", math.prod(parameter.shape[1:]), parameter.shape[0]
    )
