"""Quotes -> market states: from TICK_DTYPE rows to one MARKET_DTYPE record a call.

Holds the latest quote of every instrument of one underlying as columns; `state` chooses the ten
slots, marks and prices them, and adds the indicators. A mark is the middle of a sane two-sided
quote; without one the last mark stands, and the slot is not tradeable. A contract that leaves a
slot is closed at its own quote, one that expires at its intrinsic value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workers.contract.dtypes import MARKET_DTYPE, SLOTS, TICK_DTYPE
from workers.trading_env.errors import BadMarketData, UnknownSymbol
from workers.trading_env.market.block import LARGEST, SMALLEST
from workers.trading_env.market.indicators import Indicators, Session
from workers.trading_env.market.instrument import parse
from workers.trading_env.market.parity import implied_underlying
from workers.trading_env.market.pricing import YEAR_NS, greeks, implied_volatility
from workers.trading_env.market.slots import EMPTY, Chain, SlotChoice

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


MEMORY = 320  # states
REFUSED = 1 << 16  # symbols of others that are remembered
REFERENCE_NS = 10**9
OWN, ANY = -1, 1 << 62  # sources of the underlying's price: its own quote, whichever comes
_GREEK_FIELDS = ("delta", "gamma", "theta", "vega", "rho")
_QUOTE = np.dtype(
    [
        ("symbol", "S32"),
        ("expiry", "<i8"),
        ("strike", "<f8"),
        ("right", "i1"),
        ("coin", "?"),
        ("ts_event", "<i8"),
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("bid_size", "<f8"),
        ("ask_size", "<f8"),
        ("volume", "<i8"),
        ("implied_volatility", "<f8"),
        ("greeks", "<f8", (5,)),
    ]
)


class MarketState:
    """The chain of one underlying as it is known now."""

    def __init__(self, config: TradingConfig, *, root: str = "", first_step: int = 0) -> None:
        """Follow the options on `root`; empty = of the first option that arrives."""
        self.config = config
        self.root = root
        self.underlying = 0.0
        self.ts_event = 0
        self.refused: set[bytes] = set()
        self._quotes = np.zeros(256, _QUOTE)
        self._used = 0
        self._rows: dict[bytes, int] = {}
        self._choice = SlotChoice(config.slots)
        self._indicators = Indicators(config)
        self._session = Session(config)
        self._steps = first_step
        self._mark = np.zeros(SLOTS)
        self._half = np.zeros(SLOTS)
        self._underlying_at, self._reference = 0, ANY
        self._volume = 0.0

    def resume(self, history: Array) -> None:
        """Restore slots, marks and indicators from earlier states.

        Call it before the first `apply`, which then brings the quotes up to date. The indicators
        are rebuilt from the last `MEMORY` states: exactly for those with a horizon, within 1e-9
        for the exponential averages.

        Args:
            history: Market states, MARKET_DTYPE (T,), T at least 1, oldest first.
        """
        for state in history[-MEMORY:]:
            self._indicators.update(state)
        record = history[-1]
        for slot, symbol in enumerate(record["contract"].tolist()):
            row = self._row(symbol) if symbol else -1
            self._choice.held[slot] = row if row >= 0 else EMPTY
            self._mark[slot] = record["price"][slot]
        quoted = record["tradeable"]
        self._half[quoted] = 0.5 * (record["ask"] - record["bid"])[quoted]
        self._set_underlying(float(record["underlying"]), int(record["ts_event"]), ANY)

    @property
    def steps(self) -> int:
        """Number of the state that comes next."""
        return self._steps

    @property
    def known(self) -> int:
        """Number of option contracts known."""
        return self._used

    @property
    def lacking(self) -> str:
        """What is known of the market, for whoever asks why there is no state of it."""
        quotes = self._quotes[: self._used]
        lives = quotes["expiry"] > self.ts_event
        with np.errstate(invalid="ignore"):
            quoted = (quotes["bid"] > 0) & (quotes["ask"] >= quotes["bid"])
        found = (
            f"{self._used} options known, {int(lives.sum())} of them before their expiry, "
            f"{int((lives & quoted).sum())} of these with a sane two-sided quote, underlying price "
            f"{self.underlying:.10g}"
        )
        others = sorted(self.refused)[:3]
        return found + (f", symbols that are no options: {others}" if others else "")

    def apply(self, ticks: Array) -> int:
        """Update the quotes from ticks.

        Ticks older than the newest of their instrument are ignored, as are options on other roots
        and symbols in no known notation. A price that is negative, NaN or infinite counts as an
        absent side.

        Args:
            ticks: TICK_DTYPE (n,) in the order of arrival, or rows of the quotes table.

        Returns:
            The number of ticks used.

        Raises:
            BadMarketData: Another dtype or shape.
        """
        if getattr(ticks, "dtype", None) != TICK_DTYPE or ticks.ndim != 1:
            found = f"{getattr(ticks, 'dtype', type(ticks).__name__)}"[:120]
            raise BadMarketData(f"ticks must be TICK_DTYPE of shape (n,), got {found}")
        if len(ticks) == 0:
            return 0
        symbols = ticks["symbol"].tolist()
        rows = np.array([self._row(symbol) for symbol in symbols], int)
        root = self.root.encode()
        own = np.array([symbol == root for symbol in symbols], bool)
        self._update_underlying(ticks[own])
        options = rows >= 0
        if not options.any():
            return int(own.sum())
        ticks, rows = ticks[options], rows[options]
        order = self._unless_late(ticks["ts_event"], rows)
        self._update_from_references(rows, ticks, order)
        ticks, rows = ticks[order], rows[order]
        self._count_volume(rows, ticks["volume"])
        newest = np.append(rows[1:] != rows[:-1], np.ones(min(1, rows.size), bool))
        self._write(rows[newest], ticks[newest])
        return int(own.sum()) + int(rows.size)

    def _unless_late(self, times: Array, rows: Array) -> Array:
        """Indices of ticks, by row and then in the order of arrival, without those that came late.

        Late is what is older than a tick of its row before it, here or in an earlier batch.
        """
        order = np.argsort(rows, kind="stable")
        kept = times[order] >= self._quotes["ts_event"][rows[order]]
        if (times[1:] < times[:-1]).any():
            rank = np.unique(times, return_inverse=True)[1]
            key = rows[order] * times.size + rank[order]
            kept &= key == np.maximum.accumulate(key)
        found: Array = order[kept]
        return found

    def _count_volume(self, rows: Array, volume: Array) -> None:
        """Add what was traded since the tick before, of each row (its day's volume only grows)."""
        before = np.append(0, volume[:-1])
        first = np.append(np.ones(min(1, rows.size), bool), rows[1:] != rows[:-1])
        before = np.where(first, self._quotes["volume"][rows], before[: rows.size])
        self._volume += float(np.where(before > 0, np.maximum(volume - before, 0), 0).sum())

    def state(self, ts_published: int = 0) -> Array | None:
        """Return the market as it is known now.

        Args:
            ts_published: Wall-clock time to note in the record, ns since the epoch.

        Returns:
            A MARKET_DTYPE record of shape (), or None while there is no price of the underlying
            or no quoted option.
        """
        quotes = self._quotes[: self._used]
        silent = self.ts_event - self._underlying_at > self.config.stale_s * 1e9
        if silent or self.underlying <= 0:
            self._imply_underlying(quotes)
        if self.underlying <= 0 or self._used == 0:
            return None
        chain, mid = self._chain(quotes)
        before = self._choice.held.copy()
        changed = self._choice.choose(chain, self.underlying, self.ts_event)
        held = self._choice.held
        if not (held != EMPTY).any():
            return None
        record = np.zeros((), MARKET_DTYPE)
        record["ts_event"], record["ts_published"] = self.ts_event, ts_published
        record["step"], record["underlying"] = self._steps, self.underlying
        self._leave(record, quotes, chain, mid, before, changed)
        self._hold(record, quotes, chain, mid, held)
        record["rolled"] = changed & (before != EMPTY)
        stays = ~record["rolled"]
        record["previous_price"] = np.where(stays, record["price"], record["previous_price"])
        record["closed"] = self._session.closed(self.ts_event)
        age = (self.ts_event - int(quotes["ts_event"].max())) / 1e9
        record["age_s"] = max(0.0, age)
        record["stale"] = age > self.config.stale_s
        record["indicators"] = self._indicators.update(record, self._volume)
        self._volume = 0.0
        self._steps += 1
        return record

    def _row(self, symbol: bytes) -> int:
        """Row of an option; -1 for what is not one of ours."""
        row = self._rows.get(symbol)
        return self._enter(symbol) if row is None else row

    def _enter(self, symbol: bytes) -> int:
        try:
            option = parse(symbol.decode("ascii", "replace"))
        except UnknownSymbol:
            if symbol != self.root.encode() and len(self.refused) < REFUSED:
                self.refused.add(symbol)
            return self._not_ours(symbol)
        self.root = self.root or option.root
        if option.root != self.root or not SMALLEST < option.strike < LARGEST:
            return self._not_ours(symbol)
        if self._used == len(self._quotes):
            self._quotes = np.concatenate([self._quotes, np.zeros_like(self._quotes)])
        row, self._used = self._used, self._used + 1
        quote = self._quotes[row]
        quote["symbol"], quote["expiry"], quote["strike"] = symbol, option.expiry, option.strike
        quote["right"], quote["coin"] = option.right, option.coin_quoted
        quote["bid"] = quote["ask"] = quote["implied_volatility"] = np.nan
        self._rows[symbol] = row
        return row

    def _not_ours(self, symbol: bytes) -> int:
        """Remember it, unless a feed of nonsense makes up ever new names."""
        if len(self._rows) < self._used + REFUSED:
            self._rows[symbol] = -1
        return -1

    def _update_underlying(self, own: Array) -> None:
        """Rows of the underlying itself: the middle of its quote, else its last price."""
        if len(own) == 0:
            return
        own = own[np.argsort(own["ts_event"], kind="stable")]
        bid, ask, last = own["bid"], own["ask"], own["last"]
        with np.errstate(invalid="ignore"):
            middle = np.where((bid > 0) & (ask >= bid), 0.5 * (bid + ask), last)
            sane = (middle > SMALLEST) & (middle < LARGEST)
        if sane.any():
            row = int(np.flatnonzero(sane)[-1])
            self._set_underlying(float(middle[row]), int(own["ts_event"][row]), OWN)

    def _update_from_references(self, rows: Array, ticks: Array, order: Array) -> None:
        """The underlying's price as options are quoted with it, in the order of arrival."""
        price = ticks["underlying_price"]
        with np.errstate(invalid="ignore"):
            sane = (price > SMALLEST) & (price < LARGEST)
        if not sane.any():
            return
        places = np.sort(order[sane[order]])
        times, expiries = ticks["ts_event"][places], self._quotes["expiry"][rows[places]]
        heard = zip(price[places].tolist(), times.tolist(), expiries.tolist(), strict=True)
        for value, ts_event, expiry in heard:
            self._set_underlying(value, ts_event, expiry)

    def _set_underlying(self, price: float, ts_event: int, source: int) -> None:
        """Take a price from `source`, the expiry of the contract that came with it, or OWN.

        Options are quoted with the future of their own expiry: prices of one moment differ by the
        carry. The nearest source goes before the others as long as it is heard of every second.
        """
        late = ts_event - self._underlying_at
        if late > REFERENCE_NS or (late >= 0 and source <= self._reference):
            self.underlying, self._underlying_at, self._reference = price, ts_event, source
        self.ts_event = max(self.ts_event, ts_event)

    def _write(self, rows: Array, ticks: Array) -> None:
        """Store the newest tick of each row; a side that is no price is absent."""
        if len(rows) == 0:
            return
        for name in ("bid", "ask"):
            value = ticks[name]
            sane = (value >= 0) & (value < LARGEST)
            self._quotes[name][rows] = np.where(sane, value, np.nan)
        for name in ("bid_size", "ask_size"):
            size = ticks[name]
            self._quotes[name][rows] = np.where(np.isfinite(size) & (size > 0), size, 0.0)
        for name in ("ts_event", "volume", "implied_volatility"):
            self._quotes[name][rows] = ticks[name]
        for column, name in enumerate(_GREEK_FIELDS):
            self._quotes["greeks"][rows, column] = ticks[name]
        self.ts_event = max(self.ts_event, int(ticks["ts_event"].max()))

    def _imply_underlying(self, quotes: Array) -> None:
        """Without a price of the underlying for long, or ever: the one that the chain implies."""
        fresh = self.ts_event - quotes["ts_event"] <= self.config.stale_s * 1e9
        with np.errstate(invalid="ignore"):
            quoted = fresh & (quotes["bid"] > 0) & (quotes["ask"] >= quotes["bid"])
        spot = implied_underlying(
            quotes["expiry"],
            quotes["strike"],
            quotes["right"],
            np.where(quoted, 0.5 * (quotes["bid"] + quotes["ask"]), np.nan),
            quotes["coin"],
            now=self.ts_event,
            rate=self.config.interest_rate,
            dividend=self.config.dividend_yield,
        )
        if spot is not None and SMALLEST < spot < LARGEST:
            self.underlying = spot

    def _chain(self, quotes: Array) -> tuple[Chain, Array]:
        """The chain for the choice of slots, and the middle of each quote in quote currency."""
        unit = np.where(quotes["coin"], self.underlying, 1.0)
        bid, ask = quotes["bid"] * unit, quotes["ask"] * unit
        fresh = self.ts_event - quotes["ts_event"] <= self.config.stale_s * 1e9
        with np.errstate(invalid="ignore"):
            quoted = fresh & (bid > 0) & (ask >= bid) & (ask < LARGEST)
        mid = np.where(quoted, 0.5 * (bid + ask), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(quoted, (ask - bid) / mid, 0.0)
        return (
            Chain(quotes["expiry"], quotes["strike"], quotes["right"], quoted, spread),
            mid,
        )

    def _leave(
        self, record: Array, quotes: Array, chain: Chain, mid: Array, before: Array, changed: Array
    ) -> None:
        """Price what left its slot: its own quote, its intrinsic value at expiry, its last mark."""
        for slot in np.flatnonzero(changed & (before != EMPTY)):
            old = before[slot]
            quote = quotes[old]
            price, half = self._mark[slot], self._half[slot]
            if quote["expiry"] <= self.ts_event:
                price, half = self._intrinsic(quote), 0.0
            elif chain.quoted[old]:
                price, half = mid[old], 0.5 * chain.spread[old] * mid[old]
            record["previous_price"][slot], record["previous_half_spread"][slot] = price, half

    def _intrinsic(self, quote: Any) -> float:
        moneyness = float(quote["right"]) * (self.underlying - float(quote["strike"]))
        return max(0.0, moneyness)

    def _hold(self, record: Array, quotes: Array, chain: Chain, mid: Array, held: Array) -> None:
        """Fill in what the slots hold: terms, quotes, marks, greeks."""
        full = np.flatnonzero(held != EMPTY)
        rows = held[full]
        record["bid"] = record["ask"] = record["implied_volatility"] = np.nan
        unit = np.where(quotes["coin"][rows], self.underlying, 1.0)
        record["contract"][full] = quotes["symbol"][rows]
        for name in ("strike", "expiry", "right", "bid_size", "ask_size"):
            record[name][full] = quotes[name][rows]
        for name in ("bid", "ask"):
            record[name][full] = quotes[name][rows] * unit
        quoted = chain.quoted[rows]
        record["tradeable"][full] = quoted
        self._mark[full] = np.where(quoted, mid[rows], self._mark[full])
        half = 0.5 * chain.spread[rows] * mid[rows]
        self._half[full] = np.where(quoted, half, self._half[full])
        self._mark[held == EMPTY] = self._half[held == EMPTY] = 0.0
        record["price"] = self._mark
        sigma, values = self._greeks(record, quotes[rows], full)
        record["implied_volatility"][full], record["greeks"][full] = sigma, values

    def _greeks(self, record: Array, quotes: Array, full: Array) -> tuple[Array, Array]:
        """Volatility and greeks of the held contracts: the feed's, computed where it has none."""
        config = self.config
        years = np.maximum(quotes["expiry"] - self.ts_event, 0) / YEAR_NS
        rate, dividend = config.interest_rate, config.dividend_yield
        sigma, given = quotes["implied_volatility"], quotes["greeks"]
        with np.errstate(invalid="ignore"):
            known = np.isfinite(sigma) & (sigma > 0) & (sigma < 10.0)
        solved = sigma
        if not known.all():
            implied = implied_volatility(
                record["price"][full],
                self.underlying,
                quotes["strike"],
                years,
                rate,
                dividend,
                quotes["right"],
            )
            solved = np.where(known, sigma, implied)
        # without any solution (a mark below the intrinsic value): a small volatility, delta 0 or 1
        usable = np.where(np.isfinite(solved), solved, 1e-3)
        own = np.isfinite(given).all(1) & (given != 0).any(1) & known
        values = greeks(
            self.underlying, quotes["strike"], years, rate, dividend, usable, quotes["right"]
        )
        return solved, np.where(own[:, None], given, values)
