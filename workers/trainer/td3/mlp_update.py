"""The update of a plain MLP with its backward pass written out.

No graph is recorded and no gradient computed that nobody uses (of critic weights in the actor's
step, of observations anywhere): `fused_mlp.py` has the layers. A test compares
gradients and weights with autograd's and with stable-baselines3's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor, nn

from workers.trainer.td3.fused_mlp import NARROW, FusedMlp, Memory
from workers.trainer.td3.matmul import Matmul, Matrix, matmul_for
from workers.trainer.td3.update import Update

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples


def not_plain(policy: TD3Policy) -> str:
    """Return why this policy is not the plain MLP that is known here; empty: it is.

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
    """Return why what comes after the features is no stack of Linear and ReLU; empty: it is."""
    if type(policy.actor) is not Actor:
        return f"the actor is a {type(policy.actor).__name__}"
    if type(policy.critic) is not ContinuousCritic:
        return f"the critic is a {type(policy.critic).__name__}"
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
    """Return weight and bias of each layer."""
    return list(actor.mu.parameters())


def critic_parameters(critic: ContinuousCritic) -> list[nn.Parameter]:
    """Return the weights of the first layer of all critics, their biases, the next layer's, ..."""
    stacks = [list(stack.parameters()) for stack in critic.q_networks]
    return [parameter for level in zip(*stacks, strict=True) for parameter in level]


class MlpUpdate(Update):
    """TD3 for stable-baselines3's MlpPolicy."""

    def __init__(
        self,
        policy: TD3Policy,
        generator: torch.Generator | None = None,
        *,
        half: bool = False,
        matmul: Matmul | None = None,
    ) -> None:
        """Bind a plain MLP.

        Args:
            policy: one for which `not_plain` returns an empty text.
            generator: of the target noise; None: torch's own.
            half: round the factors of matrix products to bfloat16; sums, parameters and everything
                else stay float32.
            matmul: what multiplies; None: `matmul_for` of the device.
        """
        super().__init__(
            policy,
            (actor_parameters(policy.actor), actor_parameters(policy.actor_target)),
            (critic_parameters(policy.critic), critic_parameters(policy.critic_target)),
            generator,
        )
        self.matmul = matmul = matmul or matmul_for(self.actor.values.device, half=half)
        actor, critics = self.actor, self.critics
        count, actions = len(policy.critic.q_networks), get_action_dim(policy.action_space)
        given = critics.shapes[0][1] - actions
        #: Few inputs come in one piece, in floats; of many the observations are not copied again.
        self._are_joined = given + actions <= NARROW
        inputs = [given + actions] if self._are_joined else [given, actions]
        widths = (
            [shape[0] for shape in actor.shapes],
            [shape[0] * count for shape in critics.shapes],
        )
        memory = Memory(actor.values.device, max(map(max, widths)))
        counts, ones = [count] * (len(critics.shapes) // count), [1] * len(actor.shapes)

        def actors(key: str, vector: Tensor, gradient: Sequence[Tensor] = ()) -> FusedMlp:
            parameters = actor.stacked(vector, ones)
            return FusedMlp(matmul, memory, key, parameters, gradient, inputs=[given])

        def critic_networks(
            key: str, vector: Tensor, gradient: Sequence[Tensor] = (), *, first: bool = False
        ) -> FusedMlp:
            parameters = critics.stacked(vector, counts)
            if first:
                parameters = [parameter[:1] for parameter in parameters]
            return FusedMlp(
                matmul, memory, key, parameters, gradient, inputs=inputs, actions=actions
            )

        # the targets are through before anything goes back, the critics before the first one
        self._actor = actors("actor", actor.values, actor.stacked(actor.gradient, ones))
        self._actor_target = actors("back", actor.target)
        self._critics = critic_networks(
            "critic", critics.values, critics.stacked(critics.gradient, counts)
        )
        self._critic = critic_networks("critic", critics.values, first=True)
        self._critic_targets = critic_networks("back", critics.target)

    def _seen(self, observations: Tensor) -> tuple[Tensor, Matrix]:
        """Return observations (B, n), and as the actor takes them."""
        flat = observations.flatten(1).float()
        matmul = self.matmul
        return flat, matmul.matrix(flat) if flat.shape[1] <= NARROW else matmul.factor(flat)

    def _critic_inputs(self, flat: Tensor, seen: Matrix, actions: Tensor) -> tuple[Matrix, ...]:
        """Return observations and actions as critics take them."""
        matrix = self.matmul.matrix
        if self._are_joined:
            return (matrix(torch.cat((flat, actions), 1)),)
        return seen, matrix(actions)

    def targets(self, batch: ReplayBufferSamples, noise: Tensor, gamma: float) -> Tensor:
        """Return the critics' targets (B,): reward + discount x the smallest target value.

        Clipped double Q-learning with target policy smoothing (Fujimoto et al. 2018, sections 4.2
        and 5.3). Arguments are those of `critic_gradients`.
        """
        flat, seen = self._seen(batch.next_observations)
        wanted = self._actor_target.forward(seen).tanh_().add_(noise).clamp_(-1.0, 1.0)
        value = self._critic_targets.forward(*self._critic_inputs(flat, seen, wanted)).amin(1)
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
        inputs = self._critic_inputs(*self._seen(batch.observations), batch.actions)
        target = self.targets(batch, noise, gamma)
        error = self._critics.forward(*inputs).sub_(target[:, None])  # (B, K)
        if weights is None:
            loss = error.square().mean(0).sum()
        else:
            self.errors = error.abs().amax(1)
            loss = (error.square() * weights).mean(0).sum()
            error.mul_(weights)
        error.mul_(2.0 / len(error))
        self._critics.backward(*inputs)
        return loss

    def actor_gradients(self, batch: ReplayBufferSamples) -> Tensor:
        """d/dφ of minus the mean value that the first critic gives the actor's actions."""
        flat, seen = self._seen(batch.observations)
        actions = self._actor.forward(seen).tanh_()
        values = self._critic.forward(*self._critic_inputs(flat, seen, actions))
        loss = -values.mean()
        values.fill_(-1.0 / len(values))
        self._critic.backward()
        slope = 1.0 - actions.square()
        torch.mul(self._critic.action_gradient(), slope, out=self._actor.values)
        self._actor.backward(seen)
        return loss
