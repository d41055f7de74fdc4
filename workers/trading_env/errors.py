"""What can go wrong with a market, an action or a policy: a type for each thing to do about it."""

from __future__ import annotations


class TradingEnvError(Exception):
    """Root of the errors of the trading environment."""


class BadMarketData(TradingEnvError):
    """A market state breaks a rule (NaN, negative price, time backwards, wrong shape)."""


class CorporateAction(BadMarketData):
    """The terms of a contract changed under its name."""


class NoMarketData(TradingEnvError):
    """There is no market state (yet), or too few of them for an episode."""


class EndOfData(TradingEnvError):
    """A provider has no further market state: the episode is truncated."""


class StaleData(TradingEnvError):
    """A provider waited as long as it may, and no newer market state came."""


class InvalidAction(TradingEnvError):
    """An action of another shape, or with NaN or infinity."""


class InvalidPolicy(TradingEnvError):
    """Published arrays that are no policy, or a policy with NaN or infinity."""


class UnknownSymbol(TradingEnvError):
    """A symbol that names no option in a known notation."""


class ContractViolation(TradingEnvError):
    """A market data provider breaks its contract; the message names the rule and the state."""
