"""The study's networks in PyTorch, and their weights to and from Flax.

network = interop.create("rotated_mnist", "stn-sl1")      # a torch.nn.Module
interop.load_flax(network, variables["params"])           # from stn_jax.load_pretrained
params = interop.to_flax(network)                         # and back
"""

from typing import TYPE_CHECKING, Any

from stn_jax.extras import extra

if TYPE_CHECKING:
    from stn_jax.interop.torch_networks import create
    from stn_jax.interop.torch_weights import load_flax, to_flax

__all__ = ["create", "load_flax", "to_flax"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra("interop"):
        from stn_jax.interop import torch_networks, torch_weights

    return getattr(torch_networks if name == "create" else torch_weights, name)
