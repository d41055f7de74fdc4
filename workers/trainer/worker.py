"""A trainer: TD3 on the experience ring, its policy and its own state in shared memory.

Killed anywhere it goes on at its last stored update: weights, targets, moments, counters and both
random generators lie in `learner/<name>` (and, rarer, on disk for a reboot). What is published has
been checked: finite, and acting within [-1, 1]; a learner that diverged is rolled back.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from config.trainer import TrainerConfig
from mesh import Corrupt, NotWritten, ProcessIdentity, Ring, SchemaMismatch, SegmentMissing
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.names import EXPERIENCE, learner_segment, policy_segment, status_segment
from workers.contract.statuses import TrainerStatus
from workers.runtime.atomic_file import write_whole
from workers.runtime.worker import Worker
from workers.trading_env.errors import InvalidPolicy
from workers.trainer.evaluation.evaluation import Evaluation
from workers.trainer.publish.gate import is_worse
from workers.trainer.publish.leaderboard import LeaderboardKeeper
from workers.trainer.publish.publisher import Publisher, policy_arrays
from workers.trainer.replay.ring import NoExperience, RingReplay
from workers.trainer.spool import Spool
from workers.trainer.state import checkpoint, learner_state, model_files
from workers.trainer.state.divergence_guard import DivergenceGuard, NumbersLost
from workers.trainer.td3 import learner
from workers.trainer.td3.learner import make_learner, make_or_take_prepared_learner, make_priorities

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    from config.settings import Settings
    from config.worker_spec import WorkerSpec
    from mesh.arrays import Array

S = TypeVar("S")
SLICE_S = 0.08  # of updates in one step of the worker
WAIT_S = 0.1
FIRST_UPDATES_S = 30.0  # restoring, and first updates without a fork server, which make kernels
STATUS_INTERVAL_S = 0.2
COMPILE_S = 600.0  # an update that compiles networks may take so long
MEMORY = "shared memory"  # where a learner was resumed from


class TrainerWorker(Worker):
    """One learner."""

    @classmethod
    def prepare(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Make the learner of this configuration, so that a child of the fork server has it."""
        learner.prepare(_config(spec, settings))

    @classmethod
    def rehearse(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Learn once with it."""
        learner.rehearse(_config(spec, settings))

    def setup(self) -> None:
        """Open the segments; the learner comes from memory, from disk, or from the seed."""
        context = self.context
        settings, mesh, name = context.settings, context.mesh, context.name
        self._config = config = _config(context.spec, settings)
        torch.set_num_threads(config.threads)
        self._ring: Ring | None = None
        self._replay: RingReplay | None = None
        self._model, self._update = make_or_take_prepared_learner(config)
        self._cell = self._open_as_writer(
            status_segment(name), lambda at: mesh.cell(at, TrainerStatus, create=True)
        )
        try:
            _, self._status = self._cell.read()
        except NotWritten:
            self._status = TrainerStatus()
        like = policy_arrays(self._model.policy)
        policy = self._open_as_writer(
            policy_segment(name), lambda at: mesh.tensors(at, like=like, create=True)
        )
        if policy.version == 0:  # another network than the one that was scored
            self._status.best_score = self._status.score = math.nan
            self._status.evaluated = 0
        self._publisher = Publisher(policy, self._model.policy)
        self._leaderboard = LeaderboardKeeper(mesh, name)
        self._evaluation = Evaluation(
            config.evaluate_on,
            settings.trading,
            lanes=config.evaluate_lanes,
            steps=config.evaluate_steps,
        )
        self._directory = settings.run_directory / "checkpoints" / name
        self._guard = DivergenceGuard(
            self._update, settings.run_directory / "crashes", name, config.rollbacks
        )
        self._status.run_id = self._status.run_id or uuid.uuid4().hex
        self._status.state = "waiting: for the experience ring"
        self._status.device, self._status.update_kind = (
            str(self._model.device),
            self._model.update_kind,
        )
        self._spool = Spool(
            settings.run_directory / "tracking",
            name,
            self._status.run_id,
            settings.tracking.spool_bytes,
        )
        self._published_at = 0.0
        self._refused = 0
        self._learned = 0  # updates of this process
        self._rate = time.monotonic(), 0
        self._cell.write(self._status)

    def step(self) -> int:
        """Learn for a moment, or wait for experience."""
        if self._replay is not None:
            return self._work(self._replay)
        with self.context.expect(FIRST_UPDATES_S):
            replay = self._find_experience()
            if replay is not None:
                return self._work(replay)
        return self._wait("the experience ring")

    def _work(self, replay: RingReplay) -> int:
        if self._is_ahead(replay) or not self._has_started(replay):
            return self._wait(f"experience ({replay.size()} records)")
        try:
            if self._config.compile_networks and self._learned < self._config.policy_delay:
                with self.context.expect(COMPILE_S):
                    return self._learn(replay)
            return self._learn(replay)
        except (NumbersLost, RuntimeError, ValueError):
            self._spool.end("FAILED")
            raise

    def _learn(self, replay: RingReplay) -> int:
        """Update for a slice of time."""
        done = 0
        until = time.monotonic() + SLICE_S
        hyperparameters = self._model.hyperparameters()
        try:
            while time.monotonic() < until and not self._is_ahead(replay):
                batch = replay.sample(self._config.batch)
                self._update.update(batch, hyperparameters, replay.weights)
                if replay.priorities is not None:
                    replay.learned(self._update.errors)
                done += 1
                self._learned += 1
                self._after_update(replay, batch)
        except NoExperience as error:
            if done == 0:
                return self._wait(str(error))
        self._publish_status("training")
        return done

    def teardown(self) -> None:
        """Store the learner, in memory and on disk."""
        if self._replay is not None and self._update.updates and self._update.is_sound():
            state = learner_state.capture(self._update, self._replay)
            self._memory.publish(state)
            self._checkpoint(state)
        self._spool.end("KILLED")
        self._spool.close()
        self._publish_status("stopped", now=True)

    def last_inputs(self) -> dict[str, Any]:
        """Return counters and the path of the newest lost batch, for the crash report."""
        update = self._update
        return {
            "updates": update.updates,
            "losses": update.losses.tolist(),
            "lost_batch": self._guard.batch,
            "faulty_records": self._replay.faulty if self._replay is not None else [],
        }

    # --- start -----------------------------------------------------------------------

    def _open_as_writer(self, name: str, opened: Callable[[str], S]) -> S:
        """Open a segment as its writer; one left by another network or version is replaced.

        Raises:
            SchemaMismatch: Another live process writes it.
        """
        mesh = self.context.mesh
        try:
            return opened(name)
        except SchemaMismatch as error:
            owner = mesh.attach(name).info.owner
            if owner is not None and owner.is_alive() and owner != ProcessIdentity.current():
                raise
            self.context.log.warning("segment replaced", segment=name, error=str(error))
            mesh.unlink(name)
            return opened(name)

    def _find_experience(self) -> RingReplay | None:
        mesh = self.context.mesh
        try:
            ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE)
        except SegmentMissing:
            return None
        config = self._config
        self._ring = ring
        self._replay = replay = RingReplay(
            ring,
            reward_scale=config.reward_scale,
            seed=config.seed,
            n_steps=config.n_steps,
            gamma=config.gamma,
            device=self._model.device,
            priorities=make_priorities(config, ring),
        )
        fresh = learner_state.capture(self._update, replay)
        self._memory = self._open_as_writer(
            learner_segment(self.context.name),
            lambda at: mesh.tensors(at, like=fresh, create=True),
        )
        self._status.resumed_from = self._resume(replay)
        if self._status.resumed_from != MEMORY:
            self._memory.publish(learner_state.capture(self._update, replay))
        self._spool.begin(self._status.resumed_from)
        self._spool.params(config.model_dump(mode="json"))
        self._status.experience = ring.published
        self.context.log.info(
            "learner",
            updates=self._update.updates,
            resumed=self._status.resumed_from,
            kind=self._model.update_kind,
            device=str(self._model.device),
        )
        return replay

    def _restore(self, replay: RingReplay) -> None:
        """Read the stored state straight into the learner's own memory, where it lies here."""
        arrays = learner_state.capture(self._update, replay)
        self._memory.read(out=arrays)
        learner_state.restore(self._update, replay, arrays)

    def _resume(self, replay: RingReplay) -> str:
        """Go on from shared memory, else from the newest checkpoint that is whole."""
        try:
            self._restore(replay)
        except NotWritten:
            pass
        except (Corrupt, learner_state.StateMismatch) as error:
            self.context.log.warning("state in memory refused", error=str(error))
            _, fresh = make_learner(self._config)  # for what was overwritten with parts of it
            learner_state.restore(self._update, replay, learner_state.capture(fresh, replay))
        else:
            return MEMORY
        refused = 0
        for path in checkpoint.paths(self._directory):
            try:
                learner_state.restore(self._update, replay, checkpoint.read(path))
            except (checkpoint.BadCheckpoint, learner_state.StateMismatch) as error:
                self.context.log.warning("checkpoint refused", error=str(error))
                refused += 1
                continue
            return f"disk: {path.name}" + (f" ({refused} newer refused)" if refused else "")
        return ""

    # --- after updates --------------------------------------------------------------------

    def _after_update(self, replay: RingReplay, batch: ReplayBufferSamples) -> None:
        config, updates = self._config, self._update.updates
        if self._guard.lost(batch):
            self._roll_back(replay, "updates in a row that are not finite")
            return
        stores = updates % config.state_every == 0
        publishes = updates % config.publish_every == 0
        tracks = updates % self.context.settings.tracking.every_updates == 0
        evaluates = config.evaluate_every > 0 and updates % config.evaluate_every == 0
        if not (stores or publishes or tracks or evaluates):
            return
        if not self._update.is_sound():
            self._roll_back(replay, "weights that are not finite")
            return
        if stores:
            self._guard.stored()
            state = learner_state.capture(self._update, replay)
            self._memory.publish(state)
            if updates % config.checkpoint_every == 0:
                self._checkpoint(state)
        if evaluates:
            self._evaluate()
        if evaluates or (publishes and not config.gate):
            self._publish()
        if tracks:
            self._spool.point(updates, self._metrics())

    def _roll_back(self, replay: RingReplay, why: str) -> None:
        """Return to the last stored state; other batches are drawn from there, more slowly."""
        self._status.rollbacks += 1
        self.context.log.error(
            "rolled back", updates=self._update.updates, why=why, batch=self._guard.batch
        )
        skipped = self._update.skipped.clone()  # a count of what happened: it is not rolled back
        self._restore(replay)
        self._update.skipped.copy_(skipped)
        replay.rng = np.random.default_rng([self._config.seed, self._status.rollbacks])
        self._publish_status(f"rolled back: {why}", now=True)
        self._guard.rolled_back(self._config.rollback_learning_rate)

    def _evaluate(self) -> None:
        """Score the policy on held-out episodes; the score travels with what is published."""
        status = self._status
        self._publish_status("evaluating", now=True)
        with self.context.expect(120.0):
            found = self._evaluation.score(self._act)
        is_best = not found.mean_reward <= status.best_score
        status.score, status.evaluated = found.mean_reward, self._update.updates
        self._spool.point(
            self._update.updates,
            {f"evaluation/{name}": value for name, value in asdict(found).items()},
        )
        if is_best:
            self._save_best()
        self.context.log.info("evaluated", updates=self._update.updates, score=found.mean_reward)

    def _save_best(self) -> None:
        """Write the model as stable-baselines3 and as arrays; the shipper registers it as best."""
        directory = self.context.settings.run_directory / "models" / self.context.name
        updates, score = self._update.updates, self._status.score
        contents = model_files.file_contents(self._model, updates=updates, score=score)
        files = [directory / f"best-{updates:012d}{suffix}" for suffix in (".zip", ".npz")]
        try:
            with self.context.expect(30.0):
                for path, content in zip(files, contents, strict=True):
                    write_whole(path, content, temporary=".new")
            kept = sorted(directory.glob("best-*"), reverse=True)
            for old in kept[2 * self._config.checkpoints :]:
                old.unlink(missing_ok=True)
        except OSError as error:  # no room for it: learning goes on, and so do its scores
            self._was_refused("best policy", error)
            return
        name = f"{self.context.settings.tracking.experiment}-{self.context.name}"
        self._spool.model(updates, name, "best", files)

    def _act(self, observations: Array) -> Array:
        actions, _ = self._model.predict(observations, deterministic=True)
        return actions

    def _publish(self) -> None:
        config, status = self._config, self._status
        if config.gate and is_worse(status.score, status.best_score, config.gate_tolerance):
            status.withheld += 1
            self.context.log.info("policy withheld", score=status.score, best=status.best_score)
            status.version = self._publisher.confirm()
            return
        try:
            version = self._publisher.publish(self._update.updates, self._status.score)
        except InvalidPolicy as error:
            self._status.withheld += 1
            self.context.log.error("policy withheld", error=str(error))  # noqa: TRY400 - the text has it all
            return
        status.version = version
        if status.evaluated == self._update.updates:
            if config.gate:
                status.best_score = status.score
            else:
                status.best_score = float(np.fmax(status.best_score, status.score))
            self._leaderboard.update(now=True)

    def _checkpoint(self, state: dict[str, Array]) -> None:
        """Keep the state for a reboot; without room for it learning goes on from memory alone."""
        updates = self._update.updates
        try:
            with self.context.expect(30.0):
                checkpoint.write(self._directory, updates, state, self._config.checkpoints)
        except OSError as error:
            self._was_refused("checkpoint", error)

    def _was_refused(self, what: str, error: OSError) -> None:
        """Count a file that the disk did not take, and say which."""
        self._refused += 1
        self._status.disk_error = f"{what} after {self._update.updates} updates: {error}"
        self.context.log.error("not written", what=what, error=str(error))

    def _metrics(self) -> dict[str, float]:
        critic_loss, actor_loss = self._update.losses.tolist()
        return {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "updates_per_s": self._status.updates_per_s,
            "experience": float(self._status.experience),
            "rollbacks": float(self._status.rollbacks),
            "learning_rate": self._config.learning_rate * self._update.lr_factor,
        }

    # --- waiting and telling --------------------------------------------------------------

    def _is_ahead(self, replay: RingReplay) -> bool:
        """Return whether there were as many updates as the experience allows."""
        config = self._config
        if config.replay_ratio == 0.0 or self._ring is None:
            return False
        origin = replay.origin
        earned = math.ceil((self._update.updates + 1 - origin.updates) / config.replay_ratio)
        needed = origin.sequence + config.learning_starts + earned
        if config.deterministic:
            replay.limit = needed
        return self._ring.published < needed

    def _has_started(self, replay: RingReplay) -> bool:
        """Return whether learning can begin; a deterministic learner counts from its origin."""
        return self._config.deterministic or replay.size() >= self._config.learning_starts

    def _wait(self, what: str) -> int:
        self._publish_status(f"waiting: for {what}")
        if self._ring is None:
            self.context.pause(WAIT_S)
        else:
            reader = self._ring.reader("latest")
            reader.wait_published(WAIT_S)
        return 0

    def _publish_status(self, state: str, *, now: bool = False) -> None:
        moment = time.monotonic()
        if (
            not now
            and state == self._status.state
            and moment - self._published_at < STATUS_INTERVAL_S
        ):
            return
        self._published_at = moment
        status, update = self._status, self._update
        since, updates = self._rate
        if moment - since >= 1.0:
            status.updates_per_s = (update.updates - updates) / (moment - since)
            self._rate = moment, update.updates
        status.state, status.updates = state, update.updates
        status.critic_loss, status.actor_loss = update.losses.tolist()
        status.skipped, status.lost_batch = int(update.skipped), self._guard.batch
        status.learning_rate = self._config.learning_rate * update.lr_factor
        status.unwritten = self._refused + self._guard.not_kept
        status.faults = self._replay.faults if self._replay is not None else 0
        dropped = self._spool.dropped
        status.tracking = f"{dropped} points dropped: {self._spool.error}" if dropped else "spooled"
        if self._ring is not None:
            status.experience = self._ring.published
        self._cell.write(status)
        self._leaderboard.update()


def _config(spec: WorkerSpec, settings: Settings) -> TrainerConfig:
    """Return the configuration of one learner: what is of all, and its own."""
    base = settings.trainer.model_dump()
    return TrainerConfig.model_validate({**base, **spec.settings})
