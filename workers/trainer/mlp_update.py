"""The update of a plain MLP with its backward pass written out.

No graph is recorded and no gradient computed that nobody uses (of critic weights in the actor's
step, of observations anywhere). The first layers of all critics are one matrix product over the
observation and one over the action, their further layers batched products. A test compares
gradients and weights with autograd's and with stable-baselines3's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor, nn

from workers.trainer.update import Update

if TYPE_CHECKING:
    from stable_baselines3.common.policies import ContinuousCritic
    from stable_baselines3.common.type_aliases import ReplayBufferSamples


def not_plain(policy: TD3Policy) -> str:
    """Give why this policy is not the plain MLP that is known here; empty: it is.

    Known is stable-baselines3's MlpPolicy: the flattened observation through Linear and ReLU
    layers, tanh at the actor's end, any number of critics, at least one hidden layer.
    """
    space = policy.observation_space
    if not isinstance(space, spaces.Box) or is_image_space(space):
        return f"observations are {space}, not a box of plain numbers"
    for network in (policy.actor, policy.critic):
        if type(network.features_extractor) is not FlattenExtractor:
            return f"features come from {type(network.features_extractor).__name__}"
    return not_plain_layers(policy)


def not_plain_layers(policy: TD3Policy) -> str:
    """Give why what comes after the features is no stack of Linear and ReLU; empty: it is."""
    if type(policy.actor) is not Actor:
        return f"the actor is a {type(policy.actor).__name__}"
    stacks = [*policy.critic.q_networks, policy.actor.mu]
    wanted = [nn.Linear, nn.ReLU]
    for number, stack in enumerate(stacks):
        kinds = [type(layer) for layer in stack.children()]
        ending = [nn.Linear] if number < len(stacks) - 1 else [nn.Linear, nn.Tanh]
        inner = kinds[: len(kinds) - len(ending)]
        if not inner or kinds != wanted * (len(inner) // 2) + ending:
            return f"its layers are {[kind.__name__ for kind in kinds]}"
    return ""


def actor_parameters(actor: Actor) -> list[nn.Parameter]:
    """Give weight and bias of each layer."""
    return list(actor.mu.parameters())


def critic_parameters(critic: ContinuousCritic) -> list[nn.Parameter]:
    """Give the weights of the first layer of all critics, their biases, the next layer's, ..."""
    stacks = [list(stack.parameters()) for stack in critic.q_networks]
    return [parameter for level in zip(*stacks, strict=True) for parameter in level]


class MlpUpdate(Update):
    """TD3 for stable-baselines3's MlpPolicy."""

    def __init__(
        self, policy: TD3Policy, generator: torch.Generator | None = None, *, half: bool = False
    ) -> None:
        """Bind a policy for which `not_plain` gives nothing.

        With `half` the factors of matrix products are rounded to bfloat16 (sums, parameters and
        everything else stay float32): twice as fast where the processor has the units.
        """
        super().__init__(
            policy,
            (actor_parameters(policy.actor), actor_parameters(policy.actor_target)),
            (critic_parameters(policy.critic), critic_parameters(policy.critic_target)),
            generator,
        )
        self.half = half
        self._count = len(policy.critic.q_networks)
        counts = [self._count] * (len(self.critics.shapes) // self._count)
        self._actor = self.actor.views(self.actor.values)
        self._actor_target = self.actor.views(self.actor.target)
        self._actor_gradient = self.actor.views(self.actor.gradient)
        self._critics = self.critics.stacked(self.critics.values, counts)
        self._critic_targets = self.critics.stacked(self.critics.target, counts)
        self._critic_gradient = self.critics.stacked(self.critics.gradient, counts)

    def targets(self, batch: ReplayBufferSamples, noise: Tensor, gamma: float) -> Tensor:
        """Give the critics' targets (B,): reward + discount x the smallest target value."""
        following = self._factor(batch.next_observations.flatten(1))
        wanted = act(self._actor_target, following)[-1].add_(noise).clamp_(-1.0, 1.0)
        value = evaluate(self._critic_targets, following, wanted)[-1].amin(0)
        discount = gamma if batch.discounts is None else batch.discounts.view(-1)
        return batch.rewards.view(-1) + (1.0 - batch.dones.view(-1)) * discount * value

    def critic_gradients(
        self,
        batch: ReplayBufferSamples,
        noise: Tensor,
        gamma: float,
        weights: Tensor | None = None,
    ) -> Tensor:
        """d/dθ of the sum of the critics' mean squared errors, into the critics' gradient."""
        observations, actions = self._factor(batch.observations.flatten(1)), batch.actions
        size, width = observations.shape
        layers = evaluate(self._critics, observations, actions)
        error = layers.pop() - self.targets(batch, noise, gamma)
        if weights is None:
            loss = error.square().mean(1).sum()
        else:
            self.errors = error.abs().amax(0)
            loss = (error.square() * weights.view(-1)).mean(1).sum()
            error.mul_(weights.view(-1))
        error.mul_(2.0 / size)  # (K, B)
        back = self._back_through_values(self._critics, error, layers[-1], self._critic_gradient)
        for level in range(len(layers) - 1, 0, -1):
            back = self._back_through(level, back, layers[level - 1])
        torch.sum(back, 0, out=self._critic_gradient[1].view(-1))
        first = self._critic_gradient[0].flatten(0, 1)
        self._put(first[:, :width], back.t(), observations)
        torch.mm(back.t(), actions, out=first[:, width:])
        return loss

    def _back_through_values(
        self,
        parameters: Sequence[Tensor],
        error: Tensor,
        hidden: Tensor,
        gradient: Sequence[Tensor] | None,
    ) -> Tensor:
        """From d/d values (K, B) to d/d the last hidden layer's input, (B, K h)."""
        weight = parameters[-2]
        count, _, height = weight.shape
        if gradient is not None:
            torch.sum(error, 1, keepdim=True, out=gradient[-1])
        back = torch.empty_like(hidden)
        for k, part in enumerate(_parts(height, count)):
            if gradient is not None:
                torch.mv(hidden[:, part].t(), error[k], out=gradient[-2][k, 0])
            torch.outer(error[k], weight[k, 0], out=back[:, part])
        return _through_relu(back, hidden)

    def _back_through(self, level: int, back: Tensor, below: Tensor) -> Tensor:
        """Put a level's gradients in their place; from d/d its output to d/d the one below."""
        weight, bias = self._critic_gradient[2 * level], self._critic_gradient[2 * level + 1]
        torch.sum(back, 0, out=bias.view(-1))
        count, height, lower = weight.shape
        factors, lower_factors = self._factor(back), self._factor(below)
        found = torch.empty_like(below)
        parts = zip(_parts(height, count), _parts(lower, count), strict=True)
        for k, (part, lower_part) in enumerate(parts):
            self._put(weight[k], factors[:, part].t(), lower_factors[:, lower_part])
            self._put(found[:, lower_part], factors[:, part], self._critics[2 * level][k])
        return _through_relu(found, below)

    def actor_gradients(self, batch: ReplayBufferSamples) -> Tensor:
        """d/dφ of minus the mean value that the first critic gives the actor's actions."""
        observations = self._factor(batch.observations.flatten(1))
        size, width = observations.shape
        layers = act(self._actor, observations)
        actions = layers.pop()
        critic = [parameter[:1] for parameter in self._critics]
        hidden = evaluate(critic, observations, actions)
        loss = -hidden.pop().mean()
        back = torch.full((1, size), -1.0 / size, device=observations.device)
        back = self._back_through_values(critic, back, hidden[-1], None)
        for level in range(len(hidden) - 1, 0, -1):
            below = torch.empty_like(hidden[level - 1])
            self._put(below, back, critic[2 * level][0])
            back = _through_relu(below, hidden[level - 1])
        back = (back @ critic[0][0, :, width:]) * (1.0 - actions.square())  # (B, a)
        for level in range(len(layers), -1, -1):
            below = layers[level - 1] if level else observations
            torch.sum(back, 0, out=self._actor_gradient[2 * level + 1])
            self._put(self._actor_gradient[2 * level], back.t(), below)
            if level:
                lower = torch.empty_like(below)
                self._put(lower, back, self._actor[2 * level])
                back = _through_relu(lower, below)
        return loss

    def _factor(self, values: Tensor) -> Tensor:
        return values.bfloat16() if self.half else values

    def _put(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        """Write a product of matrices into `out`, a part of something."""
        if self.half:
            out.copy_(left.bfloat16() @ right.bfloat16())
        else:
            torch.mm(left, right, out=out)


def act(parameters: Sequence[Tensor], observations: Tensor) -> list[Tensor]:
    """Give every hidden layer (B, h) and at last the actions (B, a).

    Observations of bfloat16 let the hidden layers be computed from rounded factors.
    """
    half = observations.dtype == torch.bfloat16
    layers = []
    values = observations
    for level in range(0, len(parameters) - 2, 2):
        weight, bias = parameters[level], parameters[level + 1]
        if half:
            values = (values.bfloat16() @ weight.bfloat16().t()).float().add_(bias).relu_()
        else:
            values = torch.addmm(bias, values, weight.t()).relu_()
        layers.append(values)
    layers.append(torch.addmm(parameters[-1], values, parameters[-2].t()).tanh_())
    return layers


def evaluate(parameters: Sequence[Tensor], observations: Tensor, actions: Tensor) -> list[Tensor]:
    """Give every hidden layer (B, K h), critic beside critic, and the values (K, B)."""
    half = observations.dtype == torch.bfloat16
    count = parameters[0].shape[0]
    size, width = observations.shape
    first = parameters[0].flatten(0, 1)
    values = torch.addmm(parameters[1].view(-1), actions, first[:, width:].t())
    if half:
        values = values.add_(observations @ first[:, :width].bfloat16().t()).relu_()
    else:
        values = values.addmm_(observations, first[:, :width].t()).relu_()
    layers = [values]
    for level in range(2, len(parameters) - 2, 2):
        weight, bias = parameters[level], parameters[level + 1]
        height, lower = weight.shape[1:]
        found = torch.empty(size, count * height, device=values.device)
        factors = values.bfloat16() if half else values
        parts = zip(_parts(height, count), _parts(lower, count), strict=True)
        for k, (part, lower_part) in enumerate(parts):
            if half:
                found[:, part] = factors[:, lower_part] @ weight[k].bfloat16().t()
                found[:, part].add_(bias[k])
            else:
                torch.addmm(bias[k], factors[:, lower_part], weight[k].t(), out=found[:, part])
        values = found.relu_()
        layers.append(values)
    weight, bias = parameters[-2], parameters[-1]
    found = torch.empty(count, size, device=values.device)
    for k, part in enumerate(_parts(weight.shape[2], count)):
        torch.mv(values[:, part], weight[k, 0], out=found[k])
    layers.append(found.add_(bias))
    return layers


def _parts(width: int, count: int) -> list[slice]:
    """The columns of each critic in a layer of all."""
    return [slice(k * width, (k + 1) * width) for k in range(count)]


def _through_relu(back: Tensor, values: Tensor) -> Tensor:
    """Let through what was positive, in place and in one pass."""
    torch.ops.aten.threshold_backward.grad_input(back, values, 0.0, grad_input=back)
    return back
