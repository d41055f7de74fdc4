"""Callbacks for any learner of stable-baselines3, ours or stock: weights out, heartbeat, tracking.

model.learn(100_000, callback=[
    SHMWeightSyncCallback(segment, every_updates=50), HeartbeatCallback(heartbeat),
    MLflowCallback(spool, every_updates=200),
])
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Self

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from stable_baselines3.common.callbacks import BaseCallback

from workers.trading_env.errors import InvalidPolicy
from workers.trainer.publish.gate import is_worse
from workers.trainer.publish.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_baselines3.common.base_class import BaseAlgorithm

    from mesh import Heartbeat, Tensors
    from workers.trainer.spool import Spool

DRAW_S = 0.2


class EveryUpdates(BaseCallback):
    """Something that is due every so many updates, whatever the steps between them."""

    def __init__(self, every_updates: int) -> None:
        """Be due when the learner's updates pass a multiple of `every_updates` (at least 1)."""
        super().__init__()
        if every_updates < 1:
            raise ValueError(f"every_updates is {every_updates}, expected 1 or more")
        self.every_updates = every_updates
        self._done = 0

    @property
    def updates(self) -> int:
        """Updates that the learner has made."""
        return int(getattr(self.model, "_n_updates", 0))

    def _on_training_start(self) -> None:
        self._done = self.updates // self.every_updates

    def _on_step(self) -> bool:
        turn = self.updates // self.every_updates
        if turn > self._done:
            self._done = turn
            self._on_due()
        return True

    def _on_due(self) -> None:
        raise NotImplementedError


class SHMWeightSyncCallback(EveryUpdates):
    """Publishes the policy into shared memory every N updates, and at the end of training.

    A policy that is not finite or acts outside [-1, 1] is withheld: readers keep the last good
    one, `withheld` counts. With `evaluate` each policy is scored first and one that is worse than
    the last published is withheld too; without, set `score` as an evaluation callback would.
    Training raises InvalidPolicy at its start for a learner whose observations VecNormalize
    changes, because readers of the policy do not change theirs.

    Example:
        >>> import gymnasium, shutil, tempfile
        >>> from mesh import Mesh
        >>> from workers.trainer.publish.publisher import policy_arrays
        >>> from workers.trainer.td3.algorithm import TD3
        >>> mesh = Mesh(tempfile.mkdtemp(dir="/dev/shm"))
        >>> model = TD3("MlpPolicy", gymnasium.make("Pendulum-v1"), learning_starts=100, seed=0)
        >>> arrays = policy_arrays(model.policy)
        >>> segment = mesh.tensors("policy/mine", like=arrays, create=True)
        >>> _ = model.learn(200, SHMWeightSyncCallback(segment, every_updates=50))
        >>> version, weights = mesh.tensors("policy/mine").read()
        >>> version > 0, sorted(weights) == sorted(arrays)
        (True, True)
        >>> shutil.rmtree(mesh.path)
    """

    def __init__(
        self,
        policy: Tensors,
        *,
        every_updates: int,
        evaluate: Callable[[BaseAlgorithm], float] | None = None,
        tolerance: float = 0.0,
    ) -> None:
        """Publish into the segment `policy`, of which this process is the writer.

        `tolerance` is the share of the last score by which a new one may be worse.
        """
        super().__init__(every_updates)
        self._segment = policy
        self._evaluate, self._tolerance = evaluate, tolerance
        self.score = float("nan")
        self.version = 0
        self.withheld = 0

    def _init_callback(self) -> None:
        normalised = self.model.get_vec_normalize_env()
        if normalised is not None and normalised.norm_obs:
            raise InvalidPolicy(
                "observations are normalised by VecNormalize, which is no part of a policy: its "
                "readers would act on others; normalise rewards alone (norm_obs=False)"
            )
        self._publisher = Publisher(self._segment, self.model.policy)  # type: ignore[arg-type] # a TD3Policy

    def _on_due(self) -> None:
        if self._evaluate is not None:
            score = self._evaluate(self.model)
            if is_worse(score, self.score, self._tolerance):
                self.withheld += 1
                return
            self.score = score
        try:
            self.version = self._publisher.publish(self.updates, self.score)
        except InvalidPolicy as error:
            self.withheld += 1
            structlog.get_logger().warning("policy withheld", error=str(error))

    def _on_training_end(self) -> None:
        self._on_due()


class HeartbeatCallback(BaseCallback):
    """Beats once a step, so that the learner is a row of the mesh's heartbeats."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        """Beat into a claimed row: `mesh.heartbeats(create=True).claim(name)`."""
        super().__init__()
        self._heartbeat = heartbeat

    def _on_training_start(self) -> None:
        self._heartbeat.ready()

    def _on_step(self) -> bool:
        self._heartbeat.beat(progress=self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        self._heartbeat.waiting()


class MLflowCallback(EveryUpdates):
    """Appends what the learner logs to a spool; the shipper brings it to MLflow."""

    def __init__(
        self, spool: Spool, *, every_updates: int, ends: bool = True, resumed_from: str = ""
    ) -> None:
        """Take a point every `every_updates` updates; `ends`: the run ends with the training."""
        super().__init__(every_updates)
        self._spool = spool
        self._ends, self._resumed_from = ends, resumed_from

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._spool.begin(self._resumed_from)
        self._spool.params(
            {name: value for name, value in vars(self.model).items() if _is_plain(value)}
        )

    def _on_due(self) -> None:
        values = self.logger.name_to_value
        metrics = {name: float(value) for name, value in values.items() if _is_number(value)}
        self._spool.point(self.updates, metrics)

    def _on_training_end(self) -> None:
        if self._ends:
            self._spool.end("FINISHED")


class EndBySignal(BaseCallback):
    """Ends the training in good order at the first SIGINT or SIGTERM; a context to train in.

    The second one is treated as Python does: KeyboardInterrupt, or the end of the process.
    """

    def __init__(self) -> None:
        """Be ready; signals are listened to within the context."""
        super().__init__()
        self.number = 0  # of the signal that came

    def __enter__(self) -> Self:
        """Listen."""
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_step(self) -> bool:
        return not self.number


class ProgressCallback(BaseCallback):
    """A bar on the terminal: steps, updates, time left. Drawn from the training loop, no thread."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, by default standard error."""
        super().__init__()
        self._console = console or Console(stderr=True)
        self._drawn = 0.0

    def _on_training_start(self) -> None:
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, {task.fields[updates]} updates"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=self.locals["total_timesteps"], updates=0)

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._drawn >= DRAW_S:
            self._drawn = now
            self._draw()
        return True

    def _on_training_end(self) -> None:
        self._draw()
        self._progress.stop()

    def _draw(self) -> None:
        updates = getattr(self.model, "_n_updates", 0)
        self._progress.update(self._task, completed=self.num_timesteps, updates=updates)
        self._progress.refresh()


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()
