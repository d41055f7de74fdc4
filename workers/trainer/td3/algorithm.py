"""TD3 with the interface of stable-baselines3, and its own update.

A subclass of stable-baselines3's TD3: policies, callbacks, `learn`, `predict`, `save` and `load`
are those one knows, zip files go both ways, and with the same seed a run is that of the stock
class within rounding. What differs is `train`: the written-out update for a plain MLP, the generic
one for any other policy with Adam, the stock one for what is left (`update_kind` says which).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here

from workers.trainer.replay.ring import RingReplay
from workers.trainer.td3.autograd_update import AutogradUpdate, not_bindable
from workers.trainer.td3.matmul import KERNELS, matmul_for
from workers.trainer.td3.mlp_update import MlpUpdate, not_plain
from workers.trainer.td3.torch_compile import compile_extractors
from workers.trainer.td3.update import Update, UpdateHyperparameters

if TYPE_CHECKING:
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.td3.policies import TD3Policy

PRECISIONS = ("highest", "high", "medium")


class TD3(StockTD3):
    """Twin Delayed DDPG; arguments and attributes are those of stable-baselines3's TD3.

    Further arguments: `precision` of matrix products ("highest": float32; "high": TF32 where the
    device has it; "medium": factors rounded to bfloat16 where the device has the units),
    `generator` for the target noise (default: torch's own, as in stable-baselines3), and
    `compile_networks` for features extractors compiled by torch (`update_kind` says whether), and
    `kernel` ("own" or "torch") for what multiplies matrices on one thread of a processor with
    AVX-512; elsewhere torch does.

    Example:
        >>> import gymnasium
        >>> model = TD3("MlpPolicy", gymnasium.make("Pendulum-v1"), learning_starts=100, seed=0)
        >>> _ = model.learn(200)
        >>> model.num_timesteps
        200
    """

    def __init__(
        self,
        *args: Any,
        precision: str = "highest",
        generator: torch.Generator | None = None,
        compile_networks: bool = False,
        kernel: str = "own",
        **kwargs: Any,
    ) -> None:
        """Make the learner.

        Raises:
            ValueError: `precision` or `kernel` is unknown.
        """
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r}, expected one of {', '.join(KERNELS)}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self.update_kind = ""
        self.run_id = ""  # under which it is tracked; in the zip, so that a resumed run is the same
        self.generator = generator
        self.compile_networks = compile_networks
        self.kernel = kernel
        self._update: Update | None = None
        super().__init__(*args, **kwargs)

    @classmethod
    def without_environment(
        cls,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        replay_buffer: ReplayBuffer | None,
        **kwargs: Any,
    ) -> TD3:
        """Make a learner of experience that somebody else collects; `learn` is not for it."""
        policy = kwargs.pop("policy", "MlpPolicy")
        model = cls(policy, None, _init_setup_model=False, **kwargs)
        model.observation_space, model.action_space = observation_space, action_space
        model.n_envs = 1
        if replay_buffer is None:
            model.buffer_size = 1
        model.replay_buffer = replay_buffer
        model._setup_model()
        return model

    @property
    def update(self) -> Update | None:
        """Return the update that is bound to the policy now; None: the stock one is used."""
        if self._update is None or not self._update.is_bound():
            self._bind()
        return self._update

    def hyperparameters(self) -> UpdateHyperparameters:
        """Return the constants of the next update, the learning rate from its schedule."""
        return UpdateHyperparameters(
            learning_rate=self.lr_schedule(self._current_progress_remaining),
            gamma=self.gamma,
            tau=self.tau,
            policy_delay=self.policy_delay,
            target_policy_noise=self.target_policy_noise,
            target_noise_clip=self.target_noise_clip,
        )

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Sample and learn `gradient_steps` times."""
        update = self.update
        if update is None or self.replay_buffer is None:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        hyperparameters = self.hyperparameters()
        start = update.updates = self._n_updates
        with self._matmul_precision():
            for _ in range(gradient_steps):
                batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                if isinstance(self.replay_buffer, RingReplay) and self.replay_buffer.priorities:
                    update.update(batch, hyperparameters, self.replay_buffer.weights)
                    self.replay_buffer.learned(update.errors)
                else:
                    update.update(batch, hyperparameters)
        self._n_updates = update.updates
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.device.type == "cpu":  # elsewhere the numbers are waited for when they are logged
            self._record_losses(start)

    def dump_logs(self) -> None:
        """Write the log; on a device its losses are fetched only now."""
        if self._update is not None and self.device.type != "cpu":
            self._record_losses(self._logged_updates)
            self._logged_updates = self._n_updates
        super().dump_logs()

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return the parameters as stable-baselines3 does, the optimisers' moments included."""
        if self._update is not None and self._update.is_bound():
            self._update.export_moments()
        parameters: dict[str, dict[str, Any]] = super().get_parameters()
        return parameters

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Take parameters over; the update is bound anew at the next step."""
        super().set_parameters(*args, **kwargs)
        self._update = None

    _logged_updates = 0

    def _record_losses(self, since: int) -> None:
        if self._update is None:
            return
        critics, actor = self._update.mean_losses(since, self.policy_delay)
        self.logger.record("train/critic_loss", critics)
        if actor == actor:  # noqa: PLR0124 - NaN where no actor step was made, as in the stock class
            self.logger.record("train/actor_loss", actor)

    def _bind(self) -> None:
        policy: TD3Policy = self.policy
        if self._update is not None:  # moved or replaced: go on with the moments
            self._update.export_moments()
        if why := not_bindable(policy):
            self._update, self.update_kind = None, f"stable-baselines3: {why}"
        elif why := not_plain(policy):
            self._update = AutogradUpdate(policy, self.generator)
            self.update_kind = f"autograd: {why}"
            if self.compile_networks:
                self.update_kind += f"; {compile_extractors(policy)}"
        else:
            half = self.precision == "medium" and has_bfloat16_units(self.device)
            matmul = matmul_for(self.device, half=half, kernel=self.kernel)
            update = self._update = MlpUpdate(policy, self.generator, half=half, matmul=matmul)
            rounded = ", bfloat16 factors" if half else ""
            self.update_kind = f"mlp{rounded}, products by {update.matmul.kind}"
            if self.compile_networks:
                self.update_kind += "; nothing to compile"

    @contextmanager
    def _matmul_precision(self) -> Iterator[None]:
        """Set torch's own switch, which is of the whole process, and set it back."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _excluded_save_params(self) -> list[str]:
        ours = [
            "_update",
            "generator",
            "compile_networks",
            "update_kind",
            "precision",
            "kernel",
            "_logged_updates",
        ]
        return super()._excluded_save_params() + ours


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether products of bfloat16 factors are faster there than those of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
