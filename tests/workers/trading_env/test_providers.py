"""Providers of real data: recorded files, our archive, and a mesh."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from config.trading import TradingConfig
from mesh import Mesh
from tests.conftest import DATA
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.market_data.families import open_archive
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.errors import (
    BadMarketData,
    EndOfData,
    NoMarketData,
    StaleData,
)
from workers.trading_env.market.archive import ArchiveWriter, read_states, write_states
from workers.trading_env.market.indicators import NAMES
from workers.trading_env.providers.files import file_provider
from workers.trading_env.providers.live import LiveProvider
from workers.trading_env.providers.recorded import RecordedProvider, states_of_ticks
from workers.trading_env.record import main as record

CONFIG = TradingConfig(
    session_timezone="America/New_York", session_closes={date(2015, 12, 24): 46_800}
)


def assert_same_states(found, wanted):
    """Equal in every field; NaN equals NaN."""
    assert found.dtype == wanted.dtype
    for name in wanted.dtype.names:
        equal = {"equal_nan": True} if wanted[name].dtype.kind == "f" else {}
        assert np.array_equal(found[name], wanted[name], **equal), name


@pytest.fixture(scope="module")
def goog(request):
    """The GOOG option day as states, made once."""
    del request
    if not DATA.is_dir():
        pytest.skip("recorded market data is not beside the project (../shared/data)")
    path = DATA / "lean/option/usa/minute/goog/20151224_quote_american.zip"
    return file_provider(path, CONFIG)


def test_a_real_chain_is_traded(goog):
    """A real day, 2,192 contracts, a quarter of the bids absent: sane states, an episode."""
    states = goog.states
    assert 200 <= states.size <= 240
    assert 700 < states["underlying"].mean() < 800
    held = states["right"] != 0
    assert held.mean() > 0.9
    assert states["tradeable"][held].mean() > 0.7
    assert (np.diff(states["ts_event"]) > 0).all()
    moneyness = np.abs(np.log(states["strike"][held] / 748.0))
    assert np.median(moneyness) < 0.05
    env = TradingEnvironment(goog, CONFIG)
    observation, _ = env.reset(seed=0)
    total = 0
    while True:
        assert env.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = env.step(np.full(SLOTS, 0.3))
        assert np.isfinite(reward)
        total += 1
        if terminated or truncated:
            break
    assert info["ended"] == "end of data"
    assert total == states.size - 1


def test_a_real_early_close_ends_the_trading(goog):
    """24 December 2015, recorded: open until 13:00 in New York, closed in every state from then."""
    close = 1_450_980_000 * 10**9  # 13:00 in New York
    states = goog.states
    late = states["ts_event"] >= close
    assert late.any()
    assert (states["closed"] == late).all()
    to_close = states["indicators"][:, NAMES.index("to_close")]
    assert (np.diff(to_close[~late]) < 0).all()
    assert to_close[~late][-1] < 0.02
    assert not to_close[late].any()


def test_slots_of_a_real_chain_do_not_flap(goog):
    """In 200 minutes of a chain of thousands a slot changes its contract a few times at most."""
    rolls = goog.states["rolled"].sum(0)
    assert rolls.max() <= 5
    assert rolls.sum() <= 25


def test_the_future_of_the_file_changes_nothing(goog, data, tmp_path):
    """States made of the first half of the ticks are the states of the whole day, up to there."""
    path = data / "lean/option/usa/minute/goog/20151224_quote_american.zip"
    archive = open_archive(path, date="", spill=tmp_path)
    blocks = list(archive.blocks())
    ticks = np.concatenate(blocks)
    half = ticks[: ticks.size // 2]
    states = states_of_ticks([half], CONFIG)
    assert_same_states(states[:-1], goog.states[: states.size - 1])


@pytest.mark.parametrize(
    ("path", "interval_s"),
    [
        ("minute/goog/20151223_quote_american.zip", 60.0),
        ("hour/goog_2015_quote_american.zip", 3600.0),
    ],
)
def test_chains_without_an_underlying_are_traded(data, path, interval_s):
    """Lean days that lack the underlying's quotes: its price by put-call parity, about right."""
    provider = file_provider(data / "lean/option/usa" / path, CONFIG, interval_s=interval_s)
    states = provider.states
    assert states.size > 2
    assert 735 < states["underlying"].min() <= states["underlying"].max() < 765
    env = TradingEnvironment(provider, CONFIG)
    observation, _ = env.reset(seed=0)
    observation, reward, *_ = env.step(np.ones(SLOTS))
    assert env.observation_space.contains(observation)
    assert np.isfinite(reward)


@pytest.mark.parametrize(("root", "low", "high"), [("BTC", 75e3, 98e3), ("ETH", 2300, 3600)])
def test_coin_quoted_snapshots_are_traded(data, root, low, high):
    """Deribit chains of a month, quoted in coin, hours apart: an account in dollars."""
    config = TradingConfig(stale_s=86_400.0, contract_limit=1.0, multiplier=1.0)
    path = data / "deribit" / "btc_eth_chains_202601.csv.gz"
    provider = file_provider(path, config, root=root, interval_s=3600.0)
    states = provider.states
    assert states.size >= 119
    assert low < states["underlying"].min() < states["underlying"].max() < high
    held = states["right"] != 0
    assert all(name.startswith(root.encode()) for name in states["contract"][held])
    intrinsic = states["right"] * (states["underlying"][:, None] - states["strike"])
    over = states["price"] - np.maximum(intrinsic, 0.0)
    assert np.median(over[held] / states["underlying"].mean()) > 0.0
    assert (states["price"][held] < states["underlying"].max()).all()
    env = TradingEnvironment(provider, config)
    observation, _ = env.reset(seed=0)
    for _ in range(states.size - 1):
        assert env.observation_space.contains(observation)
        observation, reward, *_, info = env.step(np.full(SLOTS, 0.5))
        assert np.isfinite(reward)
    assert info["ended"] == "end of data"


def test_an_archive_gives_back_what_was_written(tmp_path, goog):
    """Parquet and back, in two parts: the same states, NaN included."""
    path = tmp_path / "states.parquet"
    with ArchiveWriter(path) as writer:
        writer.append(goog.states[:50])
        assert not path.exists()
        writer.append(goog.states[50:])
    assert_same_states(read_states(path), goog.states)
    provider = file_provider(path, CONFIG)
    assert provider.states.size == goog.states.size
    with pytest.raises(FileExistsError):
        ArchiveWriter(path)


def test_what_is_no_archive_is_a_typed_error(tmp_path):
    """No file, no Parquet, Parquet of something else, a file that was cut."""
    with pytest.raises(NoMarketData):
        read_states(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(BadMarketData, match="no readable Parquet"):
        read_states(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"price": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(BadMarketData, match="columns"):
        read_states(tmp_path / "other.parquet")
    write_states(tmp_path / "whole.parquet", market(0, 20))
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadMarketData, match="no readable Parquet"):
        read_states(tmp_path / "cut.parquet")


def test_a_damaged_archive_is_refused_or_whole(tmp_path):
    """One bit anywhere: the states as they were, or a typed error; pages have checksums."""
    path = tmp_path / "states.parquet"
    states = market(0, 20)
    write_states(path, states)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(4, len(good), 80):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.integers(8)]) + good[at + 1 :])
        try:
            assert_same_states(read_states(path), states)
        except BadMarketData as error:
            assert str(path) in str(error)  # noqa: PT017 - as it was, or refused
            refused += 1
    assert refused > 40


def test_recording_a_mesh(tmp_path, mesh_directory, capsys):
    """The command writes what the ring holds, from its oldest state on."""
    states = market(3, 40)
    ring = Mesh(mesh_directory).ring("market", MARKET_DTYPE, capacity=64, create=True)
    ring.publish(states)
    out = tmp_path / "live.parquet"
    arguments = ["--mesh", str(mesh_directory), "--out", str(out), "--states", "40"]
    assert record(arguments) == 0
    assert "40 states" in capsys.readouterr().out
    assert_same_states(read_states(out), states)
    assert record(arguments) == 1
    ring.close()


def test_live_environment_over_a_mesh(mesh_directory):
    """TradingEnvironment follows what the feeder publishes, and holds when it falls silent."""
    states = market(3, 40)
    states["rolled"], states["stale"], states["closed"] = False, False, False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    mesh = Mesh(mesh_directory)
    with pytest.raises(NoMarketData):
        LiveProvider(mesh, timeout_s=0.01).reset()
    ring = mesh.ring("market", MARKET_DTYPE, capacity=64, create=True)
    with pytest.raises(NoMarketData):
        LiveProvider(mesh, timeout_s=0.01).reset()
    ring.publish(states[:3])
    env = TradingEnvironment(LiveProvider(mesh, timeout_s=0.01), CONFIG)
    _, info = env.reset(seed=0)
    assert info["ts_event"] == states["ts_event"][2]
    ring.publish(states[3:4])
    *_, info = env.step(np.ones(SLOTS))
    assert info["ts_event"] == states["ts_event"][3]
    *_, info = env.step(np.ones(SLOTS))  # still filled at the quotes of the last good state
    before = info["equity"]
    *_, info = env.step(-np.ones(SLOTS))
    assert not info["fills"].any()
    assert info["equity"] == before
    provider = LiveProvider(mesh, timeout_s=0.01)
    provider.reset()
    with pytest.raises(StaleData):
        provider.advance()
    ring.close()


def test_a_live_market_that_began_anew_ends_the_episode(mesh_directory):
    """The feed went back a month: the episode is truncated, the next one begins there."""
    states = market(3, 10)
    states["ts_event"] += 1_767_225_600 * 10**9
    states["ts_event"][5:] -= 30 * 86_400 * 10**9
    ring = Mesh(mesh_directory).ring("market", MARKET_DTYPE, capacity=64, create=True)
    ring.publish(states[:5])
    env = TradingEnvironment(LiveProvider(Mesh(mesh_directory), timeout_s=0.01))
    env.reset(seed=0)
    ring.publish(states[5:7])
    _, reward, terminated, truncated, info = env.step(np.zeros(SLOTS))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["ended"] == "end of data"
    _, info = env.reset()
    assert info["ts_event"] == states["ts_event"][6]
    ring.close()


def test_a_live_reader_that_fell_behind_settles_what_left(mesh_directory):
    """States passed over are counted, and a contract that left meanwhile is closed at its price."""
    states = market(3, 10)
    states["rolled"] = False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    states["contract"][5:, 2] = b"Y"
    states["rolled"][5, 2], states["previous_price"][5, 2] = True, 7.5
    states["previous_half_spread"][5, 2] = 0.25
    mesh = Mesh(mesh_directory)
    ring = mesh.ring("market", MARKET_DTYPE, capacity=64, create=True)
    ring.publish(states[:3])
    provider = LiveProvider(mesh, timeout_s=0.01)
    provider.reset()
    ring.publish(states[3:9])
    state = provider.advance()
    assert provider.missed == 5
    assert state["step"] == 8
    assert state["rolled"].tolist() == [slot == 2 for slot in range(SLOTS)]
    assert state["previous_price"][2] == 7.5
    assert state["previous_half_spread"][2] == 0.25
    ring.close()


def test_episodes_stay_within_their_segment():
    """Whatever the seed, an episode has the steps asked for and ends where its segment ends."""
    runs = [market(i, 20 + i) for i in range(3)]
    provider = RecordedProvider(runs, random_start=True, min_steps=5)
    stops = np.cumsum([run.size for run in runs])
    starts = set()
    for seed in range(200):
        first, last = provider.episode(seed)
        segment = int(np.searchsorted(stops, first, side="right"))
        assert last == stops[segment] - 1
        assert last - first >= 5
        starts.add(first)
    assert len(starts) > 30
    state = provider.reset(seed=7)
    steps = 0
    while not provider.exhausted:
        following = provider.advance()
        assert following["ts_event"] > state["ts_event"]
        state, steps = following, steps + 1
    first, last = provider.episode(7)
    assert steps == last - first
    with pytest.raises(EndOfData):
        provider.advance()
    with pytest.raises(NoMarketData, match="states"):
        RecordedProvider(market(0, 3), min_steps=5)
