"""Networks of Linear and ReLU layers beside each other, with their backward pass written out.

Twin critics, or one actor: K networks of one shape over one input. Their first layers are one
product; what follows goes network by network through layers that lie side by side, (B, K x width),
so that what one product wrote is in the caches for the next. Stacks that run one after the other
use the same memory for their layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.trainer.td3.matmul import Matmul, Matrix

NARROW = 16  # inputs of which one exact product with all of them costs next to nothing


@dataclass(frozen=True)
class Level:
    """Weights and biases of a layer, of every network, and where their gradients go."""

    weights: list[Matrix]  # (out, in) each
    transposed: list[Matrix]  # (in, out)
    biases: list[Matrix]  # (out,)
    gradients: list[Matrix]  # (out, in); empty: not computed
    bias_gradients: list[Matrix]  # (1, out)


@dataclass(frozen=True)
class Input:
    """A part of what the first layer sees, and that part of the first layers of all networks."""

    transposed: Matrix  # weights (in, K x out)
    gradient: Matrix | None  # (K x out, in)
    exact: bool  # its factors are not rounded


class Memory:
    """Matrices that networks use in turn; the next one overwrites what is in them."""

    def __init__(self, device: torch.device, width: int) -> None:
        """Hold matrices of up to `width` columns on `device`."""
        self.device, self._width = device, width
        self._vectors: dict[str, Tensor] = {}

    def matrix(self, key: str, rows: int, columns: int) -> Tensor:
        """Return (rows, columns) float32 at the start of the memory of `key`."""
        vector = self._vectors.get(key)
        if vector is None or len(vector) != rows * self._width:
            vector = self._vectors[key] = torch.zeros(rows * self._width, device=self.device)
        return vector[: rows * columns].view(rows, columns)


class Layer:
    """Values of a layer for one size of batch, as a whole and network by network."""

    def __init__(self, matmul: Matmul, tensor: Tensor, count: int) -> None:
        """Take (B, K x width)."""
        parts = tensor.chunk(count, 1)
        self.tensor = tensor
        self.whole, self.transposed = matmul.matrix(tensor), matmul.matrix(tensor.t())
        self.parts = [matmul.matrix(part) for part in parts]
        self.transposed_parts = [matmul.matrix(part.t()) for part in parts]


class FusedMlp:
    """K networks over one input, which may come in parts: observations, and actions."""

    def __init__(
        self,
        matmul: Matmul,
        memory: Memory,
        key: str,
        parameters: Sequence[Tensor],
        gradient: Sequence[Tensor] = (),
        *,
        inputs: Sequence[int],
        actions: int = 0,
    ) -> None:
        """Bind parameters, whose memory is read (gradients: written) at each call.

        Args:
            matmul: what multiplies.
            memory: where the layers' values lie, at `key` and their number; gradients with respect
                to them lie at "back".
            key: of the layers in `memory`.
            parameters: weight (K, out, in) and bias (K, out) of each layer, float32.
            gradient: the same shapes; empty: gradients of parameters are not computed.
            inputs: widths of the parts of the first layer's input.
            actions: how many of the last inputs are the action.
        """
        self.matmul = matmul
        self.count = parameters[0].shape[0]
        self.widths = [weight.shape[1] for weight in parameters[::2]]
        self._memory, self._key = memory, key
        matrix = matmul.matrix
        first = parameters[0].flatten(0, 1)
        first_gradient = gradient[0].flatten(0, 1) if gradient else None
        self._inputs: list[Input] = []
        for end, width in zip(accumulate(inputs), inputs, strict=True):
            part = slice(end - width, end)
            self._inputs.append(
                Input(
                    matrix(first[:, part].t()),
                    None if first_gradient is None else matrix(first_gradient[:, part]),
                    exact=len(self._inputs) > 0 or width <= NARROW,
                )
            )
        self._bias = matrix(parameters[1].view(-1))
        self._bias_gradient = matrix(gradient[1].view(1, -1)) if gradient else None
        self._action_weights = matrix(first[:, first.shape[1] - actions :])
        self._levels = [
            Level(
                [matrix(weight) for weight in parameters[at]],
                [matrix(weight.t()) for weight in parameters[at]],
                [matrix(bias) for bias in parameters[at + 1]],
                [matrix(weight) for weight in gradient[at]] if gradient else [],
                [matrix(bias[None]) for bias in gradient[at + 1]] if gradient else [],
            )
            for at in range(2, len(parameters), 2)
        ]
        self._layers: list[Layer] = []
        self._backs: list[Layer] = []
        self._action_gradient = torch.empty(0, actions)

    @property
    def values(self) -> Tensor:
        """The newest output (B, K x out); before `backward` the caller puts d loss / d it there."""
        return self._layers[-1].tensor

    def forward(self, *parts: Matrix) -> Tensor:
        """Compute all networks.

        Args:
            parts: the input (B, n) in parts of the widths `inputs`, as `Matmul.matrix` or
                `Matmul.factor` returned them.

        Returns:
            The output (B, K x out); the next call overwrites it.
        """
        self._allocate(len(parts[0]))
        product, layers, last = self.matmul.product, self._layers, len(parts) - 1
        for number, (part, seen) in enumerate(zip(parts, self._inputs, strict=True)):
            product(
                layers[0].whole,
                part,
                seen.transposed,
                bias=None if number else self._bias,
                add=number > 0,
                relu=number == last,
                exact=seen.exact,
            )
        for k in range(self.count):
            for number, level in enumerate(self._levels, 1):
                is_last = number == len(self._levels)
                product(
                    layers[number].parts[k],
                    layers[number - 1].parts[k],
                    level.transposed[k],
                    bias=level.biases[k],
                    relu=not is_last,
                    exact=is_last,
                )
        return self.values

    def backward(self, *parts: Matrix) -> None:
        """Compute gradients from d loss / d output, which the caller put into `values`.

        Args:
            parts: the input of `forward`; needed where gradients of parameters are computed.
        """
        for k in range(self.count):
            back = self._layers[-1]
            for number in range(len(self._levels), 0, -1):
                self._back_through(number, k, back)
                back = self._backs[number - 1]
        if self._bias_gradient is None:
            return
        product, back = self.matmul.product, self._backs[0]
        for part, seen in zip(parts, self._inputs, strict=True):
            product(seen.gradient, back.transposed, part, exact=seen.exact)
        self.matmul.column_sum(self._bias_gradient, back.whole)

    def _back_through(self, number: int, k: int, back: Layer) -> None:
        """Take the gradient of network k from layer `number` to the layer below it."""
        product, level, below = (
            self.matmul.product,
            self._levels[number - 1],
            self._layers[number - 1],
        )
        is_last = number == len(self._levels)
        if level.gradients:
            product(level.gradients[k], back.transposed_parts[k], below.parts[k], exact=is_last)
            self.matmul.column_sum(level.bias_gradients[k], back.parts[k])
        product(
            self._backs[number - 1].parts[k],
            back.parts[k],
            level.weights[k],
            mask=below.parts[k],
            exact=is_last,
        )

    def action_gradient(self) -> Tensor:
        """Return d loss / d actions (B, a), after `backward`."""
        product = self.matmul.product
        product(
            self.matmul.matrix(self._action_gradient),
            self._backs[0].whole,
            self._action_weights,
            exact=True,
        )
        return self._action_gradient

    def _allocate(self, size: int) -> None:
        if self._layers and len(self.values) == size:
            return
        matmul, count, memory = self.matmul, self.count, self._memory
        hidden = [count * width for width in self.widths[:-1]]

        def layers(key: str) -> list[Layer]:
            return [
                Layer(matmul, memory.matrix(f"{key} {number}", size, width), count)
                for number, width in enumerate(hidden)
            ]

        values = torch.zeros(size, count * self.widths[-1], device=memory.device)
        self._layers = [*layers(self._key), Layer(matmul, values, count)]
        self._backs = layers("back")
        self._action_gradient = torch.zeros(
            size, self._action_gradient.shape[1], device=memory.device
        )
