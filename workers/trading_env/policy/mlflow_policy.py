"""How MLflow loads a published policy: `mlflow.pyfunc.load_model("models:/NAME@best")`.

The model directory names this module and holds the arrays; nothing is pickled, and neither torch
nor MLflow is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workers.trading_env.policy.numpy_policy import PublishedPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.arrays import Array


class LoadedPolicy:
    """A policy as MLflow calls it."""

    def __init__(self, policy: PublishedPolicy) -> None:
        """Act as `policy`."""
        self._policy = policy

    def predict(self, observations: Array, params: dict[str, Any] | None = None) -> Array:
        """Actions float32 (n, 10) for observations (n, 16, 100), without noise."""
        del params  # of MLflow's interface; there are none
        return self._policy(np.asarray(observations, np.float32))


def _load_pyfunc(path: str | Path) -> LoadedPolicy:
    """Read the arrays of a policy.

    Raises:
        InvalidPolicy: The arrays are incomplete or not finite.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return LoadedPolicy(PublishedPolicy(dict(arrays)))
