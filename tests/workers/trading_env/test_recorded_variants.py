"""Other days, symbols, scales and faults of the recorded families: traded, or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from config.trading import TradingConfig
from tests.workers.trading_env.recorded_files import DERIBIT_HEADER, deribit_rows, lean_chain
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.errors import BadMarketData, NoMarketData
from workers.trading_env.evaluation.__main__ import main as evaluation
from workers.trading_env.providers.checker import check_provider
from workers.trading_env.providers.files import file_provider
from workers.trading_env.record import main as record

CONFIG = TradingConfig()


def traded(path, interval_s=60.0):
    """A provider of the file that keeps its contract, and of which an episode was played."""
    provider = file_provider(path, CONFIG, interval_s=interval_s)
    check_provider(provider)
    env = TradingEnvironment(provider, CONFIG)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = env.step(np.full(SLOTS, 0.001))
        assert np.isfinite([reward, info["equity"]]).all()
        over = terminated or truncated
    return provider.states


def rows_dropped(rows):
    """A gap of twenty minutes."""
    return rows[:15] + rows[35:]


def one_side(rows):
    """Every third bid absent."""
    return [(t, None if i % 3 == 0 else b, a) for i, (t, b, a) in enumerate(rows)]


@pytest.mark.parametrize(
    "kind",
    [
        {"root": "low", "spot": 4.0, "step": 0.5},
        {"root": "spxw", "spot": 20_000.0, "step": 100.0},
        {"root": "brk.b", "day": "20160313"},
        {"root": "abc", "day": "20161106"},
        {"root": "abc", "underlying": False},
        {"root": "abc", "edit": rows_dropped},
        {"root": "abc", "edit": one_side},
        {"root": "abc", "edit": lambda rows: rows[::-1]},
        {"root": "abc", "days": (0, 7)},
    ],
    ids=[
        "half steps",
        "ten thousands",
        "clock forward",
        "clock back",
        "no underlying",
        "gap",
        "sides absent",
        "backwards within members",
        "expiry day",
    ],
)
def test_chains_of_other_days_symbols_and_scales_are_traded(tmp_path, kind):
    """Whatever of the family it is: states near its spot, all slots filled, an episode."""
    states = traded(lean_chain(tmp_path, **kind))
    spot = kind.get("spot", 100.0)
    assert states.size >= 25
    assert np.abs(np.log(states["underlying"] / spot)).max() < 0.05
    assert (states["right"] != 0).mean() > 0.9
    known = states["implied_volatility"][states["tradeable"] & (states["right"] != 0)]
    assert abs(np.nanmedian(known) - 0.3) < 0.1


@pytest.mark.parametrize(
    ("coin", "spot", "step", "ticks"),
    [("ETH", 3000.0, 100.0, 1e-4), ("BTC", 95_000.0, 1000.0, 1e-4), ("XRP_USDC", 0.5, 0.02, 0.0)],
)
def test_snapshots_of_other_coins_are_traded(tmp_path, coin, spot, step, ticks):
    """Quoted in coin or in dollars, strikes with decimals (`0d48`), another tick."""
    rows = deribit_rows(coin=coin, spot=spot, step=step, ticks=ticks or 1e-6)
    if coin.endswith("USDC"):  # linear: prices in dollars
        split = [row.split(",") for row in rows]
        rows = [
            ",".join([*s[:3], *(str(float(v) * float(s[2])) for v in s[3:5]), s[5]]) for s in split
        ]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([DERIBIT_HEADER, *rows]))
    states = traded(path, interval_s=3600.0)
    assert states.size == 40
    assert np.abs(np.log(states["underlying"] / spot)).max() < 0.05
    share = states["price"] / states["underlying"][:, None]
    assert ((share > 0.001) & (share < 0.2)).all()


def crossed(rows):
    """Bid and ask exchanged."""
    return [(t, a, b) for t, b, a in rows]


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ({"days": (-30, -20)}, NoMarketData, "44 options known, 0 of them before their expiry"),
        ({"edit": crossed}, NoMarketData, "0 of these with a sane two-sided quote"),
        ({"edit": lambda rows: rows[:0]}, NoMarketData, "0 options known"),
        ({"edit": lambda rows: rows[:1], "underlying": False, "minutes": 1}, NoMarketData, "1 st"),
    ],
    ids=["expired", "crossed", "empty", "one minute"],
)
def test_a_file_without_a_market_says_what_it_lacks(tmp_path, kind, error, says):
    """What is known of the chain, and the file's name."""
    with pytest.raises(error, match=says):
        file_provider(lean_chain(tmp_path, **kind), CONFIG)


@pytest.mark.parametrize("order", ["reversed", "shuffled", "seconds for milliseconds"])
def test_a_file_that_is_not_in_the_order_of_time_is_refused(tmp_path, order, capsys):
    """Its ticks would be passed over one after the other; `record` and evaluation say so too."""
    rows = deribit_rows(every_s=2 * 86_400, snapshots=3)
    rows = rows[::-1] if order == "reversed" else rows
    if order == "shuffled":
        np.random.default_rng(0).shuffle(rows)
    if order == "seconds for milliseconds":
        rows = [f"{index},{row.partition(',')[2]}" for index, row in enumerate(rows)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([DERIBIT_HEADER, *rows]))
    with pytest.raises(BadMarketData, match=r"a\.csv.*ticks have a time before 1980.*sort"):
        file_provider(path, CONFIG)
    out = tmp_path / "states.parquet"
    assert record(["--data", str(path), "--out", str(out)]) == 1
    assert evaluation(["--data", str(path)]) == 1
    assert capsys.readouterr().err.count("sort the ticks") == 2
    assert not out.exists()


def test_some_wrong_clocks_are_passed_over(tmp_path):
    """One row in fifty of another century: the states are those without them."""
    rows = deribit_rows()
    path, wrong = tmp_path / "a.csv", tmp_path / "wrong.csv"
    path.write_text("\n".join([DERIBIT_HEADER, *rows]))
    rows[25::50] = ["2199" + row[4:] for row in rows[25::50]]
    wrong.write_text("\n".join([DERIBIT_HEADER, *rows]))
    found = traded(wrong, interval_s=3600.0)
    wanted = traded(path, interval_s=3600.0)
    assert found["ts_event"].tolist() == wanted["ts_event"].tolist()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (2, "1e300"),
        (2, "1e-300"),
        (2, "inf"),
        (3, "1e11"),
        (4, "1e300"),
        (4, "-inf"),
        (5, "1e300"),
        (5, "-3"),
        (3, "nan"),
    ],
)
def test_numbers_that_are_no_prices_are_absent(tmp_path, column, value):
    """Planted in every third row of a snapshot, also where coin makes them too large: no state
    that breaks a rule, with `on_bad_data` set to refuse such.
    """
    rows = [row.split(",") for row in deribit_rows(snapshots=20)]
    for row in rows[::3]:
        row[column] = value
    path = tmp_path / "a.csv"
    path.write_text("\n".join([DERIBIT_HEADER, *map(",".join, rows)]))
    strict = CONFIG.model_copy(update={"on_bad_data": "raise"})
    provider = file_provider(path, strict, interval_s=3600.0)
    TradingEnvironment(provider, strict).reset(seed=0)
    assert check_provider(provider, config=strict) == provider.states.size


def test_record_and_evaluation_take_another_day(tmp_path, capsys):
    """The command line on a chain nobody has seen: an archive, and a report of finite numbers."""
    out = tmp_path / "states.parquet"
    folder = lean_chain(tmp_path / "lean", root="xyz", spot=50.0, step=0.5)
    assert record(["--data", str(folder), "--out", str(out)]) == 0
    capsys.readouterr()
    assert evaluation(["--data", str(out), "--episodes", "2"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert "flat" in json.dumps(report)
