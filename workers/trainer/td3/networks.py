"""Features extractors for windows of frames, for any policy of stable-baselines3.

`policy_kwargs={"features_extractor_class": FrameTransformer, "features_extractor_kwargs": {...}}`.
What they compute is said in `workers.trading_env.policy.networks`, which does the same without
torch for whoever acts with a published policy; a test compares the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from workers.trading_env.policy.networks import FRAMES, TRANSFORMER, positions

if TYPE_CHECKING:
    import numpy as np
    from gymnasium import spaces


class FrameEncoder(BaseFeaturesExtractor):
    """One small layer over each frame, the same for all, ReLU; then flat, oldest frame first.

    The first layer of an MLP on 16 x 100 inputs is most of its work: with a width of 16 the hidden
    layers see 256 features, and that work is a sixteenth.
    """

    kind = FRAMES

    def __init__(self, observation_space: spaces.Box, width: int = 16) -> None:
        """Take windows (W, F) to W x `width` features."""
        window, frame = _window(observation_space)
        super().__init__(observation_space, window * width)
        self.frame = nn.Linear(frame, width)

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, W x width)."""
        return functional.relu(self.frame(observations)).flatten(1)

    def arrays(self) -> dict[str, Tensor]:
        """What `policy_networks` needs."""
        return {"frame_w": self.frame.weight, "frame_b": self.frame.bias}


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to what goes in."""

    def __init__(self, width: int, heads: int, upper: int) -> None:
        """Make a layer of `heads` heads with an inner width of `upper`."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, upper), nn.Linear(upper, width)

    def forward(self, values: Tensor) -> Tensor:
        """(B, W, d) to (B, W, d)."""
        count, frames, width = values.shape
        parts = self.qkv(self.norm1(values)).view(count, frames, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        values = values + self.out(mixed.transpose(1, 2).reshape(count, frames, width))
        found: Tensor = values + self.down(functional.relu(self.up(self.norm2(values))))
        return found


class FrameTransformer(BaseFeaturesExtractor):
    """Frames with sinusoidal positions through pre-norm encoder layers, attention pooling, ReLU.

    The default learns on two processor cores; (256, 8, 4, 512) is for a GPU.
    """

    kind = TRANSFORMER
    places: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        d_model: int = 32,
        heads: int = 2,
        layers: int = 1,
        features: int = 64,
    ) -> None:
        """Encode windows of frames into one vector of features each.

        Args:
            observation_space: Shape (W, F): W frames of F numbers.
            d_model: Width of the embedding of a frame.
            heads: Attention heads a layer; must divide `d_model`.
            layers: Encoder layers.
            features: Length of the resulting vector.

        Raises:
            ValueError: `heads` does not divide `d_model`.
        """
        if d_model % heads:
            raise ValueError(f"{heads} heads do not divide a width of {d_model}")
        super().__init__(observation_space, features)
        window, frame = _window(observation_space)
        self.heads = heads
        self.embed = nn.Linear(frame, d_model)
        self.register_buffer("places", torch.from_numpy(positions(window, d_model)))
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, heads, 4 * d_model) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.query = nn.Parameter(torch.zeros(d_model))  # at first all frames count the same
        self.out = nn.Linear(d_model, features)

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, features)."""
        values = self.embed(observations) + self.places
        for layer in self.layers:
            values = layer(values)
        values = self.norm(values)
        weights = torch.softmax(values @ self.query / math.sqrt(values.shape[-1]), dim=1)
        return functional.relu(self.out((weights[:, None] @ values).squeeze(1)))

    def arrays(self) -> dict[str, Any]:
        """What `policy_networks` needs."""
        found: dict[str, Any] = {"query": self.query, "heads": torch.tensor(self.heads)}
        parts: dict[str, nn.Module] = {
            "embed": self.embed,
            "norm": self.norm,
            "features": self.out,
            **{
                f"layer{number}_{name}": part
                for number, layer in enumerate(self.layers)
                for name, part in layer.named_children()
            },
        }
        for name, part in parts.items():
            found[f"{name}_w"], found[f"{name}_b"] = part.weight, part.bias
        return found


def _window(space: spaces.Box) -> tuple[int, int]:
    shape: tuple[int, ...] = space.shape
    if len(shape) != 2:
        raise ValueError(f"observations of shape {shape}; a window of frames has two dimensions")
    return shape[0], shape[1]


def array_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a parameter as an array, a view where it lives in this memory."""
    found: np.ndarray[Any, np.dtype[Any]] = tensor.detach().cpu().numpy()
    return found
