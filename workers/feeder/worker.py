"""The feeder: quotes become market states, market states become experience of many lanes.

Paced by event time: a state whenever market time advanced by the configured interval, so that a
replay faster than real time is neither stale nor skipped. Market state first, then the experience
with the lanes' accounts in one commit: killed anywhere, the accounts go on where the ring ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mesh import NotWritten
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE, SLOTS, TICK_DTYPE, WINDOW
from workers.contract.names import EXPERIENCE, MARKET, QUOTES, TICKS, cursor_segment, status_segment
from workers.contract.statuses import FeederStatus, ReaderCursor
from workers.feeder.lanes import Lanes
from workers.feeder.policies import Policies
from workers.feeder.safety import Safety
from workers.runtime.worker import Worker
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.market.pacing import StatePacer, agreeing
from workers.trading_env.market.state import MarketState

if TYPE_CHECKING:
    from mesh.arrays import Array

WAIT_S = 0.1
CHUNK = 4096
STATES_A_STEP = 32
STATUS_INTERVAL_S = 0.1
MIN_ROOM_LANES = 256  # room for at least as many: below it a change of lanes keeps the ring


class FeederWorker(Worker):
    """One market, L lanes."""

    def setup(self) -> None:
        """Take rings over, find ticks and quotes, go on where the experience ends."""
        context = self.context
        settings, mesh = context.settings, context.mesh
        self._config = config = settings.feeder
        self._market = mesh.ring(MARKET, MARKET_DTYPE, capacity=config.market_capacity, create=True)
        self._experience = mesh.ring(
            EXPERIENCE,
            EXPERIENCE_DTYPE,
            capacity=max(config.experience_capacity, 4 * WINDOW * config.lanes),
            state_bytes=_state_bytes(config.lanes, settings.trading.latency_states),
            create=True,
        )
        self._cell = mesh.cell(
            status_segment(context.name), FeederStatus, create=True, max_bytes=16384
        )
        try:
            _, self._status = self._cell.read()
        except NotWritten:
            self._status = FeederStatus()
        self._ticks = mesh.ring(TICKS, TICK_DTYPE).reader("latest")
        self._cursor = mesh.cell(cursor_segment(context.name), ReaderCursor, create=True)
        self._lanes = Lanes(config, settings.trading)
        self._state = MarketState(settings.trading, first_step=self._market.published)
        self._resume()
        self._state.apply(agreeing(mesh.table(QUOTES, TICK_DTYPE).snapshot()))
        self._policies = Policies(mesh, config.trainers, config.policy_max_age_s)
        self._pacer = StatePacer(self._state, config.interval_s, restart=self._restart)
        self._since_state = time.monotonic()
        self._since_tick = time.monotonic()
        self._published_at = 0.0
        self._safety = Safety(mesh, config)
        self._work: Iterator[int] = iter(())

    def step(self) -> int:
        """Take what is new and make the states that are due, a bounded number of them."""
        made = sum(1 for _, _ in zip(range(STATES_A_STEP), self._work, strict=False))
        if made < STATES_A_STEP:
            self._ticks.wait_published(WAIT_S)
            self._work = self._states(self._ticks.read(max_records=CHUNK))
            self._cursor.write(ReaderCursor(TICKS, self._ticks.sequence))
        self._publish_status()
        return made

    def teardown(self) -> None:
        """Write the status a last time; the rings hold everything else."""
        self._publish_status(now=True)

    def last_inputs(self) -> dict[str, Any]:
        """Return the newest market state, for the crash report."""
        previous = self._lanes.previous
        return {} if previous is None else {"market": str(previous)}

    def _resume(self) -> None:
        state = self._experience.state()
        if state is None or self._experience.published == 0:
            return
        market = self._market.reader(self._market.oldest).read(max_records=self._market.capacity)
        back = self._experience.published - WINDOW * self._config.lanes
        records = self._experience.reader(max(self._experience.oldest, back)).read(
            max_records=WINDOW * self._config.lanes
        )
        if not self._lanes.resume(state, market, records) or self._lanes.previous is None:
            self.context.log.warning("episode boundary", why="the saved lanes do not fit")
            return
        at = int(self._lanes.previous["step"])
        for missed in market[market["step"] > at]:
            # published, but killed before the lanes moved over it: they hold through it now
            held = self._lanes.step(missed, None, hold=True)
            self._experience.publish(held, state=self._lanes.save())
        self._state.resume(market)
        self.context.log.info("resumed", market_step=int(market["step"][-1]), lanes_at=at)

    def _restart(self) -> MarketState:
        """Begin anew with a feed that has gone back in time: new quotes, new episodes."""
        self.context.log.warning("market restarted", why="the feed went back in time")
        step = self._state.steps
        self._state = MarketState(self.context.settings.trading, first_step=step)
        self._lanes.previous = None
        return self._state

    def _states(self, ticks: Array) -> Iterator[int]:
        """Take ticks in the order of arrival; yields after each state that was made."""
        now = time.monotonic()
        if ticks.size:
            self._since_tick = now
        for _ in self._pacer.advance(ticks):
            yield self._make()
        fresh = self._since_tick > self._since_state
        if fresh and now - self._since_state >= self._config.max_wait_s:
            yield self._make()

    def _make(self) -> int:
        """Make one market state and step every lane over it."""
        self._since_state = time.monotonic()
        state = self._state.state(time.time_ns())
        if state is None:
            self._status.state = "holding: no priced option is known yet"
            return 0
        policy = self._policies.best()
        unsafe = self._safety.why_not(state)
        if self._policies.has_expired:  # at random is for a market that never had a policy
            unsafe = unsafe or "every policy is older than feeder.policy_max_age_s"
        flatten = bool(unsafe) and self._config.safe_state == "flatten"
        hold = not flatten and (bool(unsafe) or bool(state["stale"]))
        try:
            records = self._lanes.step(state, policy, hold=hold, flatten=flatten)
        except TradingEnvError as error:
            self._status.holds += 1
            self._status.state = f"holding: {error}"
            return 0
        self._market.publish(state.reshape(1))
        self._experience.publish(records, state=self._lanes.save())
        self._account(state, records, policy is not None, unsafe)
        if policy is not None:
            self._status.acting_trainer = policy.trainer
            self._status.acting_version = policy.version
            self._status.policy_age_s = (time.time_ns() - policy.created_ns) / 1e9
        return 1

    def _account(self, state: Array, records: Array, has_policy: bool, unsafe: str) -> None:
        status = self._status
        status.market_steps += 1
        status.experience += int(records.size)
        status.episodes += int(records["first"].sum())
        status.mean_reward = float(records["reward"].mean())
        status.mean_equity = float(records["equity"].mean())
        status.data_age_s = float(state["age_s"])
        status.policies_refused = self._policies.refused
        status.slots = [name.decode() for name in state["contract"].tolist()]
        if unsafe:
            status.holds += 1
            doing = "flattening" if self._config.safe_state == "flatten" else "holding"
            status.state = f"{doing}: {unsafe}"
        elif state["stale"]:
            status.holds += 1
            status.state = f"holding: data is {float(state['age_s']):.0f} s old"
        else:
            status.state = "acting" if has_policy else "acting: at random, no policy yet"

    def _publish_status(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        quiet = moment - self._since_tick
        if quiet > self._config.quiet_s:
            self._status.state = f"holding: no tick for {quiet:.0f} s"
        if now or moment - self._published_at >= STATUS_INTERVAL_S:
            self._published_at = moment
            self._cell.write(self._status)


def _state_bytes(lanes: int, latency_states: int) -> int:
    """Room for the lanes' accounts (columns, orders under way, counters) in the commit."""
    doubled = 1 << max(lanes - 1, MIN_ROOM_LANES - 1).bit_length()
    return 4096 + doubled * (512 + 8 * SLOTS * latency_states)
