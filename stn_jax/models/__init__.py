"""Flax (Linen) modules: classifiers, localization networks, transformers, and networks of them."""

from stn_jax.models.blocks import ConvBlock, Head
from stn_jax.models.classifiers import Classifier
from stn_jax.models.localization import ConvLocalization, DenseLocalization
from stn_jax.models.networks import Intermediates, Network, Variant, create_model
from stn_jax.models.transformer import SpatialTransformer

__all__ = [
    "Classifier",
    "ConvBlock",
    "ConvLocalization",
    "DenseLocalization",
    "Head",
    "Intermediates",
    "Network",
    "SpatialTransformer",
    "Variant",
    "create_model",
]
