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
    gradients: list[Matrix]  # (out, in); empty: nobody wants them
    bias_gradients: list[Matrix]  # (1, out)


@dataclass(frozen=True)
class Input:
    """A part of what the first layer sees, and that part of the first layers of all networks."""

    transposed: Matrix  # weights (in, K x out)
    gradient: Matrix | None  # (K x out, in)
    exact: bool  # its factors are not rounded


class Memory:
    """Matrices that stacks use in turn; what is left in them is lost when the next one writes."""

    def __init__(self, device: torch.device, width: int) -> None:
        """Return matrices of up to `width` columns."""
        self.device, self._width = device, width
        self._places: dict[str, Tensor] = {}

    def matrix(self, place: str, rows: int, columns: int) -> Tensor:
        """Return (rows, columns) at the start of a place."""
        there = self._places.get(place)
        if there is None or len(there) != rows * self._width:
            there = self._places[place] = torch.zeros(rows * self._width, device=self.device)
        return there[: rows * columns].view(rows, columns)


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
        place: str,
        parameters: Sequence[Tensor],
        gradient: Sequence[Tensor] = (),
        *,
        inputs: Sequence[int],
        actions: int = 0,
    ) -> None:
        """Take weight (K, out, in) and bias (K, out) of each layer, and the same of gradients.

        `inputs` are the widths of the parts of the first layer's input, its last `actions` are the
        action. Layers lie in `memory` at `place` and their number, what goes back through them at
        "back". The memory of parameters and gradients is used as it is at each call.
        """
        self.matmul = matmul
        self.count = parameters[0].shape[0]
        self.widths = [weight.shape[1] for weight in parameters[::2]]
        self._memory, self._place = memory, place
        matrix = matmul.matrix
        first = parameters[0].flatten(0, 1)
        places = gradient[0].flatten(0, 1) if gradient else None
        self._inputs: list[Input] = []
        for end, width in zip(accumulate(inputs), inputs, strict=True):
            part = slice(end - width, end)
            self._inputs.append(
                Input(
                    matrix(first[:, part].t()),
                    None if places is None else matrix(places[:, part]),
                    exact=len(self._inputs) > 0 or width <= NARROW,
                )
            )
        self._bias = matrix(parameters[1].view(-1))
        self._bias_gradient = matrix(gradient[1].view(1, -1)) if gradient else None
        self._acted = matrix(first[:, first.shape[1] - actions :])
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
        self._to_actions = torch.empty(0, actions)

    @property
    def values(self) -> Tensor:
        """What came out last, (B, K x out); before `backward`: d loss / d it."""
        return self._layers[-1].tensor

    def forward(self, *parts: Matrix) -> Tensor:
        """Return the values (B, K x out) for the parts of the input, (B, n) each."""
        self._make_room(len(parts[0]))
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
        """Go back from d loss / d values, which the caller put into `values`.

        Gradients of weights and biases go to their place where there is one; they need the parts of
        the input.
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
        """From what went back to the layer `number` of network k to the layer below it."""
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

    def to_actions(self) -> Tensor:
        """Return d loss / d actions (B, a), after `backward`."""
        product = self.matmul.product
        product(self.matmul.matrix(self._to_actions), self._backs[0].whole, self._acted, exact=True)
        return self._to_actions

    def _make_room(self, size: int) -> None:
        if self._layers and len(self.values) == size:
            return
        matmul, count, memory = self.matmul, self.count, self._memory
        hidden = [count * width for width in self.widths[:-1]]

        def rooms(place: str) -> list[Layer]:
            return [
                Layer(matmul, memory.matrix(f"{place} {number}", size, width), count)
                for number, width in enumerate(hidden)
            ]

        values = torch.zeros(size, count * self.widths[-1], device=memory.device)
        self._layers = [*rooms(self._place), Layer(matmul, values, count)]
        self._backs = rooms("back")
        self._to_actions = torch.zeros(size, self._to_actions.shape[1], device=memory.device)
