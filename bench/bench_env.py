"""The trading environment beside its peers: steps a second, memory, latency, in one run.

    make bench-env                       all figures
    bench/bench_env.py FIGURE ...        some of: steps policy memory latency

Peers: a plain environment as users write one (in gymnasium's SyncVectorEnv), our own scalar one in
the same, gym-anytrading and gym-trading-env (the `bench` extra; a line says so where they are
missing: their observation is far smaller). The limit of copied observations is memory: the copy
of the windows, 6.4 kB a step, with nothing else.
Latency is that of a real feeder process from a tick published to the action published.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from mesh import Mesh, MeshError, SegmentMissing
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE, SLOTS, TICK_DTYPE, WINDOW
from workers.trading_env.account.observation import Windows
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.market.block import ROW_DTYPE
from workers.trading_env.policy.numpy_policy import act, layers_of, like
from workers.trading_env.providers.known_optimum import known_optimum_provider
from workers.trading_env.providers.synthetic import SyntheticChain, synthetic_provider

if TYPE_CHECKING:
    from workers.trading_env.providers.recorded import RecordedProvider

ROOT = Path(__file__).parent.parent
REPEATS = 5
BUDGET_S = 0.4
RNG = np.random.default_rng(0)
OBSERVATION_BYTES = WINDOW * 100 * 4


def show(bench: str, value: float, unit: str, **more: Any) -> None:
    """Print one figure as a JSON line; `peer` gives the ratio too."""
    line = {"bench": bench, "value": round(value, 3), "unit": unit}
    if peer := more.pop("peer", None):
        line |= {"peer": round(peer, 3), "ratio": round(value / peer, 2)}
    print(json.dumps({**line, **more}), flush=True)


def rate(step: Callable[[], object], per_call: int) -> float:
    """Steps a second: median over repeats of as many calls as fit the budget."""
    calls, spent = 1, 0.0
    while spent < BUDGET_S / 4:
        calls *= 2
        start = time.perf_counter()
        for _ in range(calls):
            step()
        spent = time.perf_counter() - start
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        rates.append(calls * per_call / (time.perf_counter() - start))
    return median(rates)


class PlainEnv(gymnasium.Env[Any, Any]):
    """What users write: one frame a state, a deque of 16, np.stack at every step."""

    def __init__(self, states: Any) -> None:
        self.price = states["price"].copy()
        self.half = 0.5 * (states["ask"] - states["bid"])
        self.half = np.nan_to_num(self.half)
        self.strike, self.spot = states["strike"].copy(), states["underlying"].copy()
        self.greeks, self.indicators = states["greeks"].copy(), states["indicators"].copy()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (16, 100), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (SLOTS,), np.float32)

    def _frame(self) -> Any:
        frame = np.zeros(100, np.float32)
        frame[0] = self.cash / 1e6
        frame[1:11] = self.positions / 10.0
        frame[11:21] = np.log(self.spot[self.row] / self.strike[self.row])
        frame[21:71] = np.tanh(self.greeks[self.row]).ravel()
        frame[71:91] = self.indicators[self.row]
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        self.row, self.cash, self.value, self.peak = 0, 1e6, 1e6, 1e6
        self.positions = np.zeros(SLOTS)
        self.returns: deque[float] = deque(maxlen=20)
        self.frames = deque([self._frame()] * 16, maxlen=16)
        return np.stack(self.frames), {}

    def step(self, action: Any) -> Any:
        """Trade, move on, value."""
        target = np.clip(action, -1.0, 1.0) * 10.0
        change = target - self.positions
        price = self.price[self.row]
        cost = np.sum(np.abs(change) * (price * 1e-3 + self.half[self.row])) * 100
        self.cash -= np.sum(change * price) * 100 + cost
        self.positions = target
        self.row += 1
        value = self.cash + np.sum(self.positions * self.price[self.row]) * 100
        gained = (value - self.value) / self.value
        self.value, self.peak = value, max(self.peak, value)
        self.returns.append(gained)
        drawdown = max(0.0, (self.peak - value) / self.peak - 0.1)
        reward = gained - 0.5 * float(np.std(self.returns)) - 0.1 * drawdown
        self.frames.append(self._frame())
        ended = value <= 5e5
        return (
            np.stack(self.frames),
            reward,
            ended,
            self.row >= len(self.price) - 1,
            {"equity": value, "cost": cost},
        )


def batched(provider: RecordedProvider, lanes: int, *, copy: bool) -> float:
    """Steps a second of our vector environment, lanes at random rows."""
    env = TradingVectorEnv(provider, lanes, copy=copy)
    env.reset(seed=0)
    actions = RNG.uniform(-0.1, 0.1, (lanes, SLOTS)).astype(np.float32)
    return rate(lambda: env.step(actions), lanes)


def copying(lanes: int) -> float:
    """Copies a second of an observation out of the frames: what `copy=True` adds to a step."""
    windows = Windows(lanes)

    def step() -> None:
        windows.at = windows.next_column()
        windows.view().copy()

    return rate(step, lanes)


def sync(make: Callable[[], gymnasium.Env[Any, Any]], lanes: int, actions: Any) -> float:
    """Steps a second of gymnasium's SyncVectorEnv."""
    env = SyncVectorEnv([make] * lanes)
    env.reset(seed=0)
    return rate(lambda: env.step(actions), lanes)


def published() -> dict[str, Callable[[], gymnasium.Env[Any, Any]]]:
    """Constructors of the published trading environments that are installed."""
    import pandas as pd  # noqa: PLC0415 - it comes with the peers

    close = 100.0 * np.exp(np.cumsum(RNG.normal(0, 1e-3, 5000)))
    columns = {"open": close, "high": close * 1.001, "low": close * 0.999, "close": close}
    frame = pd.DataFrame({**columns, "volume": 1.0})
    found: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {}
    try:
        from gym_anytrading.envs import StocksEnv  # noqa: PLC0415 - it may be missing

        titled = frame.rename(columns=str.title)
        found["gym-anytrading"] = lambda: StocksEnv(titled, 16, (16, 5000))
    except ImportError as error:
        print(json.dumps({"bench": "steps.gym-anytrading", "skipped": f"{error}: pip install"}))
    try:
        from gym_trading_env.environments import TradingEnv  # noqa: PLC0415 - it may be missing

        dated = frame.set_index(pd.date_range("2026-01-01", periods=5000, freq="min"))
        dated["feature_return"] = dated["close"].pct_change().fillna(0.0)
        found["gym-trading-env"] = lambda: TradingEnv(dated, windows=16, verbose=0)
    except ImportError as error:
        print(json.dumps({"bench": "steps.gym-trading-env", "skipped": f"{error}: pip install"}))
    return found


def steps() -> None:
    """Steps a second: ours, its limit, peers."""
    provider = synthetic_provider(0, states=2000)
    states = provider.states
    limits = {lanes: copying(lanes) for lanes in (64, 1024)}
    for lanes, limit in limits.items():
        show(f"steps.limit: a copy of the windows alone, N={lanes}", limit, "1/s")
    actions = RNG.uniform(-0.1, 0.1, (64, SLOTS)).astype(np.float32)
    plain = sync(lambda: PlainEnv(states), 64, actions)
    show("steps.peer: plain environment in SyncVectorEnv, N=64", plain, "1/s")
    scalar = sync(lambda: TradingEnvironment(provider), 64, actions)
    show("steps.ours: scalar in SyncVectorEnv, N=64", scalar, "1/s", peer=plain)
    for name, make in published().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = sync(make, 64, np.zeros(64, np.int64))
        show(f"steps.peer: {name} in SyncVectorEnv, N=64", theirs, "1/s")
    for lanes in (64, 1024):
        for copy in (True, False):
            what = f"steps.ours: batched, N={lanes}, {'copied' if copy else 'view'}"
            more = {"limit": round(limits[lanes])} if copy else {}
            show(what, batched(provider, lanes, copy=copy), "1/s", peer=plain, **more)
    env = TradingEnvironment(provider)
    env.reset(seed=0)

    def single() -> None:
        ended = env.step(actions[0])
        if ended[2] or ended[3]:
            env.reset()

    alone, users = PlainEnv(states), [0]
    alone.reset()

    def plain_single() -> None:
        ended = alone.step(actions[0])
        users[0] += 1
        if ended[2] or ended[3]:
            alone.reset()

    show("steps.ours: single", rate(single, 1), "1/s", peer=rate(plain_single, 1))


def policy() -> None:
    """Microseconds of one action by NumPy, beside the matrix products alone."""
    arrays = like([256, 256])
    for name, array in arrays.items():
        if name[0] in "wb":
            array[...] = 0.05 * RNG.standard_normal(array.shape)
    layers = layers_of(arrays)
    for lanes in (1, 64):
        windows = RNG.standard_normal((lanes, WINDOW, 100)).astype(np.float32)
        flat, hidden = windows.reshape(lanes, -1), np.ones((lanes, 256), np.float32)
        inputs = [flat, hidden, hidden]

        def products(inputs: list[Any] = inputs) -> None:
            for values, (weights, _) in zip(inputs, layers, strict=True):
                values @ weights.T  # the product is all that is wanted

        took = 1e6 / rate(lambda windows=windows: act(layers, windows), 1)
        limit = 1e6 / rate(products, 1)
        show(f"policy.act, [256, 256], N={lanes}", took, "us", peer=limit)


def memory() -> None:
    """Bytes of a million transitions: ours, and a replay buffer that stores both windows."""
    ours = EXPERIENCE_DTYPE.itemsize * 1e6 / 2**30
    stacked = (2 * OBSERVATION_BYTES + 4 * SLOTS + 8) * 1e6 / 2**30
    show("memory.experience of a million transitions", ours, "GiB", peer=stacked)
    market = (MARKET_DTYPE.itemsize + ROW_DTYPE.itemsize) * 1e6 / 2**30
    dense = OBSERVATION_BYTES * 1e6 / 2**30
    show("memory.market of a million states, all lanes", market, "GiB", peer=dense)
    provider = known_optimum_provider(episodes=8, steps=128)
    lanes = 1024
    env = TradingVectorEnv(provider, lanes, copy=False)
    kept = env.simulation.windows.frames.nbytes + env.simulation.accounts.memory.nbytes
    show("memory.a lane of the vector environment", kept / lanes / 1024, "KiB")


PROFILE = """
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
[feeder]
lanes = {lanes}
interval_s = 1.0
"""


def latency() -> None:
    """Milliseconds from the tick that makes a state due to the action in the ring, real feeder."""
    for lanes in (1, 64):
        folder = Path(tempfile.mkdtemp(prefix="bench-env-", dir="/dev/shm"))
        try:
            took = sorted(_latencies(folder, lanes))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            value = took[int(share * (len(took) - 1))]
            show(f"latency.tick to action, {lanes} lanes, {name}", value * 1e3, "ms")


def _latencies(folder: Path, lanes: int, count: int = 400) -> list[float]:
    mesh = Mesh(folder / "mesh")
    ticks = mesh.ring("ticks", TICK_DTYPE, capacity=1 << 14, create=True)
    quotes = mesh.table("quotes", TICK_DTYPE, rows=4096, create=True)
    arrays = like([256, 256])
    arrays["created_ns"][...] = 2**62
    segment = mesh.tensors("policy/td3-0", like=arrays, create=True)
    segment.publish(arrays)
    profile = folder / "bench.toml"
    profile.write_text(PROFILE.format(lanes=lanes))
    feeder = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.feeder",
            "--profile",
            str(profile),
            "--set",
            f"mesh.path={folder / 'mesh'}",
            "--set",
            f"run_directory={folder / 'run'}",
        ],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        batches = list(SyntheticChain(interval_s=1.0).ticks(count + 50, seed=0))
        ring = _experience(mesh, feeder, ticks, batches[:40])
        reader = ring.reader("latest")
        found = []
        for batch in batches[40:]:
            start = time.perf_counter()
            ticks.publish(batch[:1])  # the first tick of a new second: the state before is due
            if not reader.wait_published(2.0):
                continue
            found.append(time.perf_counter() - start)
            reader.read(max_records=1 << 16)
            ticks.publish(batch[1:])
            time.sleep(0.004)  # the feeder takes the quotes and goes to sleep, as between ticks
        return found
    finally:
        feeder.send_signal(signal.SIGTERM)
        feeder.communicate(timeout=10)
        for one in (segment, quotes, ticks):
            with suppress(MeshError):
                one.close()


def _experience(mesh: Mesh, feeder: subprocess.Popen[bytes], ticks: Any, batches: list[Any]) -> Any:
    """The ring, once the feeder fills it."""
    deadline = time.monotonic() + 30
    for batch in [*batches, *([None] * 10_000)]:
        if batch is not None:
            ticks.publish(batch)
        try:
            ring = mesh.ring("experience", EXPERIENCE_DTYPE)
            if ring.reader("oldest").wait_published(0.2):
                return ring
        except SegmentMissing:
            time.sleep(0.2)
        if feeder.poll() is not None or time.monotonic() > deadline:
            break
    raise SystemExit(f"the feeder did not start: {feeder.stderr.read()[-2000:]!r}")


FIGURES = {"steps": steps, "policy": policy, "memory": memory, "latency": latency}


def main() -> None:
    """Run the figures that were asked for, all by default."""
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
