"""Flax (Linen) modules: classifiers, localization networks, transformers and whole networks."""

from stn_jax.models.blocks import ConvBlock, Head, ResidualBlock
from stn_jax.models.classifiers import Classifier
from stn_jax.models.localization import ConvLocalization, DenseLocalization
from stn_jax.models.networks import create_model, create_network
from stn_jax.models.normalization import Normalize
from stn_jax.models.transformer import SpatialTransformer
from stn_jax.models.transformer_network import Intermediates, Network, Placement
from stn_jax.models.variants import Variant

__all__ = [
    "Classifier",
    "ConvBlock",
    "ConvLocalization",
    "DenseLocalization",
    "Head",
    "Intermediates",
    "Network",
    "Normalize",
    "Placement",
    "ResidualBlock",
    "SpatialTransformer",
    "Variant",
    "create_model",
    "create_network",
]
