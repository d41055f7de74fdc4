"""The rules of the trading environment: account, costs, reward, episodes, choice of contracts."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e12)]
Positive = Annotated[float, Field(gt=0.0, le=1e12)]


class SlotTarget(BaseModel):
    """The contract that one of the ten slots prefers in the chain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expiry_rank: Annotated[int, Field(ge=0, le=20)] = Field(
        description="0 = the nearest expiry that is far enough away, 1 = the one after it, ..."
    )
    right: Literal["call", "put"] = Field(description="Call or put.")
    moneyness: Annotated[float, Field(ge=-2.0, le=2.0)] = Field(
        description="Wanted log(strike / underlying)."
    )


def _targets() -> tuple[SlotTarget, ...]:
    near: list[tuple[int, Literal["call", "put"], float]] = [
        (0, right, moneyness) for right in ("call", "put") for moneyness in (-0.02, 0.0, 0.02)
    ]
    far: list[tuple[int, Literal["call", "put"], float]] = [
        (1, "call", 0.0),
        (1, "call", 0.04),
        (1, "put", 0.0),
        (1, "put", -0.04),
    ]
    return tuple(
        SlotTarget(expiry_rank=rank, right=right, moneyness=moneyness)
        for rank, right, moneyness in near + far
    )


class SlotsConfig(BaseModel):
    """Which ten contracts of the chain are traded, and when a slot changes its contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: Annotated[tuple[SlotTarget, ...], Field(min_length=10, max_length=10)] = Field(
        default_factory=_targets, description="The preferred contract of each slot; exactly ten."
    )
    hysteresis: NotNegative = Field(
        default=0.015,
        description="A contract stays until another is nearer to the target by this log-moneyness.",
    )
    min_hold_states: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=30, description="States a contract stays at least, unless it expires."
    )
    patience_states: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=120,
        description="States without a two-sided quote after which a slot chooses again.",
    )
    min_expiry_s: NotNegative = Field(
        default=1800.0, description="Seconds to expiry below which no contract is chosen."
    )
    spread_penalty: NotNegative = Field(
        default=0.1, description="Log-moneyness that a relative spread of 1 counts in the choice."
    )


class TradingConfig(BaseModel):
    """The trading environment; the defaults are the documented environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    initial_balance: Positive = Field(
        default=1_000_000.0, description="Cash at the start of an episode, quote currency."
    )
    contract_limit: Positive = Field(
        default=10.0, description="Contracts of a slot that action 1.0 holds (long; -1.0 short)."
    )
    multiplier: Positive = Field(default=100.0, description="Units of the underlying a contract.")
    cost_rate: Share = Field(
        default=0.001, description="Commission as a share of the traded value |change| x price."
    )
    spread_share: Share = Field(
        default=1.0, description="Share of half the quoted spread that a trade pays."
    )
    latency_states: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0, description="States between a decision and its fill; 0 = at the quote it saw."
    )
    partial_fills: bool = Field(
        default=False, description="Fill no more contracts a state than the quote offers."
    )
    reward: Literal["risk_adjusted", "linear_quadratic"] = Field(
        default="risk_adjusted",
        description="risk_adjusted: return - risk_weight x deviation - drawdown_weight x excess "
        "drawdown. linear_quadratic: the reward of the market whose best policy is known.",
    )
    risk_weight: NotNegative = Field(
        default=0.5, description="Weight of the standard deviation of the last 20 returns."
    )
    drawdown_weight: NotNegative = Field(
        default=0.1, description="Weight of the drawdown beyond drawdown_free."
    )
    drawdown_free: Share = Field(default=0.10, description="Drawdown that costs nothing.")
    quadratic_risk: NotNegative = Field(
        default=1.0,
        description="linear_quadratic: half of this times the position squared is lost.",
    )
    quadratic_cost: NotNegative = Field(
        default=1.0,
        description="linear_quadratic: half of this times the change squared is lost.",
    )
    ruin_share: Share = Field(
        default=0.5, description="Equity at or below this share of the balance ends an episode."
    )
    max_episode_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        default=0, description="Steps after which an episode is truncated; 0 = the end of data."
    )
    swap_terminated_truncated: bool = Field(
        default=False, description="Swap the two flags, as older environments did."
    )
    on_bad_data: Literal["hold", "raise"] = Field(
        default="hold",
        description="hold: a bad market state is replaced by the last good one, marked stale and "
        "not traded on. raise: BadMarketData.",
    )
    on_bad_action: Literal["raise", "hold"] = Field(
        default="raise", description="Response to an action with NaN or infinity."
    )
    corporate_action: Literal["refuse", "close"] = Field(
        default="refuse",
        description="When the strike of a held contract changes. refuse: an error; close: closes "
        "the position at its last mark.",
    )
    greek_scale: tuple[float, float, float, float, float] = Field(
        default=(1.0, 1.0, 1 / 365, 0.01, 0.01),
        description="Factors of delta, gamma, theta, vega, rho in front of the tanh of the "
        "observation: theta a day, vega and rho a percentage point (the raw ones saturate).",
    )
    interest_rate: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        default=0.0, description="Continuously compounded rate per year, for greeks and volatility."
    )
    dividend_yield: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        default=0.0, description="Continuous yield per year of the underlying."
    )
    stale_s: Positive = Field(
        default=300.0, description="Market seconds after which a quote is not traded on."
    )
    session_timezone: str = Field(
        default="", description="IANA name of the exchange's time zone; empty = always open."
    )
    session_open_s: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=34_200, description="Opening, seconds after midnight there (09:30)."
    )
    session_close_s: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=57_600, description="Close, seconds after midnight there (16:00)."
    )
    session_closes: dict[date, Annotated[int, Field(ge=0, le=86_400)]] = Field(
        default={},
        description="Days that close at another time, as seconds after midnight there: "
        "{ 2015-12-24 = 46800 } is 13:00; at or before the opening, a holiday.",
    )
    slots: SlotsConfig = SlotsConfig()

    @model_validator(mode="after")
    def _session_in_order(self) -> TradingConfig:
        if self.session_open_s >= self.session_close_s:
            raise ValueError(
                f"session_open_s ({self.session_open_s}) must be below session_close_s "
                f"({self.session_close_s}); set both"
            )
        return self
