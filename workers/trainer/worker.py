"""A trainer: TD3 on the experience ring, its policy and its own state in shared memory.

Killed anywhere it goes on at its last stored update: weights, targets, moments, counters and both
random generators lie in `learner/<name>` (and, rarer, on disk for a reboot). What is published has
been looked at: finite, and acting as a policy acts; a learner that lost its numbers is rolled back.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
import torch

from config.trainer import TrainerConfig
from mesh import Corrupt, NotWritten, Ring, SegmentMissing
from workers.base import Worker
from workers.records import (
    EXPERIENCE,
    EXPERIENCE_DTYPE,
    FEATURES,
    SLOTS,
    WINDOW,
    TrainerStatus,
    learner_segment,
    policy_segment,
    status_segment,
)
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy_numpy import checked, like
from workers.trainer import checkpoint, learner_state
from workers.trainer.replay import NoExperience, Replay
from workers.trainer.tracking import Spool
from workers.trainer.update import Learner

SLICE_S = 0.08  # of updates in one step of the worker
WAIT_S = 0.1
TELL_S = 0.2
INPUTS = WINDOW * FEATURES


class NumbersLost(Exception):
    """NaN or infinity came back after every roll-back."""


class TrainerWorker(Worker):
    """One learner."""

    def setup(self) -> None:
        """Take the segments over and go on from memory, from disk, or from the seed."""
        context = self.context
        settings, mesh, name = context.settings, context.mesh, context.name
        base = settings.trainer.model_dump()
        self._config = config = TrainerConfig.model_validate({**base, **context.spec.settings})
        torch.set_num_threads(config.threads)
        self._ring: Ring | None = None
        self._replay: Replay | None = None
        self._learner = Learner(INPUTS, SLOTS, config)
        self._cell = mesh.cell(status_segment(name), TrainerStatus, create=True)
        try:
            _, self._status = self._cell.read()
        except NotWritten:
            self._status = TrainerStatus()
        self._policy = mesh.tensors(policy_segment(name), like=like(config.hidden), create=True)
        self._directory = settings.run_directory / "checkpoints" / name
        self._status.run_id = self._status.run_id or uuid.uuid4().hex
        self._status.state = "waiting: for the experience ring"
        self._spool = Spool(
            settings.run_directory / "tracking",
            name,
            self._status.run_id,
            settings.tracking.spool_bytes,
        )
        self._in_a_row = 0
        self._told = 0.0
        self._rate = time.monotonic(), 0
        self._cell.write(self._status)

    def step(self) -> int:
        """Learn for a moment, or wait for experience."""
        replay = self._replay or self._find_experience()
        if replay is None:
            return self._wait("the experience ring")
        if replay.records() < self._config.learning_starts or self._is_ahead(replay):
            return self._wait(f"experience ({replay.records()} records)")
        done = 0
        until = time.monotonic() + SLICE_S
        try:
            while time.monotonic() < until and not self._is_ahead(replay):
                self._learner.update(replay.sample())
                done += 1
                self._after_update(replay)
        except NoExperience as error:
            if done == 0:
                return self._wait(str(error))
        self._tell("training")
        return done

    def teardown(self) -> None:
        """Keep the learner, here and on disk."""
        if self._replay is not None and self._learner.updates and self._learner.is_finite():
            state = learner_state.take(self._learner, self._replay)
            self._memory.publish(state)
            self._checkpoint(state)
        self._spool.end("KILLED")
        self._spool.close()
        self._tell("stopped", now=True)

    def last_inputs(self) -> dict[str, Any]:
        """Give the counters, for the crash report."""
        learner = self._learner
        return {"updates": learner.updates, "losses": [learner.critic_loss, learner.actor_loss]}

    # --- beginnings -----------------------------------------------------------------------

    def _find_experience(self) -> Replay | None:
        mesh = self.context.mesh
        try:
            ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE)
        except SegmentMissing:
            return None
        config = self._config
        self._ring = ring
        self._replay = replay = Replay(ring, config.batch, config.reward_scale, config.seed)
        fresh = learner_state.take(self._learner, replay)
        self._memory = mesh.tensors(learner_segment(self.context.name), like=fresh, create=True)
        self._status.resumed_from = self._resume(replay)
        self._first_update = self._learner.updates
        self._first_record = ring.published
        self._good = learner_state.take(self._learner, replay)
        self._spool.params({**config.model_dump(mode="json"), "inputs": INPUTS})
        self._status.experience = ring.published
        self.context.log.info(
            "learner", updates=self._learner.updates, resumed=self._status.resumed_from
        )
        return replay

    def _resume(self, replay: Replay) -> str:
        """Go on from shared memory, else from the newest checkpoint that is whole."""
        try:
            _, arrays = self._memory.read()
            learner_state.put(self._learner, replay, arrays)
        except NotWritten:
            pass
        except (Corrupt, learner_state.StateMismatch) as error:
            self.context.log.warning("state in memory refused", error=str(error))
        else:
            return "shared memory"
        for path in checkpoint.paths(self._directory):
            try:
                learner_state.put(self._learner, replay, checkpoint.read(path))
            except (checkpoint.BadCheckpoint, learner_state.StateMismatch) as error:
                self.context.log.warning("checkpoint refused", error=str(error))
                continue
            return f"disk: {path.name}"
        return ""

    # --- after updates --------------------------------------------------------------------

    def _after_update(self, replay: Replay) -> None:
        config, updates = self._config, self._learner.updates
        keeps = updates % config.state_every == 0
        publishes = updates % config.publish_every == 0
        if not (keeps or publishes or updates % self.context.settings.tracking.every_updates == 0):
            return
        if not self._learner.is_finite():
            self._roll_back(replay)
            return
        if keeps:
            self._in_a_row = 0
            self._good = learner_state.take(self._learner, replay)
            self._memory.publish(self._good)
            if updates % config.checkpoint_every == 0:
                self._checkpoint(self._good)
        if publishes:
            self._publish()
        if updates % self.context.settings.tracking.every_updates == 0:
            self._spool.point(updates, self._metrics())

    def _roll_back(self, replay: Replay) -> None:
        """Return to the last good state; another batch is drawn from there."""
        self._in_a_row += 1
        self._status.rollbacks += 1
        lost = f"losses {self._learner.critic_loss}, {self._learner.actor_loss}"
        self.context.log.error("rolled back", updates=self._learner.updates, lost=lost)
        if self._in_a_row >= self._config.rollbacks:
            raise NumbersLost(f"{self._in_a_row} roll-backs in a row: {lost}")
        learner_state.put(self._learner, replay, self._good)
        replay.dice = np.random.default_rng([self._config.seed, self._status.rollbacks])
        self._tell(f"rolled back: {lost}", now=True)

    def _publish(self) -> None:
        arrays = like(self._config.hidden)
        for layer in range(3):
            arrays[f"w{layer}"] = self._learner.actor.parameters[2 * layer].numpy()
            arrays[f"b{layer}"] = self._learner.actor.parameters[2 * layer + 1].numpy()
        arrays["updates"] = np.array(self._learner.updates, np.int64)
        arrays["score"] = np.array(self._status.score, np.float64)
        arrays["created_ns"] = np.array(time.time_ns(), np.int64)
        try:
            checked(arrays)
        except InvalidPolicy as error:
            self.context.log.error("policy withheld", error=str(error))  # noqa: TRY400 - the text has it all
            return
        self._status.version = self._policy.publish(arrays)

    def _checkpoint(self, state: dict[str, learner_state.Array]) -> None:
        with self.context.expect(30.0):
            checkpoint.write(
                self._directory, self._learner.updates, state, self._config.checkpoints
            )

    def _metrics(self) -> dict[str, float]:
        return {
            "critic_loss": self._learner.critic_loss,
            "actor_loss": self._learner.actor_loss,
            "updates_per_s": self._status.updates_per_s,
            "experience": float(self._status.experience),
            "rollbacks": float(self._status.rollbacks),
        }

    # --- waiting and telling --------------------------------------------------------------

    def _is_ahead(self, replay: Replay) -> bool:
        """Tell whether there were as many updates as the new experience allows."""
        ratio = self._config.replay_ratio
        if ratio == 0.0 or self._ring is None:
            return False
        new = self._ring.published - self._first_record + replay.records()
        return self._learner.updates - self._first_update >= ratio * new

    def _wait(self, what: str) -> int:
        self._tell(f"waiting: for {what}")
        if self._ring is None:
            self.context.pause(WAIT_S)
        else:
            reader = self._ring.reader("latest")
            reader.wait_published(WAIT_S)
        return 0

    def _tell(self, state: str, *, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and state == self._status.state and moment - self._told < TELL_S:
            return
        self._told = moment
        status, learner = self._status, self._learner
        since, updates = self._rate
        if moment - since >= 1.0:
            status.updates_per_s = (learner.updates - updates) / (moment - since)
            self._rate = moment, learner.updates
        status.state, status.updates = state, learner.updates
        status.critic_loss, status.actor_loss = learner.critic_loss, learner.actor_loss
        status.tracking = (
            f"{self._spool.dropped} points dropped" if self._spool.dropped else "spooled"
        )
        if self._ring is not None:
            status.experience = self._ring.published
        self._cell.write(status)
