"""Networks of Linear and ReLU layers beside each other, with their backward pass written out.

Twin critics, or one actor: K networks of one shape over one observation. The first layers of all
are one product over the observation and one over the action; what follows goes network by network
through layers that lie side by side, (B, K x width). Layers and what goes back through them are
kept in memory that the next batch of the same size uses again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.trainer.products import Matrix, Products


@dataclass(frozen=True)
class Level:
    """Weights and biases of a layer, of every network, and where their gradients go."""

    weights: list[Matrix]  # (out, in) each
    turned: list[Matrix]  # (in, out)
    biases: list[Matrix]  # (out,)
    gradients: list[Matrix]  # (out, in); empty: nobody wants them
    bias_gradient: Tensor | None  # (K x out,)


class Layer:
    """Values of a layer for one size of batch, as a whole and network by network."""

    def __init__(self, products: Products, tensor: Tensor, count: int) -> None:
        """Take (B, K x width)."""
        parts = tensor.chunk(count, 1)
        self.tensor = tensor
        self.whole, self.turned = products.matrix(tensor), products.matrix(tensor.t())
        self.parts = [products.matrix(part) for part in parts]
        self.turned_parts = [products.matrix(part.t()) for part in parts]


class Stack:
    """K networks over observations, and actions where they are critics."""

    def __init__(
        self,
        products: Products,
        parameters: Sequence[Tensor],
        gradient: Sequence[Tensor] = (),
        *,
        actions: int = 0,
    ) -> None:
        """Take weight (K, out, in) and bias (K, out) of each layer, and the same of gradients.

        The last `actions` inputs of the first layer are the action. The memory of parameters and
        gradients is used as it is at each call.
        """
        self.products = products
        self.device = parameters[0].device
        self.count = parameters[0].shape[0]
        self.widths = [weight.shape[1] for weight in parameters[::2]]
        given = parameters[0].shape[2] - actions
        matrix = products.matrix
        first = parameters[0].flatten(0, 1)
        self._observed, self._acted = matrix(first[:, :given].t()), matrix(first[:, given:])
        self._acted_turned = matrix(first[:, given:].t())
        self._bias = matrix(parameters[1].view(-1))
        self._has_gradient, self._has_actions = bool(gradient), actions > 0
        if gradient:
            first = gradient[0].flatten(0, 1)
            self._observed_gradient = matrix(first[:, :given])
            self._acted_gradient = matrix(first[:, given:])
            self._bias_gradient = gradient[1].view(-1)
        self._levels = [
            Level(
                [matrix(weight) for weight in parameters[at]],
                [matrix(weight.t()) for weight in parameters[at]],
                [matrix(bias) for bias in parameters[at + 1]],
                [matrix(weight) for weight in gradient[at]] if gradient else [],
                gradient[at + 1].view(-1) if gradient else None,
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

    def forward(self, observations: Matrix, actions: Matrix | None = None) -> Tensor:
        """Give the values (B, K x out) for observations (B, n) and actions (B, a)."""
        self._make_room(len(observations))
        into, layers = self.products.into, self._layers
        into(layers[0].whole, observations, self._observed, bias=self._bias, relu=actions is None)
        if actions is not None:
            into(layers[0].whole, actions, self._acted_turned, add=True, relu=True, exact=True)
        for number, level in enumerate(self._levels, 1):
            is_last = number == len(self._levels)
            below, above = layers[number - 1].parts, layers[number].parts
            for k in range(self.count):
                into(above[k], below[k], level.turned[k], bias=level.biases[k], relu=not is_last,
                     exact=is_last)  # fmt: skip
        return self.values

    def backward(self, observations: Matrix, actions: Matrix | None = None) -> None:
        """Go back from d loss / d values, which the caller put into `values`.

        Gradients of weights and biases go to their place where there is one.
        """
        into, back = self.products.into, self._layers[-1]
        for number in range(len(self._levels), 0, -1):
            level, is_last = self._levels[number - 1], number == len(self._levels)
            below, further = self._layers[number - 1], self._backs[number - 1]
            if level.bias_gradient is not None:
                torch.sum(back.tensor, 0, out=level.bias_gradient)
            for k in range(self.count):
                if level.gradients:
                    into(level.gradients[k], back.turned_parts[k], below.parts[k], exact=is_last)
                into(further.parts[k], back.parts[k], level.weights[k], mask=below.parts[k],
                     exact=is_last)  # fmt: skip
            back = further
        if self._has_gradient:
            torch.sum(back.tensor, 0, out=self._bias_gradient)
            into(self._observed_gradient, back.turned, observations)
            if actions is not None:
                into(self._acted_gradient, back.turned, actions, exact=True)

    def to_actions(self) -> Tensor:
        """Give d loss / d actions (B, a), after `backward`."""
        into = self.products.into
        into(self.products.matrix(self._to_actions), self._backs[0].whole, self._acted, exact=True)
        return self._to_actions

    def _make_room(self, size: int) -> None:
        if self._layers and len(self.values) == size:
            return
        products, count = self.products, self.count

        def rooms(widths: list[int]) -> list[Layer]:
            shapes = [(size, count * width) for width in widths]
            return [
                Layer(products, torch.zeros(shape, device=self.device), count) for shape in shapes
            ]

        self._layers, self._backs = rooms(self.widths), rooms(self.widths[:-1])
        self._to_actions = torch.zeros(size, self._to_actions.shape[1], device=self.device)
