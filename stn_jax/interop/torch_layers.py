"""The parts of the study's networks in PyTorch, channels first."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

Shape = tuple[int, int, int]  # channels, height, width


class FlatLinear(nn.Linear):
    """A dense layer that flattens its input, a feature map of known shape."""

    def __init__(self, map_shape: Shape, features: int):
        super().__init__(math.prod(map_shape), features)
        self.map_shape = map_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


def _dense(map_shape: Shape, widths: Sequence[int]) -> nn.ModuleList:
    first = FlatLinear(map_shape, widths[0])
    return nn.ModuleList([first, *(nn.Linear(*pair) for pair in itertools.pairwise(widths))])


class ConvBlock(nn.Module):
    """Convolution, optional max-pooling by 2, ReLU, dropout."""

    def __init__(
        self,
        shape: Shape,
        features: int,
        kernel_size: int,
        *,
        same: bool = False,
        pool: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            shape[0], features, kernel_size, padding=kernel_size // 2 if same else 0
        )
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        sides = (side - (0 if same else kernel_size - 1) for side in shape[1:])
        height, width = (side // 2 if pool else side for side in sides)
        self.shape: Shape = (features, height, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.pool:
            x = functional.max_pool2d(x, 2)
        return self.dropout(functional.relu(x))


class Head(nn.Module):
    """Dense layers with ReLU and dropout, then logits."""

    def __init__(
        self,
        shape: Shape,
        classes: int,
        positions: int | None = None,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.output_shape = (classes,) if positions is None else (positions, classes)
        *dense, logits = _dense(shape, (*hidden, math.prod(self.output_shape)))
        self.dense = nn.ModuleList(dense)
        self.logits = logits
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.dense:
            x = self.dropout(functional.relu(layer(x)))
        return self.logits(x).unflatten(-1, self.output_shape)


class DenseLocalization(nn.Module):
    """Dense layers with ReLU."""

    def __init__(self, shape: Shape, widths: Sequence[int]):
        super().__init__()
        self.dense = _dense(shape, widths)
        self.features = widths[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.dense:
            x = functional.relu(layer(x))
        return x


class ConvLocalization(nn.Module):
    """5x5 convolutions, each with max-pooling by 2 and ReLU; then dense layers.

    Pooling is skipped if its result would be smaller than 5x5.
    """

    def __init__(
        self,
        shape: Shape,
        features: Sequence[int],
        pools: int,
        widths: Sequence[int],
        *,
        same: bool = False,
        pool_input: bool = False,
    ):
        super().__init__()
        self.conv = nn.ModuleList()
        self.pool = []
        self.pool_input = pool_input
        if pool_input:
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        for i, n in enumerate(features):
            self.conv.append(nn.Conv2d(shape[0], n, 5, padding=2 if same else 0))
            height, width = (side - (0 if same else 4) for side in shape[1:])
            self.pool.append(i < pools and min(height, width) >= 10)
            shape = (n, height // 2, width // 2) if self.pool[i] else (n, height, width)
        self.dense = DenseLocalization(shape, widths)
        self.features = self.dense.features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(x, 2) if self.pool_input else x
        for conv, pool in zip(self.conv, self.pool, strict=True):
            x = conv(x)
            x = functional.relu(functional.max_pool2d(x, 2) if pool else x)
        return self.dense(x)


class Stack(nn.Module):
    """Blocks in sequence, followed by a localization network."""

    def __init__(self, blocks: Sequence[nn.Module], last: nn.Module, features: int):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.last = last
        self.features = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class SpatialTransformer(nn.Module):
    """A spatial transformer; see ``stn_jax.SpatialTransformer``."""

    def __init__(
        self,
        localization: nn.Module,
        features: int,
        *,
        size: tuple[int, int],
        iterations: int,
        mode: str,
        padding_mode: str,
        align_corners: bool,
    ):
        super().__init__()
        self.localization = localization
        self.theta = nn.Linear(features, 6)
        nn.init.zeros_(self.theta.weight)
        nn.init.zeros_(self.theta.bias)
        self.identity: torch.Tensor
        self.register_buffer("identity", torch.eye(2, 3), persistent=False)
        self.size = size
        self.iterations = iterations
        self.mode = mode
        self.padding_mode = padding_mode
        self.align_corners = align_corners

    def forward(
        self, image: torch.Tensor, features: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        theta = self._predict(features(image))
        for _ in range(self.iterations - 1):
            view = self._warp(image, theta, image.shape[-2:])
            step = self._predict(features(view))
            moved = theta[..., :2] @ step
            theta = torch.cat([moved[..., :2], moved[..., 2:] + theta[..., 2:]], -1)
        return self._warp(image, theta, self.size), theta

    def _predict(self, features: torch.Tensor) -> torch.Tensor:
        return self.identity + self.theta(self.localization(features)).unflatten(-1, (2, 3))

    def _warp(self, image: torch.Tensor, theta: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        grid = functional.affine_grid(
            theta, [*image.shape[:2], *size], align_corners=self.align_corners
        )
        return functional.grid_sample(
            image,
            grid,
            mode=self.mode,
            padding_mode=self.padding_mode,
            align_corners=self.align_corners,
        )


class Network(nn.Module):
    """A classifier, optionally with a spatial transformer; see ``stn_jax.models.Network``."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        head: nn.Module,
        transformer: SpatialTransformer | None,
        warp_depth: int,
        localization_depth: int,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.transformer = transformer
        self.warp_depth = warp_depth
        self.localization_depth = localization_depth

    def forward(
        self, images: torch.Tensor, return_details: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, tuple[torch.Tensor | None, torch.Tensor]]:
        """``[B, C, H, W]`` to logits; with return_details, also theta and the warped array."""
        x = self._run(images, 0, self.warp_depth)
        theta = None
        if self.transformer is not None:
            x, theta = self.transformer(
                x, lambda y: self._run(y, self.warp_depth, self.localization_depth)
            )
        logits = self.head(self._run(x, self.warp_depth, len(self.blocks)))
        return (logits, (theta, x)) if return_details else logits

    def _run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        for block in self.blocks[start:stop]:
            x = block(x)
        return x
