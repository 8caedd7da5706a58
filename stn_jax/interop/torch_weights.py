"""Conversion of weights between this folder's PyTorch networks and those in Flax.

Submodules have the same names in both, so a parameter's name in PyTorch gives its path in the Flax
tree. Kernels are transposed to each library's layout.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from stn_jax.interop.torch_layers import FlatLinear


def load_flax(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies a Flax parameter tree into the module.

    Args:
      module: one of this folder's networks.
      params: the parameters of the same network in Flax.

    Raises:
      ValueError: the tree and the module have different leaves, or a leaf has a different shape.
    """
    leaves = _flatten(params)
    parameters = list(_parameters(module))
    if different := leaves.keys() ^ {path for path, _, _ in parameters}:
        names = sorted("/".join(path) for path in different)
        raise ValueError(f"in the tree or in the module, but not in both: {', '.join(names)}")
    for path, layer, parameter in parameters:
        value = torch.tensor(np.asarray(leaves[path]), dtype=parameter.dtype)
        shape = _to_flax(parameter, layer).shape
        if value.shape != shape:
            name = "/".join(path)
            raise ValueError(f"{name} has shape {[*value.shape]}; expected {[*shape]}")
        with torch.no_grad():
            parameter.copy_(_from_flax(value, layer))


def to_flax(module: nn.Module, *, gradients: bool = False) -> dict[str, Any]:
    """The module's parameters as a Flax tree of NumPy arrays.

    Args:
      module: one of this folder's networks.
      gradients: whether to return the parameters' gradients instead.

    Raises:
      ValueError: gradients are requested before a backward pass.
    """
    tree: dict[str, Any] = {}
    for (*branches, leaf), layer, parameter in _parameters(module):
        value = parameter.grad if gradients else parameter
        if value is None:
            raise ValueError(f"{'/'.join((*branches, leaf))} has no gradient")
        branch = tree
        for name in branches:
            branch = branch.setdefault(name, {})
        branch[leaf] = np.array(_to_flax(value, layer).numpy(force=True), order="C")
    return tree


def _parameters(module: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module, nn.Parameter]]:
    """Each parameter with its path in the Flax tree and its layer."""
    for name, layer in module.named_modules():
        path = re.sub(r"\.(\d+)", r"_\1", name).split(".")
        for leaf, parameter in layer.named_parameters(recurse=False):
            yield (*path, {"weight": "kernel"}.get(leaf, leaf)), layer, parameter


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flatten(value, (*path, name))
        else:
            leaves[*path, name] = value
    return leaves


def _to_flax(value: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """From PyTorch's layout to Flax's: the output axis last, channels after height and width."""
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0)
    if isinstance(layer, FlatLinear) and value.ndim == 2:
        return value.unflatten(1, layer.map_shape).permute(2, 3, 1, 0).flatten(0, 2)
    return value.T if value.ndim == 2 else value


def _from_flax(value: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """The inverse of :func:`_to_flax`."""
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if isinstance(layer, FlatLinear) and value.ndim == 2:
        channels, height, width = layer.map_shape
        return value.unflatten(0, (height, width, channels)).permute(3, 2, 0, 1).flatten(1)
    return value.T if value.ndim == 2 else value
