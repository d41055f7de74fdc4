"""The best model of an offline training, by its score on held-out episodes.

As stable-baselines3's EvalCallback does with `best_model_save_path`, by updates and not by steps,
and so that a run that is resumed goes on with the best one it had.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.numpy_policy import PublishedPolicy
from workers.trainer.callbacks import EveryUpdates
from workers.trainer.evaluation.evaluation import acting
from workers.trainer.state import model_files

if TYPE_CHECKING:
    from pathlib import Path

    from workers.trainer.evaluation.evaluation import Evaluation
    from workers.trainer.spool import Spool
    from workers.trainer.td3.algorithm import TD3


class BestModelCallback(EveryUpdates):
    """Scores the policy every N updates and at the end; the best so far lies beside the model.

    The score goes to the logger (TensorBoard) and the spool (MLflow) as `evaluation/...`. A disk
    that does not take the best model costs that file, not the training.
    """

    model: TD3

    def __init__(
        self,
        evaluation: Evaluation,
        path: Path,
        *,
        every_updates: int,
        resume: bool = False,
        spool: Spool | None = None,
    ) -> None:
        """Keep the best model beside the model `path`.

        With `resume` one that is there already has to be beaten: it is scored again, for it may
        have been held against another market.
        """
        super().__init__(every_updates)
        self._evaluation, self._path, self._spool = evaluation, path, spool
        self._resumes = resume
        self._evaluated = 0
        self.score = math.nan  # of the best so far
        self.updates_of_best = 0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        arrays = model_files.best_arrays(self._path) if self._resumes else None
        if arrays is None:
            return
        try:
            self.score = self._evaluation.score(PublishedPolicy(arrays)).mean_reward
            self.updates_of_best = int(arrays["updates"])
        except InvalidPolicy as error:
            structlog.get_logger().warning("best model refused", error=str(error))

    def _on_due(self) -> None:
        updates = self._evaluated = self.updates
        found = self._evaluation.score(acting(self.model))
        values = {f"evaluation/{name}": value for name, value in asdict(found).items()}
        if self._spool is not None:
            self._spool.point(updates, values)
        for name, value in values.items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)
        if not found.mean_reward <= self.score:
            self._save_best(found.mean_reward)

    def _on_training_end(self) -> None:
        if self.updates > self._evaluated:
            self._on_due()

    def _save_best(self, score: float) -> None:
        try:
            model_files.save_model(self.model, model_files.best_path(self._path), score=score)
        except OSError as error:
            structlog.get_logger().warning("best model not written", error=str(error))
            return
        self.score, self.updates_of_best = score, self.updates
