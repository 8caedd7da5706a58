"""Weights between the networks of PyTorch in this folder and those of Flax.

A submodule of one has the name that it has in the other, so a parameter's name in PyTorch says
where it stands in the Flax tree. Kernels are transposed as each side lays them out.
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

    Raises:
      ValueError: tree and module have not the same leaves, or a leaf has another shape.
    """
    leaves = _flatten(params)
    places = list(_places(module))
    if different := leaves.keys() ^ {path for path, _, _ in places}:
        names = sorted("/".join(path) for path in different)
        raise ValueError(f"in the tree or in the module, but not in both: {', '.join(names)}")
    for path, layer, parameter in places:
        value = torch.tensor(np.asarray(leaves[path]), dtype=parameter.dtype)
        shape = _to_flax(parameter, layer).shape
        if value.shape != shape:
            name = "/".join(path)
            raise ValueError(f"{name} has shape {[*value.shape]}; expected {[*shape]}")
        with torch.no_grad():
            parameter.copy_(_from_flax(value, layer))


def to_flax(module: nn.Module, *, gradients: bool = False) -> dict[str, Any]:
    """The module's parameters, or their gradients, as a Flax tree of NumPy arrays.

    Raises:
      ValueError: a gradient is asked for that no backward pass has left.
    """
    tree: dict[str, Any] = {}
    for (*branches, leaf), layer, parameter in _places(module):
        value = parameter.grad if gradients else parameter
        if value is None:
            raise ValueError(f"{'/'.join((*branches, leaf))} has no gradient")
        branch = tree
        for name in branches:
            branch = branch.setdefault(name, {})
        branch[leaf] = np.array(_to_flax(value, layer).numpy(force=True), order="C")
    return tree


def _places(module: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module, nn.Parameter]]:
    """Each parameter with its path in the Flax tree and the layer that it belongs to."""
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
    """A bias as it is; a kernel with its output axis last and channels behind height and width."""
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
