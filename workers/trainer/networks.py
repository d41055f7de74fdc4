"""Parameters in one flat vector a network: an optimiser step and a target update are one call.

The layers are those of stable-baselines3's TD3 MlpPolicy (ReLU, tanh at the actor's end, critics
over observation and action), with the first layer of both critics as one matrix over the
observation and one over the action, and their further layers as one batched matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam, as in torch and stable-baselines3


class Flat:
    """One network's parameters, their gradients, Adam's moments and the target, all flat."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Make everything zero; `views` cut a vector into the shapes."""
        self.shapes = list(shapes)
        size = sum(math.prod(shape) for shape in shapes)
        self.values, self.gradient = torch.zeros(size), torch.zeros(size)
        self.first, self.second = torch.zeros(size), torch.zeros(size)
        self.target = torch.zeros(size)
        self.steps = torch.zeros(())
        self.parameters = self.views(self.values)
        self.gradients = self.views(self.gradient)
        self.targets = self.views(self.target)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Give the parameters as views of a flat vector."""
        views, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            views.append(vector[start : start + size].view(shape))
            start += size
        return views

    def initialise(self, fans: Sequence[int], generator: torch.Generator) -> None:
        """Draw each parameter from U(-1/sqrt(fan), 1/sqrt(fan)), torch's own for Linear."""
        for parameter, fan in zip(self.parameters, fans, strict=True):
            bound = 1.0 / math.sqrt(fan)
            parameter.uniform_(-bound, bound, generator=generator)
        self.target.copy_(self.values)

    def adam(self, learning_rate: float) -> None:
        """Take one step of Adam (Kingma and Ba 2015) along the gradient."""
        self.steps += 1
        torch._fused_adam_(
            [self.values], [self.gradient], [self.first], [self.second], [], [self.steps],
            lr=learning_rate, beta1=BETA1, beta2=BETA2, weight_decay=0.0, eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def follow(self, tau: float) -> None:
        """Move the target by `tau` of the way (Polyak averaging)."""
        self.target.lerp_(self.values, tau)

    def state(self) -> dict[str, Tensor]:
        """Give everything that an update changes."""
        return {
            "values": self.values,
            "first": self.first,
            "second": self.second,
            "target": self.target,
            "steps": self.steps,
        }

    def is_finite(self) -> bool:
        """Tell whether every value is a number (one pass: NaN and infinity survive a sum)."""
        return bool(torch.isfinite(self.values.sum() + self.second.sum()))


def actor_shapes(inputs: int, actions: int, hidden: Sequence[int]) -> list[tuple[int, ...]]:
    """Give (w, b) of three layers."""
    h1, h2 = hidden
    return [(h1, inputs), (h1,), (h2, h1), (h2,), (actions, h2), (actions,)]


def critic_shapes(inputs: int, actions: int, hidden: Sequence[int]) -> list[tuple[int, ...]]:
    """Give the shared first layer (observation, action, bias), then both critics' layers."""
    h1, h2 = hidden
    return [(2 * h1, inputs), (2 * h1, actions), (2 * h1,), (2, h2, h1), (2, h2), (2, h2), (2,)]


def actor(parameters: Sequence[Tensor], observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give both hidden layers (B, h) and the actions (B, a)."""
    w1, b1, w2, b2, w3, b3 = parameters
    first = torch.addmm(b1, observations, w1.t()).relu_()
    second = torch.addmm(b2, first, w2.t()).relu_()
    return first, second, torch.addmm(b3, second, w3.t()).tanh_()


def critics(
    parameters: Sequence[Tensor], observations: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give both hidden layers (2, B, h) and the values (2, B) of both critics."""
    w1, w1a, b1, w2, b2, w3, b3 = parameters
    batch, h1 = observations.shape[0], w2.shape[2]
    first = torch.addmm(b1, actions, w1a.t()).addmm_(observations, w1.t()).relu_()
    pair = first.view(batch, 2, h1).transpose(0, 1)
    second = torch.baddbmm(b2[:, None], pair, w2.transpose(1, 2)).relu_()
    values = torch.baddbmm(b3[:, None, None], second, w3[:, :, None]).squeeze(2)
    return pair, second, values
