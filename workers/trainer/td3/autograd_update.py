"""The update of any policy, its gradients by autograd.

What stable-baselines3 spends beside the matrix products is saved all the same: optimiser and
targets are one fused call each, gradients are cleared by one, no loss is read by the host, and the
actor's step computes no gradient of the critics' weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from torch import Tensor
from torch.nn import functional

from workers.trainer.td3.update import Update, UpdateHyperparameters

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
    from stable_baselines3.td3.policies import TD3Policy


def not_bindable(policy: TD3Policy) -> str:
    """Return why the policy's parameters cannot lie in flat vectors; empty: they can."""
    networks = (policy.actor, policy.critic)
    owners = [{id(parameter) for parameter in network.parameters()} for network in networks]
    if owners[0] & owners[1]:
        return "actor and critics share parameters"
    for network in networks:
        if any(p.dtype != torch.float32 or not p.requires_grad for p in network.parameters()):
            return "some parameters are no trainable float32"
        optimizer = network.optimizer
        group = optimizer.param_groups[0]
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return f"the optimiser is {type(optimizer).__name__}"
        options = ("amsgrad", "maximize", "decoupled_weight_decay")
        if given := [name for name in options if group.get(name)]:
            return f"Adam with {', '.join(given)}"
    return ""


class AutogradUpdate(Update):
    """TD3 for a policy with features extractors, batch norm, any layers."""

    def __init__(self, policy: TD3Policy, generator: torch.Generator | None = None) -> None:
        """Bind a policy for which `not_bindable` returns an empty text."""
        super().__init__(
            policy,
            (list(policy.actor.parameters()), list(policy.actor_target.parameters())),
            (list(policy.critic.parameters()), list(policy.critic_target.parameters())),
            generator,
        )
        self._statistics = [
            (get_parameters_by_name(own, ["running_"]), get_parameters_by_name(other, ["running_"]))
            for own, other in (
                (policy.critic, policy.critic_target),
                (policy.actor, policy.actor_target),
            )
        ]

    def update(
        self,
        batch: ReplayBufferSamples,
        hyperparameters: UpdateHyperparameters,
        weights: Tensor | None = None,
    ) -> None:
        """Learn from one batch; the targets take over running statistics as they are."""
        super().update(batch, hyperparameters, weights)
        if self.updates % hyperparameters.policy_delay == 0:
            for own, other in self._statistics:
                polyak_update(own, other, 1.0)

    def critic_gradients(
        self,
        batch: ReplayBufferSamples,
        noise: Tensor,
        gamma: float,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Ask autograd; gradients are added into the cleared vector."""
        policy = self.policy
        following = batch.next_observations
        wanted = (policy.actor_target(following) + noise).clamp_(-1.0, 1.0)
        value = torch.cat(policy.critic_target(following, wanted), dim=1).amin(1, keepdim=True)
        discount = gamma if batch.discounts is None else batch.discounts
        target = batch.rewards + (1.0 - batch.dones) * discount * value
        self.critics.gradient.zero_()
        with torch.enable_grad():
            values = torch.stack(policy.critic(batch.observations, batch.actions))
            if weights is None:
                loss = functional.mse_loss(values, target.expand_as(values)) * len(values)
            else:
                errors = values - target
                self.errors = errors.detach().abs().amax(0).view(-1)
                loss = (errors.square() * weights).mean() * len(values)
            loss.backward()  # type: ignore[no-untyped-call] # torch does not annotate it
        return loss.detach()

    def actor_gradients(self, batch: ReplayBufferSamples) -> Tensor:
        """Ask autograd for the actor alone: the critics stand still."""
        policy = self.policy
        self.actor.gradient.zero_()
        policy.critic.requires_grad_(requires_grad=False)
        try:
            with torch.enable_grad():
                actions = policy.actor(batch.observations)
                loss = -policy.critic.q1_forward(batch.observations, actions).mean()
                loss.backward()  # type: ignore[no-untyped-call] # torch does not annotate it
        finally:
            policy.critic.requires_grad_(requires_grad=True)
        return loss.detach()
