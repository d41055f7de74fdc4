"""A network's parameters in one flat vector: an optimiser step and a target update are one call.

The module's own parameters become views of the vector, so that `predict`, `state_dict`, `save` and
everything else of stable-baselines3 see the same memory without a copy. Adam's moments and the
target network lie beside it in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from workers.trainer.td3 import _adam
from workers.trainer.td3.matmul import on_one_thread

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam, as in torch and stable-baselines3
LINE = 16  # floats of a cache line


def vectors(count: int, size: int, device: torch.device) -> list[Tensor]:
    """Return `count` vectors of zeros, (size,) each.

    On a processor they are one array: NumPy asks for huge pages where it is large enough (4 MiB),
    and products that read weights from memory are 2 % faster then.
    """
    if device.type != "cpu":
        return [torch.zeros(size, device=device) for _ in range(count)]
    apart = math.ceil(size / LINE) * LINE
    memory = np.empty(count * apart + LINE, np.float32)
    start = -memory.ctypes.data % (4 * LINE) // 4
    memory.fill(0.0)
    whole = memory[start : start + count * apart].reshape(count, apart)
    # a storage of its own each: torch saves and copies the whole storage of a view
    return [torch.from_numpy(row) for row in whole[:, :size]]


class FlatParameters:
    """The parameters of one network, their gradients, Adam's moments and the target, all flat."""

    def __init__(self, parameters: Sequence[nn.Parameter], targets: Sequence[nn.Parameter]) -> None:
        """Move parameters into flat vectors; the modules keep views of them.

        Args:
            parameters: of the network, in the order of the vector, float32 on one device.
            targets: those of the target network, of the same shapes.
        """
        self.shapes = [tuple(p.shape) for p in parameters]
        device = parameters[0].device
        size = sum(p.numel() for p in parameters)
        self.values, self.gradient, self.first, self.second, self.target = vectors(5, size, device)
        self.steps = torch.zeros((), device=device)
        parts = (self.values, self.gradient, self.first, self.second, self.target)
        #: On one thread of a processor the step is one of our own: one pass for all of it.
        self._arrays = [part.numpy() for part in parts] if on_one_thread(device) else []
        self.betas, self.epsilon, self.weight_decay = BETAS, EPSILON, 0.0
        self._bound = [
            *self._bind(parameters, self.values),
            *self._bind(targets, self.target),
        ]
        for parameter, view in zip(parameters, self.views(self.gradient), strict=True):
            parameter.grad = view

    def _bind(
        self, parameters: Sequence[nn.Parameter], vector: Tensor
    ) -> list[tuple[nn.Parameter, int]]:
        views = self.views(vector)
        for parameter, view in zip(parameters, views, strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        return [(p, view.data_ptr()) for p, view in zip(parameters, views, strict=True)]

    def is_bound(self) -> bool:
        """Return whether the parameters still are the views that were made of them."""
        return all(parameter.data_ptr() == place for parameter, place in self._bound)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the parameters as views of a flat vector."""
        views, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            views.append(vector[start : start + size].view(shape))
            start += size
        return views

    def stacked(self, vector: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Return views that join runs of parameters of one shape.

        Args:
            vector: flat (size,), in the order of the parameters.
            counts: length of each run.

        Returns:
            A view (count, *shape) for each run.
        """
        views, start, at = [], 0, 0
        for count in counts:
            shape = self.shapes[at]
            size = count * math.prod(shape)
            views.append(vector[start : start + size].view(count, *shape))
            start += size
            at += count
        return views

    def step(self, loss: Tensor, learning_rate: float, tau: float) -> Tensor | float:
        """Take one step of Adam (Kingma and Ba 2015, Algorithm 1) along `gradient`.

        The decision whether gradient and loss are finite is made on the device; the host does not
        wait for it.

        Args:
            loss: of this gradient ().
            learning_rate: of the step.
            tau: share by which the target then moves to the parameters (Polyak averaging); 0: the
                target stays.

        Returns:
            0 where the step was taken; 1 where gradient or loss are not finite and parameters,
            moments and count stay as they were.
        """
        beta1, beta2 = self.betas
        if self._arrays:
            values, gradient, first, second, target = self._arrays
            sound = _adam.step(
                values,
                gradient,
                first,
                second,
                target if tau > 0.0 else None,
                float(loss),
                float(self.steps) + 1.0,
                learning_rate,
                beta1,
                beta2,
                self.epsilon,
                self.weight_decay,
                tau,
            )
            self.steps += sound
            return float(not sound)
        found_inf = (~torch.isfinite(self.gradient.sum() + loss)).float()
        self.steps += 1.0 - found_inf
        torch._fused_adam_(
            [self.values],
            [self.gradient],
            [self.first],
            [self.second],
            [],
            [self.steps],
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=found_inf,
        )
        if tau > 0.0:
            self.target.lerp_(self.values, tau)
        return found_inf

    def state(self) -> dict[str, Tensor]:
        """Return everything that an update changes."""
        return {
            "values": self.values,
            "first": self.first,
            "second": self.second,
            "target": self.target,
            "steps": self.steps,
        }

    def is_finite(self) -> bool:
        """Return whether every value is a number (one pass: NaN and infinity survive a sum)."""
        return bool(torch.isfinite(self.values.sum() + self.second.sum() + self.target.sum()))

    def adopt_settings(self, optimizer: torch.optim.Optimizer) -> None:
        """Use betas, epsilon and weight decay of an Adam, and the moments it may have."""
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        self.betas, self.epsilon = (float(beta1), float(beta2)), float(group["eps"])
        self.weight_decay = float(group["weight_decay"])
        moments = zip(self.views(self.first), self.views(self.second), strict=True)
        for parameter, (first, second) in zip(self._own(), moments, strict=True):
            if state := optimizer.state.get(parameter):
                first.copy_(state["exp_avg"])
                second.copy_(state["exp_avg_sq"])
                self.steps.fill_(float(state["step"]))

    def export_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the moments into the optimiser, as it would hold them had it made the steps."""
        if float(self.steps) == 0.0:
            return
        moments = zip(self.views(self.first), self.views(self.second), strict=True)
        for parameter, (first, second) in zip(self._own(), moments, strict=True):
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.steps)),
                "exp_avg": first.clone(),
                "exp_avg_sq": second.clone(),
            }

    def _own(self) -> list[nn.Parameter]:
        return [parameter for parameter, _ in self._bound[: len(self.shapes)]]
