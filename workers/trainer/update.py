"""One TD3 update with a backward pass of its own (Fujimoto et al. 2018).

The mathematics is stable-baselines3's TD3.train: twin critics, clipped target noise, the smaller
target value, actor and targets every `policy_delay` updates, the actor after the first critic
alone. Written out, no graph is recorded, no gradient is computed that nobody uses (of critic
weights in the actor's step, of observations anywhere), and nothing is allocated for parameters.
A test compares gradients and weights with autograd's and with stable-baselines3's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.trainer.networks import Flat, actor, actor_shapes, critic_shapes, critics

if TYPE_CHECKING:
    from config.trainer import TrainerConfig


@dataclass
class Batch:
    """Transitions: observations (B, D), actions (B, a), rewards and dones (B,), float32."""

    observations: Tensor
    following: Tensor
    actions: Tensor
    rewards: Tensor
    dones: Tensor


class Learner:
    """Actor and twin critics with their targets and optimisers."""

    def __init__(self, inputs: int, actions: int, config: TrainerConfig) -> None:
        """Draw the weights from the configured seed."""
        self.config = config
        self.inputs = inputs
        self.generator = torch.Generator().manual_seed(config.seed)
        self.actor = Flat(actor_shapes(inputs, actions, config.hidden))
        self.critics = Flat(critic_shapes(inputs, actions, config.hidden))
        h1, h2 = config.hidden
        self.actor.initialise([inputs, inputs, h1, h1, h2, h2], self.generator)
        self.critics.initialise([inputs + actions] * 3 + [h1] * 2 + [h2] * 2, self.generator)
        self.updates = 0
        self.critic_loss = self.actor_loss = 0.0

    def update(self, batch: Batch) -> None:
        """Learn from one batch."""
        config = self.config
        self.updates += 1
        noise = torch.empty_like(batch.actions).normal_(
            0.0, config.policy_noise, generator=self.generator
        )
        noise.clamp_(-config.noise_clip, config.noise_clip)
        self._critic_gradients(batch, noise)
        self.critics.adam(config.learning_rate)
        if self.updates % config.policy_delay == 0:
            self._actor_gradients(batch.observations)
            self.actor.adam(config.learning_rate)
            self.actor.follow(config.tau)
            self.critics.follow(config.tau)

    def is_finite(self) -> bool:
        """Tell whether losses and parameters are numbers."""
        losses = math.isfinite(self.critic_loss) and math.isfinite(self.actor_loss)
        return losses and self.actor.is_finite() and self.critics.is_finite()

    def targets(self, batch: Batch, noise: Tensor) -> Tensor:
        """Give the critics' targets (B,): reward + gamma x the smaller target value."""
        wanted = actor(self.actor.targets, batch.following)[2].add_(noise).clamp_(-1.0, 1.0)
        value = critics(self.critics.targets, batch.following, wanted)[2].amin(0)
        return batch.rewards + (1.0 - batch.dones) * self.config.gamma * value

    def _critic_gradients(self, batch: Batch, noise: Tensor) -> None:
        """d/dθ of the sum of both mean squared errors, into the critics' gradient."""
        size = batch.actions.shape[0]
        first, second, values = critics(self.critics.parameters, batch.observations, batch.actions)
        error = values - self.targets(batch, noise)
        self.critic_loss = float(error.square().mean(1).sum())
        slope = error.mul_(2.0 / size)  # (2, B)
        g_w1, g_w1a, g_b1, g_w2, g_b2, g_w3, g_b3 = self.critics.gradients
        _, _, _, w2, _, w3, _ = self.critics.parameters
        g_b3.copy_(slope.sum(1))
        g_w3.copy_(torch.bmm(slope[:, None], second).squeeze(1))
        back = (slope[:, :, None] * w3[:, None]).mul_(second > 0)  # (2, B, h2)
        g_b2.copy_(back.sum(1))
        torch.bmm(back.transpose(1, 2), first, out=g_w2)
        back = torch.bmm(back, w2).mul_(first > 0)  # (2, B, h1)
        back = back.transpose(0, 1).reshape(size, -1)  # (B, 2 h1)
        g_b1.copy_(back.sum(0))
        torch.mm(back.t(), batch.actions, out=g_w1a)
        torch.mm(back.t(), batch.observations, out=g_w1)

    def _actor_gradients(self, observations: Tensor) -> None:
        """d/dφ of minus the mean value that the first critic gives the actor's actions."""
        size = observations.shape[0]
        w1, w1a, b1, w2, b2, w3, b3 = self.critics.parameters
        h1 = w2.shape[2]
        hidden1, hidden2, actions = actor(self.actor.parameters, observations)
        first = torch.addmm(b1[:h1], actions, w1a[:h1].t())
        first.addmm_(observations, w1[:h1].t()).relu_()
        second = torch.addmm(b2[0], first, w2[0].t()).relu_()
        self.actor_loss = -float((second @ w3[0] + b3[0]).mean())
        back = (w3[0] * (-1.0 / size)).expand_as(second).mul(second > 0)
        back = (back @ w2[0]).mul_(first > 0) @ w1a[:h1]  # (B, a)
        back = back * (1.0 - actions.square())
        g_w1, g_b1, g_w2, g_b2, g_w3, g_b3 = self.actor.gradients
        g_b3.copy_(back.sum(0))
        torch.mm(back.t(), hidden2, out=g_w3)
        back = (back @ self.actor.parameters[4]).mul_(hidden2 > 0)
        g_b2.copy_(back.sum(0))
        torch.mm(back.t(), hidden1, out=g_w2)
        back = (back @ self.actor.parameters[2]).mul_(hidden1 > 0)
        g_b1.copy_(back.sum(0))
        torch.mm(back.t(), observations, out=g_w1)
