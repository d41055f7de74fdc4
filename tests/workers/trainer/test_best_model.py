"""Offline training: scored on what it does not learn from, the best kept, also over a resume."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.callbacks import BaseCallback

from config.trading import TradingConfig
from config.trainer import TrainerConfig
from tests.workers.trading_env.markets import market
from tests.workers.trainer.batches import largest_difference
from workers.trading_env.market.archive import write_states
from workers.trading_env.policy.numpy_policy import PublishedPolicy, like
from workers.trading_env.providers.splits import EMBARGO_STATES, HELD_OUT_SHARE
from workers.trainer.cli import main, train_td3
from workers.trainer.evaluation.evaluation import HELD_OUT_SEED, Evaluation, acting
from workers.trainer.evaluation.markets import offline_market
from workers.trainer.spool import Spool
from workers.trainer.td3.algorithm import TD3

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
CONFIG = TrainerConfig(
    hidden=(16, 16),
    batch=32,
    learning_starts=64,
    learning_rate=3e-3,
    device="cpu",
    evaluate_every=20,
    evaluate_lanes=8,
    evaluate_steps=64,
)
#: NumPy and torch add the 256 float32 products of a unit in another order, in three layers.
ROUNDING = 3 * 256 * 2.0**-24
OPTIONS = {"market": "known_optimum", "lanes": 8, "progress_bar": False, "config": CONFIG}


def points(spool):
    """(updates, score) of every evaluation in a spool."""
    entries = [json.loads(line) for line in spool.path.read_text().splitlines()]
    return [(e["step"], e["metrics"]["evaluation/mean_reward"]) for e in entries if "metrics" in e]


def best_of(path):
    """The arrays of the best model."""
    with np.load(path.with_suffix(".best.npz")) as arrays:
        return dict(arrays)


def test_the_best_of_all_evaluations_is_kept(tmp_path):
    """Every 20 updates and at the end; the files are those of the highest score, and a score is
    what an evaluation elsewhere finds for the file."""
    spool = Spool(tmp_path, "train", "run", 1 << 20)
    with closing(spool):  # a failure below must not leave its file open for the next test
        model = train_td3(1000, tmp_path / "m", spool=spool, **OPTIONS)
    scores = points(spool)
    assert [updates for updates, _ in scores] == [
        *range(20, model._n_updates, 20),
        model._n_updates,
    ]
    updates, score = max(scores, key=lambda point: point[1])
    arrays = best_of(tmp_path / "m.zip")
    assert (int(arrays["updates"]), float(arrays["score"])) == (updates, score)
    evaluation = Evaluation("known_optimum", TradingConfig(), lanes=8, steps=64)
    stock = StockTD3.load(tmp_path / "m.best.zip", device="cpu")
    assert evaluation.score(acting(stock)).mean_reward == score
    assert stock._n_updates == updates
    assert evaluation.score(PublishedPolicy(arrays)).mean_reward == pytest.approx(
        score, rel=ROUNDING
    )
    last = StockTD3.load(tmp_path / "m.zip", device="cpu")
    assert evaluation.score(acting(last)).mean_reward == scores[-1][1] <= score


def test_evaluating_changes_nothing_of_the_training(tmp_path):
    """The same weights, bit for bit, as without."""
    without = CONFIG.model_copy(update={"evaluate_every": 0})
    one = train_td3(600, tmp_path / "a", **OPTIONS)
    other = train_td3(600, tmp_path / "b", **{**OPTIONS, "config": without})
    assert largest_difference(one, other) == 0.0
    assert (tmp_path / "a.best.zip").exists()
    assert not list(tmp_path.glob("b.best*"))


class Visited(BaseCallback):
    """The market times that the training saw."""

    def __init__(self):
        super().__init__()
        self.times = set()

    def _on_step(self):
        self.times |= {int(info["ts_event"]) for info in self.locals["infos"]}
        return True


def test_what_is_held_out_is_never_trained_on(tmp_path):
    """Of a recorded file the last fifth, and an embargo before it: no episode went there, and the
    evaluation went nowhere else."""
    states = market(0, 200)
    write_states(tmp_path / "states.parquet", states)
    visited = Visited()
    train_td3(1600, tmp_path / "m", **{**OPTIONS, "market": states}, callbacks=[visited])
    first = states["ts_event"][-int(HELD_OUT_SHARE * states.size)]
    gap = np.median(np.diff(states["ts_event"]))
    assert max(visited.times) <= first - EMBARGO_STATES * gap
    assert len(visited.times) > 0.5 * states.size
    found = offline_market(
        tmp_path / "states.parquet", seed=0, trading=TradingConfig(), config=CONFIG
    )
    assert found.held_out.prepare().states["ts_event"][0] == first
    assert found.held_out.prepare().states["ts_event"][-1] == states["ts_event"][-1]


def test_simulated_markets_are_evaluated_on_another_seed():
    """Also by whoever trains on the seed that is otherwise held out."""
    for seed in (0, HELD_OUT_SEED):
        found = offline_market("known_optimum", seed=seed, trading=TradingConfig(), config=CONFIG)
        held_out = found.held_out.prepare().states
        assert not np.array_equal(found.training.states["price"][:50], held_out["price"][:50])


@pytest.mark.parametrize(("bias", "stays"), [(0.0, True), (5.0, False)])
def test_a_resumed_run_has_to_beat_the_best_it_had(tmp_path, bias, stays):
    """On a market where trading costs, one that does nothing stays the best; one that always holds
    all it may does not, whatever score it claims."""
    write_states(tmp_path / "states.parquet", market(0, 200))
    options = {**OPTIONS, "market": tmp_path / "states.parquet"}
    first = train_td3(400, tmp_path / "m", **options)
    arrays = {**like((4,)), "updates": np.array(7), "score": np.array(1e9)}
    arrays["b1"] = np.full(10, bias, np.float32)
    np.savez(tmp_path / "m.best.npz", **arrays)
    train_td3(first.num_timesteps + 400, tmp_path / "m", resume=True, **options)
    assert (int(best_of(tmp_path / "m.zip")["updates"]) == 7) is stays


def test_a_new_run_owes_nothing_to_an_older_best(tmp_path):
    """Trained anew: the older best does not have to be beaten; before the first update there is
    no best, and no older one stays beside the new model."""
    np.savez(tmp_path / "m.best.npz", **{**like((4,)), "score": np.array(1e9)})
    train_td3(200, tmp_path / "m", **OPTIONS)
    assert best_of(tmp_path / "m.zip")["score"] < 1e8
    train_td3(32, tmp_path / "m", **OPTIONS)
    assert (tmp_path / "m.zip").exists()
    assert not list(tmp_path.glob("m.best*"))


def test_a_best_that_is_not_whole_is_none(tmp_path):
    """Cut by something: a resumed run finds a best of its own."""
    first = train_td3(200, tmp_path / "m", **OPTIONS)
    file = tmp_path / "m.best.npz"
    for content in (b"", file.read_bytes()[:300], b"PK no zip"):
        file.write_bytes(content)
        steps = first.num_timesteps + 80
        first = train_td3(steps, tmp_path / "m", resume=True, **OPTIONS)
        assert np.isfinite(best_of(tmp_path / "m.zip")["score"])


def test_a_best_that_cannot_be_written_costs_that_file(tmp_path):
    """Its place is taken: training goes on and the last model is model_files."""
    (tmp_path / "m.best.tmp").mkdir()
    model = train_td3(400, tmp_path / "m", **OPTIONS)
    assert TD3.load(tmp_path / "m.zip", device="cpu")._n_updates == model._n_updates > 20
    assert not list(tmp_path.glob("m.best.[nz]*"))


SMALL = [
    "--lanes",
    "8",
    "--set",
    "learning_starts=64",
    "--set",
    "batch=16",
    "--set",
    "hidden=[16, 16]",
    "--set",
    "evaluate_lanes=4",
]


def test_command_registers_the_best(tmp_path, capsys):
    """`--evaluate-every`: scores in the spool, the best files under the alias `best`; 0: the last
    ones under `newest`."""
    arguments = [
        "--known-optimum",
        "1",
        "--timesteps",
        "600",
        "--tracking",
        str(tmp_path),
        *SMALL,
        "--model",
        str(tmp_path / "m.zip"),
    ]
    assert main([*arguments, "--evaluate-every", "30"]) == 0
    assert "m.best.zip: " in capsys.readouterr().out
    assert main([*arguments, "--evaluate-every", "0"]) == 0
    assert "best" not in capsys.readouterr().out
    lines = (tmp_path / "tracking" / "train-00000000.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    best, newest = (entry for entry in entries if "model" in entry)
    assert (best["alias"], newest["alias"]) == ("best", "newest")
    assert [file.rpartition("/")[2] for file in best["files"]] == ["m.best.zip", "m.best.npz"]
    scores = [
        e["metrics"]["evaluation/mean_reward"]
        for e in entries
        if "evaluation/mean_reward" in e.get("metrics", {})
    ]
    assert len(scores) >= 2


def test_another_market_may_be_evaluated_on(tmp_path, capsys):
    """`--evaluate-on`: its own file, all of it; one that is none is said before the training."""
    write_states(tmp_path / "train.parquet", market(0, 30))
    write_states(tmp_path / "test.parquet", market(1, 30))
    arguments = [
        "--data",
        str(tmp_path / "train.parquet"),
        "--timesteps",
        "160",
        *SMALL,
        "--model",
        str(tmp_path / "m.zip"),
    ]
    assert main(arguments) == 1  # 30 states hold too little for both
    assert "--evaluate-on another file" in capsys.readouterr().err
    assert main([*arguments, "--evaluate-on", str(tmp_path / "test.parquet")]) == 0
    assert main([*arguments, "--evaluate-on", str(tmp_path / "no.parquet")]) == 1
    assert "no.parquet" in capsys.readouterr().err


CHAINS = {
    "a chain": ("lean/option/usa/minute/goog/20151224_quote_american.zip",),
    "a folder": ("lean/option/usa/minute/goog",),
    "a day of a folder": ("lean/option/usa/minute/goog", "--date", "20151223"),
    "Bitcoin": ("deribit/btc_eth_chains_202601.csv.gz", "--root", "BTC"),
    "Ether": ("deribit/btc_eth_chains_202601.csv.gz", "--root", "ETH"),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_recorded_chains_are_trained_on(tmp_path, data, chain):
    """From the file as its source has it to a model that stock stable-baselines3 loads, scored on
    the file's end."""
    path, *which = chain
    arguments = [
        "--data",
        str(data / path),
        *which,
        "--timesteps",
        "800",
        *SMALL,
        "--model",
        str(tmp_path / "m.zip"),
        "--evaluate-every",
        "30",
        "--set",
        "trading.multiplier=1",
    ]
    assert main(arguments) == 0
    assert np.isfinite(best_of(tmp_path / "m.zip")["score"])
    window = np.zeros((1, 16, 100), np.float32)
    for name in ("m.zip", "m.best.zip"):
        actions, _ = StockTD3.load(tmp_path / name, device="cpu").predict(window)
        assert np.abs(actions).max() <= 1.0


def test_options_that_are_not_there_are_said(tmp_path, data, capsys):
    """Another root than those of the file, another day than those of the folder."""
    arguments = ["--timesteps", "800", *SMALL, "--model", str(tmp_path / "m.zip")]
    bitcoin = str(data / "deribit" / "btc_eth_chains_202601.csv.gz")
    assert main([*arguments, "--data", bitcoin, "--root", "SOL"]) == 1
    assert "0 options known" in capsys.readouterr().err
    days = str(data / "lean" / "option" / "usa" / "minute" / "goog")
    assert main([*arguments, "--data", days, "--date", "20200101"]) == 1
    assert "20200101" in capsys.readouterr().err
