"""The policy as others read it: named arrays in shared memory, looked at before they go out.

Used by the trainer worker and by `SHMWeightSyncCallback`. What the arrays are is said in
`workers.trading_env.policy.numpy_policy`; a version, the learner's updates, its evaluation score
and the time travel with them, and the segment adds a checksum.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from workers.contract.dtypes import FEATURES, SLOTS, WINDOW
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.numpy_policy import MLP, checked
from workers.trainer.td3.mlp_update import not_plain, not_plain_layers
from workers.trainer.td3.networks import FrameEncoder, FrameTransformer, array_of

if TYPE_CHECKING:
    from stable_baselines3.td3.policies import TD3Policy

    from mesh import Tensors
    from mesh.arrays import Array


def policy_arrays(
    policy: TD3Policy, *, updates: int = 0, score: float = math.nan
) -> dict[str, Array]:
    """Return the actor's arrays, views where it lives in this memory.

    `mesh.tensors(policy_segment(name), like=policy_arrays(model.policy), create=True)` makes the
    segment for it.

    Raises:
        InvalidPolicy: Its network has a form that no reader could compute.
    """
    extractor = policy.actor.features_extractor
    arrays: dict[str, Array] = {}
    kind = MLP
    if isinstance(extractor, FrameEncoder | FrameTransformer) and not not_plain_layers(policy):
        kind = extractor.kind
        arrays |= {name: array_of(part) for name, part in extractor.arrays().items()}
    elif why := not_plain(policy):
        raise InvalidPolicy(f"no numpy form of this policy is known: {why}")
    for layer, parameter in enumerate(policy.actor.mu.parameters()):
        arrays[f"{'wb'[layer % 2]}{layer // 2}"] = array_of(parameter)
    arrays["updates"] = np.array(updates, np.int64)
    arrays["score"] = np.array(score, np.float64)
    arrays["created_ns"] = np.array(time.time_ns(), np.int64)
    arrays["kind"] = np.array(kind, np.int64)
    return arrays


class Publisher:
    """Publishes one policy; a refused one leaves the last good one where it is."""

    def __init__(self, segment: Tensors, policy: TD3Policy) -> None:
        """Publish into `segment`, of which this process is the writer."""
        self._segment = segment
        self._policy = policy
        space = policy.observation_space
        self._is_of_the_mesh = space.shape == (WINDOW, FEATURES) and policy.action_space.shape == (
            SLOTS,
        )
        shape = (2, *(space.shape or ()))
        self._probe = torch.zeros(shape, device=policy.device)
        self._probe[1] = 1.0

    def publish(self, updates: int, score: float = math.nan) -> int:
        """Check the policy, publish it and return the version.

        Raises:
            InvalidPolicy: A parameter or an action is not finite, or an action is out of bounds.
        """
        arrays = policy_arrays(self._policy, updates=updates, score=score)
        if self._is_of_the_mesh:
            checked(arrays)
        else:
            self._check(arrays)
        return self._segment.publish(arrays)

    def confirm(self) -> int:
        """Publish the last good policy again, with the time of now: it still is the one to use.

        Raises:
            NotWritten: No policy was published yet.
        """
        _, arrays = self._segment.read()
        arrays["created_ns"] = np.array(time.time_ns(), np.int64)
        return self._segment.publish(arrays)

    def _check(self, arrays: dict[str, Array]) -> None:
        for name, array in arrays.items():
            if name != "score" and not np.isfinite(array).all():
                raise InvalidPolicy(f"{name!r} is not finite")
        with torch.no_grad():
            actions = self._policy.actor(self._probe)
        if not bool(torch.isfinite(actions).all()) or float(actions.abs().max()) > 1.0:
            raise InvalidPolicy("its action for a plain observation is no action")
