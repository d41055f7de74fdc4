"""One TD3 update (Fujimoto et al. 2018), and what guards it against NaN and infinity.

The mathematics is stable-baselines3's TD3.train: twin critics, clipped target noise, the smaller
target value, actor and targets every `policy_delay` updates, the actor after the first critic
alone. Parameters, gradients, moments and targets of each network are one flat vector. How the
gradients come about is left to two classes: `mlp_update.py` writes the backward pass of a plain
MLP out, `autograd_update.py` asks autograd and takes any policy.

The guard: a gradient or loss that is not finite leaves weights, moments and counters untouched;
that is decided by the optimiser's kernel, so that the host waits for no number of the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.trainer.td3.flat_parameters import FlatParameters

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
    from stable_baselines3.td3.policies import TD3Policy


@dataclass(frozen=True)
class UpdateHyperparameters:
    """The constants of an update, by the names of stable-baselines3."""

    learning_rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    policy_delay: int = 2
    target_policy_noise: float = 0.2
    target_noise_clip: float = 0.5


class Update(ABC):
    """Actor and critics of a policy with their targets and optimisers."""

    def __init__(
        self,
        policy: TD3Policy,
        actor: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
        critics: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
        generator: torch.Generator | None,
    ) -> None:
        """Bind the parameters of both networks.

        Args:
            policy: whose parameters become views of flat vectors.
            actor: parameters of the actor and of its target, in one order.
            critics: the same of the critics.
            generator: of the target noise; None: torch's own, as in stable-baselines3.
        """
        self.policy = policy
        self.generator = generator
        self.actor = FlatParameters(*actor)
        self.critics = FlatParameters(*critics)
        self.actor.adopt_settings(policy.actor.optimizer)
        self.critics.adopt_settings(policy.critic.optimizer)
        self.buffers = [
            buffer
            for network in (
                policy.actor,
                policy.critic,
                policy.actor_target,
                policy.critic_target,
            )
            for buffer in network.buffers()
        ]
        device = self.actor.values.device
        self.updates = 0
        self.lr_factor = 1.0  # factor of the learning rate, below 1 for a while after a roll-back
        #: Loss of the critics and of the actor in the newest update; sums of all; skipped updates.
        self.losses = torch.zeros(2, device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), device=device)
        self.errors = torch.zeros(0, device=device)

    @torch.no_grad()
    def update(
        self,
        batch: ReplayBufferSamples,
        hyperparameters: UpdateHyperparameters,
        weights: Tensor | None = None,
    ) -> None:
        """Make one update from one batch: Algorithm 1 of Fujimoto et al. 2018.

        Args:
            batch: observations (B, ...), actions (B, a), rewards and dones (B, 1), all float32.
            hyperparameters: its constants.
            weights: of the critics' squared errors (B, 1); with them `errors` (B,) becomes the
                largest absolute error of the critics.
        """
        self.updates += 1
        noise = torch.empty_like(batch.actions).normal_(
            0.0, hyperparameters.target_policy_noise, generator=self.generator
        )
        noise.clamp_(-hyperparameters.target_noise_clip, hyperparameters.target_noise_clip)
        rate = hyperparameters.learning_rate * self.lr_factor
        self.losses[0] = self.critic_gradients(batch, noise, hyperparameters.gamma, weights)
        is_delayed = self.updates % hyperparameters.policy_delay == 0
        tau = hyperparameters.tau if is_delayed else 0.0  # the actor's gradient asks no target
        self._take_step(self.critics, 0, rate, tau)
        if is_delayed:
            self.losses[1] = self.actor_gradients(batch)
            self._take_step(self.actor, 1, rate, tau)

    def _take_step(
        self, network: FlatParameters, which: int, learning_rate: float, tau: float
    ) -> None:
        """One step of the optimiser, unless the gradient or the loss is not finite."""
        self.skipped += network.step(self.losses[which], learning_rate, tau)
        self.sums[which] += self.losses[which]

    @abstractmethod
    def critic_gradients(
        self,
        batch: ReplayBufferSamples,
        noise: Tensor,
        gamma: float,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Put d/dθ of the summed mean squared errors into the critics' gradient.

        Args:
            batch: transitions; rewards and dones (B, 1), actions (B, a), all float32.
            noise: of the target's actions (B, a), clipped.
            gamma: discount where the batch has no discounts of its own.
            weights: of the squared errors (B, 1); None: all count the same.

        Returns:
            The loss (), still on the device.
        """

    @abstractmethod
    def actor_gradients(self, batch: ReplayBufferSamples) -> Tensor:
        """Put d/dφ of minus the first critic's mean value into the actor's gradient; return it."""

    def is_bound(self) -> bool:
        """Return whether the policy's parameters still are those of this update."""
        return self.actor.is_bound() and self.critics.is_bound()

    def is_sound(self) -> bool:
        """Return whether parameters, moments and targets are numbers."""
        return self.actor.is_finite() and self.critics.is_finite()

    def state(self) -> dict[str, Tensor]:
        """Return all that an update changes but its count: tensors that live on, not copies.

        The random state is in it where the generator is the update's own.
        """
        tensors = {"losses": self.losses, "sums": self.sums, "skipped": self.skipped}
        for name, network in (("actor", self.actor), ("critics", self.critics)):
            tensors |= {f"{name}_{part}": tensor for part, tensor in network.state().items()}
        for number, buffer in enumerate(self.buffers):
            tensors[f"buffer_{number}"] = buffer
        if self.generator is not None:
            tensors["torch_random"] = self.generator.get_state()
        return tensors

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set everything that `state` returned."""
        for name, tensor in self.state().items():
            if name != "torch_random" and tensor.data_ptr() != tensors[name].data_ptr():
                tensor.copy_(tensors[name])
        if self.generator is not None:
            self.generator.set_state(tensors["torch_random"].clone())

    def export_moments(self) -> None:
        """Write both optimisers' moments into the policy's, where `save` looks for them."""
        self.actor.export_moments(self.policy.actor.optimizer)
        self.critics.export_moments(self.policy.critic.optimizer)

    def mean_losses(self, since: int, policy_delay: int) -> tuple[float, float]:
        """Return the mean losses since update `since` and forget them; NaN where there was none."""
        critics, actor = self.sums.tolist()
        self.sums.zero_()
        steps = self.updates // policy_delay - since // policy_delay
        return (
            critics / (self.updates - since) if self.updates > since else math.nan,
            actor / steps if steps else math.nan,
        )
