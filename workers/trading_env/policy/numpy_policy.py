"""The published policy: named arrays, no pickle, no torch to act with it.

An MLP over the flattened window (oldest frame first): float32 `w0, b0, w1, b1, ...` with w of
shape (out, in), ReLU between the layers and tanh at the end, and four scalars: `updates` (int64,
of the learner), `score` (float64, NaN before an evaluation), `created_ns` (int64, wall clock) and
`kind` (int64): 0 = this MLP, others have features in front of it, see `policy_networks`. Who
publishes and who acts both go through this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import FEATURES, SLOTS, WINDOW
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.networks import FRAMES, TRANSFORMER, Features, features_of

if TYPE_CHECKING:
    from mesh.arrays import Array

MLP = 0
KINDS = (MLP, TRANSFORMER, FRAMES)
INPUTS = WINDOW * FEATURES
SCALARS = {"updates": np.int64, "score": np.float64, "created_ns": np.int64, "kind": np.int64}


def like(hidden: Sequence[int]) -> dict[str, Array]:
    """Return arrays of the shapes of an MLP with these hidden sizes, zero."""
    sizes = [INPUTS, *hidden, SLOTS]
    arrays: dict[str, Array] = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w{layer}"] = np.zeros((outputs, inputs), np.float32)
        arrays[f"b{layer}"] = np.zeros(outputs, np.float32)
    for name, dtype in SCALARS.items():
        arrays[name] = np.zeros((), dtype)
    return arrays


def layers_of(arrays: Mapping[str, Array], inputs: int = INPUTS) -> list[tuple[Array, Array]]:
    """Return the layers of a policy.

    Args:
        arrays: The arrays of a published policy.
        inputs: Inputs of the first layer.

    Returns:
        (w, b) of each layer, float32 (outputs, inputs) and (outputs,).

    Raises:
        InvalidPolicy: An array is missing, of an unknown kind, or of another shape.
    """
    if missing := [name for name in (*SCALARS, "w0", "b0") if name not in arrays]:
        raise InvalidPolicy(f"a policy without {missing[0]!r}; it has {sorted(arrays)}")
    if int(arrays["kind"]) not in KINDS:
        raise InvalidPolicy(f"policy kind {int(arrays['kind'])}, known are {KINDS}")
    layers: list[tuple[Array, Array]] = []
    while f"w{len(layers)}" in arrays:
        weight, bias = arrays[f"w{len(layers)}"], arrays.get(f"b{len(layers)}")
        if bias is None or weight.shape != (bias.size, inputs):
            raise InvalidPolicy(
                f"layer {len(layers)}: weights {weight.shape}, bias "
                f"{None if bias is None else bias.shape}, {inputs} inputs"
            )
        layers.append((weight, bias))
        inputs = bias.size
    if inputs != SLOTS:
        raise InvalidPolicy(f"{inputs} outputs, expected {SLOTS} actions")
    return layers


def checked(arrays: Mapping[str, Array]) -> None:
    """Refuse a policy that is not finite or acts outside [-1, 1].

    Args:
        arrays: The arrays of a published policy.

    Raises:
        InvalidPolicy: The policy must not act; the message names the array.
    """
    PublishedPolicy(arrays)


class PublishedPolicy:
    """A published policy to call: observations (n, 16, 100) to actions float32 (n, 10)."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """Take the arrays of a published policy.

        Raises:
            InvalidPolicy: The arrays are incomplete, not finite, or give invalid actions.
        """
        for name, array in arrays.items():
            if name != "score" and not np.isfinite(array).all():
                raise InvalidPolicy(f"{name!r} is not finite")
        self._features: Features | None = None
        self.kind = int(arrays["kind"]) if "kind" in arrays else MLP
        if self.kind in {TRANSFORMER, FRAMES}:
            self._features, inputs = features_of(self.kind, arrays)
            self._layers = layers_of(arrays, inputs)
        else:
            self._layers = layers_of(arrays)
        probe = np.zeros((2, WINDOW, FEATURES), np.float32)
        probe[1] = 1.0
        with np.errstate(all="ignore"):  # looked at below
            actions = self(probe)
        if not np.isfinite(actions).all() or np.abs(actions).max() > 1.0:
            raise InvalidPolicy("its action for a plain observation is no action")

    def __call__(self, observations: Array) -> Array:
        """Actions without noise."""
        if self._features is not None:
            observations = self._features(observations)
        return act(self._layers, observations)


def act(layers: Sequence[tuple[Array, Array]], observations: Array) -> Array:
    """Return actions float32 (n, 10) for observations (n, 16, 100) or (n, 1600)."""
    values = observations.reshape(len(observations), -1)
    for weight, bias in layers[:-1]:
        values = np.maximum(values @ weight.T + bias, 0.0)
    weight, bias = layers[-1]
    actions: Array = np.tanh(values @ weight.T + bias)
    return actions
