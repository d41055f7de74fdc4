"""Evaluation: baselines do what they are named for, measures are their definitions."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from config.trading import TradingConfig
from mesh import Mesh
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.evaluation import baselines, evaluate, report
from workers.trading_env.evaluation.__main__ import main, parser
from workers.trading_env.evaluation.__main__ import market as market_of
from workers.trading_env.evaluation.baselines import BuyAndHold, DeltaHedge, Oracle, best_paths
from workers.trading_env.evaluation.measures import measures, stationary_bootstrap
from workers.trading_env.evaluation.run import Run, rollout
from workers.trading_env.market.archive import write_states
from workers.trading_env.market.block import MarketBlock
from workers.trading_env.policy.numpy_policy import like
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.synthetic import synthetic_provider

CONFIG = TradingConfig()


@pytest.fixture(scope="module")
def synthetic():
    """A small synthetic market."""
    return synthetic_provider(5, states=200)


def test_baselines_are_ordered_as_they_should_be(synthetic):
    """Flat earns nothing, chance pays costs, nobody beats hindsight."""
    runs = evaluate(synthetic, baselines(CONFIG), CONFIG, episodes=4, seed=2)
    grown = {name: (run.equity[-1] / run.equity[0]).mean() - 1 for name, run in runs.items()}
    assert grown["flat"] == 0.0
    assert grown["random"] < 0.0
    assert all(grown["oracle"] > other for name, other in grown.items() if name != "oracle")
    assert not runs["flat"].traded.any()
    assert runs["buy_and_hold"].traded[0].all()


def test_evaluation_is_reproducible(synthetic):
    """The same seed gives the same document, random baseline included, and it is plain JSON."""
    documents = [
        json.dumps(report(evaluate(synthetic, baselines(CONFIG), CONFIG, episodes=3, seed=4)))
        for _ in range(2)
    ]
    assert documents[0] == documents[1]
    assert "NaN" not in documents[0]


def test_the_delta_hedge_is_neutral(synthetic):
    """Wherever it holds anything, its net delta is a small part of what it is long."""
    env = TradingVectorEnv(synthetic, 2, CONFIG)
    policy = DeltaHedge(CONFIG)
    observations, _ = env.reset(seed=0)
    neutral = []
    for _ in range(100):
        observations, *_ = env.step(policy(observations))
        states = env.market.block().states[env.market.then]
        positions = env.simulation.accounts.positions
        net = (positions * states["greeks"][:, :, 0]).sum(1)
        gross = np.abs(positions * states["greeks"][:, :, 0]).sum(1)
        neutral.append(np.abs(net) / np.maximum(gross, 1e-9))
        assert (positions >= 0).all()
    assert np.median(neutral) < 0.1


def test_the_oracle_is_the_best_of_all_paths():
    """Against every path of a short market, by hand: none earns more."""
    config = TradingConfig(ruin_share=0.0)
    states = market(3, 6)
    block = MarketBlock.of(states, config)
    provider = RecordedProvider(states)

    def final(act):
        env = TradingVectorEnv(provider, 1, config)
        env.reset(seed=0)
        for step in range(5):
            *_, info = env.step(act(step))
        return info["equity"][0]

    oracle = Oracle()
    env = TradingVectorEnv(provider, 1, config)
    best = rollout(env, oracle, seed=0, steps=5).equity[-1, 0]
    for slot in range(3):
        alone = np.zeros((1, SLOTS))
        plan = best_paths(block.rows, config)
        held, chosen = 1, []
        for step in range(5):
            held = int(plan[step, slot, held])
            chosen.append(held - 1)
            held = 1 if states["rolled"][step + 1, slot] else held
        worth = []
        for code in range(3**5):
            path = [code // 3**k % 3 - 1 for k in range(5)]

            def act(step, path=path, slot=slot, alone=alone):
                alone[:] = 0.0
                alone[0, slot] = path[step]
                return alone

            worth.append(final(act))
        mine = final(lambda step, c=chosen, s=slot: np.eye(SLOTS)[s][None] * c[step])
        assert mine == pytest.approx(max(worth), abs=1e-6)
    assert best >= config.initial_balance


def plain_run(returns, costs=None):
    """A run of one episode with these returns."""
    equity = 1000.0 * np.concatenate([[1.0], np.cumprod(1.0 + returns)])[:, None]
    column = np.zeros((len(returns), 1))
    held = np.ones_like(column, bool)
    paid = column if costs is None else costs[:, None]
    return Run(equity, column + 0.5, paid, column + 100.0, held, held, 86_400.0, ("end of data",))


def test_measures_are_their_definitions():
    """Against the textbook formulas on a known series, daily steps."""
    returns = np.random.default_rng(0).normal(0.001, 0.01, 365)
    found = measures(plain_run(returns))
    value = {name: entry["value"] for name, entry in found.items()}
    assert value["total_return"] == pytest.approx(np.prod(1 + returns) - 1)
    root = math.sqrt(365)
    assert value["sharpe"] == pytest.approx(returns.mean() / returns.std() * root)
    downside = math.sqrt(np.mean(np.minimum(returns, 0) ** 2))
    assert value["sortino"] == pytest.approx(returns.mean() / downside * root)
    path = np.concatenate([[1.0], np.cumprod(1 + returns)])
    drawdown = (1 - path / np.maximum.accumulate(path)).max()
    assert value["max_drawdown"] == pytest.approx(drawdown)
    assert value["hit_rate"] == pytest.approx((returns > 0).mean())
    assert value["mean_reward"] == 0.5
    for name, entry in found.items():
        assert entry["low"] <= entry["value"] <= entry["high"], name


def test_the_intervals_cover_what_they_should():
    """Of 60 series with a known mean, about 95 % of the intervals hold it (at least 80 %)."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        noise = rng.normal(0, 0.01, 401)
        found = measures(plain_run(0.002 + noise[1:] + 0.5 * noise[:-1]))["sharpe"]
        truth = 0.002 / (0.01 * math.sqrt(1.25)) * math.sqrt(365)
        covered += found["low"] <= truth <= found["high"]
    assert covered >= 48


def test_bootstrap_blocks_are_stretches_of_the_series():
    """Most entries follow their neighbour, all are in range."""
    indices = stationary_bootstrap(1000, 20, np.random.default_rng(0))
    assert indices.min() >= 0
    assert indices.max() < 1000
    following = (np.diff(indices, axis=1) % 1000 == 1).mean()
    assert following == pytest.approx(0.9, abs=0.02)


def test_undefined_measures_are_none():
    """Nothing held: no Sharpe ratio, no hit rate, and no NaN in the document."""
    run = plain_run(np.zeros(10))
    found = measures(run)
    assert found["sharpe"]["value"] is None
    assert found["hit_rate"]["value"] is None
    assert found["total_return"]["value"] == 0.0


def test_ruin_is_told_and_stops_the_count():
    """An episode that ended is not traded on in the figures."""
    config = TradingConfig(initial_balance=20_000.0)
    provider = RecordedProvider(market(1, 60))
    runs = evaluate(provider, {"all in": BuyAndHold(1.0)}, config, episodes=2)
    run = runs["all in"]
    assert set(run.ended) <= {"ruin", "end of data"}
    document = report(runs)["policies"]["all in"]
    assert document["steps"] == int(run.counted.sum())
    assert np.isfinite(run.equity).all()


def test_the_command_writes_a_report_and_a_picture(tmp_path, capsys):
    """report.json and report.png of a policy file and the baselines on the known optimum."""
    pytest.importorskip("matplotlib")
    np.savez(tmp_path / "policy.npz", **like([8]))
    code = main(
        [
            "--known-optimum",
            "1",
            "--policy",
            str(tmp_path / "policy.npz"),
            "--episodes",
            "4",
            "--steps",
            "60",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert code == 0
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(document["policies"]) == {"policy", "flat", "random", "optimum"}
    reward = {n: e["measures"]["mean_reward"]["value"] for n, e in document["policies"].items()}
    assert reward["policy"] == 0.0
    assert reward["random"] < 0.0 < reward["optimum"]
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert json.loads(capsys.readouterr().out) == document
    assert main(["--policy", str(tmp_path / "none.npz")]) == 1


def test_what_was_held_out_is_evaluated_alone(tmp_path, capsys):
    """`--held-out`: the last fifth of the file, by the rules that `--set` gives."""
    states = market(0, 100)
    write_states(tmp_path / "states.parquet", states)
    arguments = ["--data", str(tmp_path / "states.parquet"), "--episodes", "2"]
    options = parser().parse_args([*arguments, "--held-out", "--set", "multiplier=1"])
    provider, config = market_of(options)
    assert np.array_equal(provider.states, states[-(states.size // 5) :])
    assert config.multiplier == 1.0
    assert main([*arguments, "--held-out"]) == 0
    steps = json.loads(capsys.readouterr().out)["policies"]["flat"]["steps"]
    assert 0 < steps < 2 * states.size // 5
    assert main([*arguments, "--set", "multiplier=none"]) == 78
    assert "trading.multiplier" in capsys.readouterr().err


def test_options_of_one_underlying_are_evaluated(data):
    """`--root` chooses among the chains of a file."""
    file = str(data / "deribit" / "btc_eth_chains_202601.csv.gz")
    for root in ("BTC", "ETH"):
        provider, _ = market_of(parser().parse_args(["--data", file, "--root", root]))
        contracts = provider.states["contract"]
        held = contracts[contracts != b""]
        assert held.size > 0
        assert all(contract.startswith(root.encode()) for contract in held.tolist())


def test_meshctl_evaluates_the_newest_policy_of_a_mesh(mesh_directory):
    """The operator's command: the published policy and the baselines, as JSON."""
    arrays = like([4])
    segment = Mesh(mesh_directory).tensors("policy/td3-1", like=arrays, create=True)
    segment.publish(arrays)
    command = [sys.executable, "-m", "workers.ctl.cli", "--mesh", str(mesh_directory), "evaluate"]
    run = subprocess.run(
        [*command, "td3-1", "--episodes", "2"], capture_output=True, text=True, check=True
    )
    assert "policy" in json.loads(run.stdout)["policies"]
    failed = subprocess.run([*command, "td3-7"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "policy/td3-7" in failed.stderr
    segment.close()
