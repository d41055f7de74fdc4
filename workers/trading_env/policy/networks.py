"""Policies that look at each frame by itself, computed without torch.

Both give features of the window, which an MLP as in `policy_numpy` turns into actions:

- kind 2, frames: `frame_w` (d, 100), `frame_b` (d,): ReLU of a linear map of each frame, flattened
  to 16 d features, oldest frame first.
- kind 1, transformer: `embed_w` (d, 100), `embed_b` plus sinusoidal positions (Vaswani et al.,
  Attention Is All You Need, 2017), `layerN_*` pre-norm encoder layers (Xiong et al., On Layer
  Normalization in the Transformer Architecture, 2020) of `heads` heads, a last norm, attention
  pooling with one learnt `query`, and `features_w`, `features_b` with ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from mesh.arrays import Array
from workers.contract.dtypes import FEATURES, WINDOW
from workers.trading_env.errors import InvalidPolicy

Features = Callable[[Array], Array]
TRANSFORMER, FRAMES = 1, 2
LAYER = {
    "norm1_w": ("d",),
    "norm1_b": ("d",),
    "qkv_w": ("3d", "d"),
    "qkv_b": ("3d",),
    "out_w": ("d", "d"),
    "out_b": ("d",),
    "norm2_w": ("d",),
    "norm2_b": ("d",),
    "up_w": ("u", "d"),
    "up_b": ("u",),
    "down_w": ("d", "u"),
    "down_b": ("d",),
}
EPSILON = 1e-5  # of torch's LayerNorm


def positions(count: int, width: int) -> Array:
    """Sinusoidal positions, float32 (count, width): sine in the even columns, cosine in the odd."""
    angles = np.arange(count)[:, None] * np.exp(
        -math.log(10_000.0) * np.arange(0, width, 2) / width
    )
    found = np.zeros((count, width), np.float32)
    found[:, 0::2] = np.sin(angles)
    found[:, 1::2] = np.cos(angles)[:, : width // 2]
    return found


def features_of(kind: int, arrays: Mapping[str, Array]) -> tuple[Features, int]:
    """Return the function from observations to features, and the number of features.

    Args:
        kind: TRANSFORMER or FRAMES.
        arrays: The arrays of a published policy.

    Returns:
        (features, F): the function maps (n, 16, 100) to (n, F).

    Raises:
        InvalidPolicy: An array is missing or of another shape.
    """
    if kind == FRAMES:
        width = _expect(arrays, "frame_w", (None, FEATURES))[0]
        _expect(arrays, "frame_b", (width,))
        return (lambda windows: _frames(arrays, windows)), WINDOW * width
    width = _expect(arrays, "embed_w", (None, FEATURES))[0]
    heads, layers = int(arrays.get("heads", np.array(0))), 0
    if heads < 1 or width % heads:
        raise InvalidPolicy(f"{heads} heads for a width of {width}")
    while f"layer{layers}_qkv_w" in arrays:
        upper = _expect(arrays, f"layer{layers}_up_w", (None, width))[0]
        sizes = {"d": width, "3d": 3 * width, "u": upper}
        for name, shape in LAYER.items():
            _expect(arrays, f"layer{layers}_{name}", tuple(sizes[size] for size in shape))
        layers += 1
    for name in ("embed_b", "norm_w", "norm_b", "query"):
        _expect(arrays, name, (width,))
    count = _expect(arrays, "features_w", (None, width))[0]
    _expect(arrays, "features_b", (count,))
    places = positions(WINDOW, width)
    return (lambda windows: _transformer(arrays, windows, places, heads, layers)), count


def _expect(
    arrays: Mapping[str, Array], name: str, shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    found = arrays.get(name)
    if (
        found is None
        or found.ndim != len(shape)
        or any(
            wanted is not None and size != wanted
            for size, wanted in zip(found.shape, shape, strict=True)
        )
    ):
        what = None if found is None else found.shape
        raise InvalidPolicy(f"{name!r} is {what}, expected {shape}")
    return tuple(found.shape)


def _frames(arrays: Mapping[str, Array], windows: Array) -> Array:
    values = windows.reshape(-1, FEATURES) @ arrays["frame_w"].T + arrays["frame_b"]
    found: Array = np.maximum(values, 0.0).reshape(len(windows), -1)
    return found


def _transformer(
    arrays: Mapping[str, Array], windows: Array, places: Array, heads: int, layers: int
) -> Array:
    values = windows @ arrays["embed_w"].T + arrays["embed_b"] + places
    for layer in range(layers):
        own = {name: arrays[f"layer{layer}_{name}"] for name in LAYER}
        values = values + _attention(own, _norm(values, own["norm1_w"], own["norm1_b"]), heads)
        inner = _norm(values, own["norm2_w"], own["norm2_b"]) @ own["up_w"].T + own["up_b"]
        values = values + np.maximum(inner, 0.0) @ own["down_w"].T + own["down_b"]
    values = _norm(values, arrays["norm_w"], arrays["norm_b"])
    weights = _softmax(values @ arrays["query"] / math.sqrt(values.shape[-1]))
    pooled = (weights[:, None] @ values)[:, 0]
    found: Array = np.maximum(pooled @ arrays["features_w"].T + arrays["features_b"], 0.0)
    return found


def _attention(own: Mapping[str, Array], values: Array, heads: int) -> Array:
    count, frames, width = values.shape
    parts = values @ own["qkv_w"].T + own["qkv_b"]
    parts = parts.reshape(count, frames, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    query, key, value = parts
    weights = _softmax(query @ key.swapaxes(-1, -2) / math.sqrt(width // heads))
    mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(count, frames, width)
    found: Array = mixed @ own["out_w"].T + own["out_b"]
    return found


def _norm(values: Array, weight: Array, bias: Array) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPSILON)
    found: Array = centred / deviation * weight + bias
    return found


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max(-1, keepdims=True))
    found: Array = raised / raised.sum(-1, keepdims=True)
    return found
