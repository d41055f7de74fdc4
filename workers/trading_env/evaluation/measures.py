"""Measures of runs, each with a confidence interval.

Definitions, with r the returns of equity a step and A the steps a calendar year (365 days):

    total_return  exp(mean log(1 + r) * steps) - 1, steps = the mean length of an episode
    sharpe        mean(r) / std(r) * sqrt(A)                    (Sharpe, 1966; no risk-free rate)
    sortino       mean(r) / sqrt(mean(min(r, 0)^2)) * sqrt(A)   (Sortino, van der Meer, 1991)
    max_drawdown  mean over episodes of max(1 - equity / highest equity so far)
    turnover      value traded a step / equity, times A (whole portfolios a year)
    cost          costs a step / equity, times the mean length of an episode
    hit_rate      share of the steps with a position and r != 0 that gained
    mean_reward   reward a step

Intervals: stationary bootstrap (Politis, Romano, Journal of the American Statistical Association,
1994) of the steps, blocks of n^(1/3) steps on the average; percentiles, centred on the measure
(a path put together from blocks has larger drawdowns than the one it was cut from). What is not
defined (no variance, no position) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mesh.arrays import Array
    from workers.trading_env.evaluation.run import Run

YEAR_S = 365 * 86_400
RESAMPLES = 400
CELLS = 20_000_000  # of all resamples together: memory and time stay bounded
MEASURES = (
    "total_return",
    "sharpe",
    "sortino",
    "max_drawdown",
    "turnover",
    "cost",
    "hit_rate",
    "mean_reward",
)


def report(runs: Mapping[str, Run], *, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Summarise runs as a JSON document.

    Args:
        runs: The runs by the policy's name.
        confidence: Share of the resamples that an interval covers.
        seed: Seed of the bootstrap.

    Returns:
        `confidence`, and by policy its episodes, steps, seconds a step, ends and `measures`.
    """
    return {
        "confidence": confidence,
        "policies": {
            name: {
                "episodes": int(run.counted.shape[1]),
                "steps": int(run.counted.sum()),
                "step_s": run.step_s,
                "ended": {why or "cut off": run.ended.count(why) for why in sorted(set(run.ended))},
                "measures": measures(run, confidence=confidence, seed=seed),
            }
            for name, run in runs.items()
        },
    }


def measures(
    run: Run, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return every measure of a run with its interval.

    The module's docstring has the definitions (Sharpe, 1966; Sortino, van der Meer, 1991) and the
    source of the intervals (Politis, Romano, 1994).

    Args:
        run: What one policy did.
        confidence: Share of the resamples that an interval covers.
        seed: Seed of the bootstrap.

    Returns:
        {value, low, high} for each of `MEASURES`; None where a number is not defined.
    """
    steps = _Steps(run)
    found = steps.measures(np.arange(steps.count)[None, :])
    rng = np.random.default_rng(seed)
    resamples = max(2, min(RESAMPLES, CELLS // max(1, steps.count)))
    chunks = [
        steps.measures(stationary_bootstrap(steps.count, part, rng))
        for part in _parts(resamples, max(1, 2_000_000 // max(1, steps.count)))
    ]
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    document = {}
    for name in MEASURES:
        drawn = np.concatenate([chunk[name] for chunk in chunks])
        drawn = drawn[np.isfinite(drawn)]
        low, middle, high = (
            np.percentile(drawn, [tails[0], 50.0, tails[1]]) if drawn.size else [math.nan] * 3
        )
        shift = found[name][0] - middle
        document[name] = {
            "value": _or_none(found[name][0]),
            "low": _or_none(low + shift),
            "high": _or_none(high + shift),
        }
    return document


def stationary_bootstrap(count: int, resamples: int, rng: np.random.Generator) -> Array:
    """Draw resamples by the stationary bootstrap (Politis, Romano, JASA, 1994).

    Args:
        count: Number of entries to resample.
        resamples: Number of resamples.
        rng: Source of the draws.

    Returns:
        Indices, int64 (resamples, count), in blocks of geometric length (count^(1/3) on average)
        that wrap around the end.
    """
    length = max(1.0, count ** (1.0 / 3.0))
    starts = rng.integers(count, size=(resamples, count))
    begins = rng.random((resamples, count)) < 1.0 / length
    begins[:, 0] = True
    at = np.where(begins, np.arange(count), 0)
    at = np.maximum.accumulate(at, axis=1)  # where the block of each entry began
    indices: Array = (np.take_along_axis(starts, at, 1) + np.arange(count) - at) % count
    return indices


class _Steps:
    """The counted steps of all episodes in a row."""

    def __init__(self, run: Run) -> None:
        order = run.counted.T  # episode by episode
        equity = np.where(run.counted, run.equity[:-1], 1.0).T[order]
        self.returns = run.returns.T[order]
        self.reward = run.reward.T[order]
        self.costs = run.costs.T[order] / equity
        self.traded = run.traded.T[order] / equity
        self.invested = run.invested.T[order]
        self.lengths = run.counted.sum(0)
        self.count = int(self.lengths.sum())
        self.a_year = YEAR_S / run.step_s if run.step_s > 0 else math.nan

    def measures(self, indices: Array) -> dict[str, Array]:
        """Each measure, float64 (B,), of resamples (B, count)."""
        r = self.returns[indices]
        length, root = self.lengths.mean(), math.sqrt(self.a_year)
        mean, deviation = r.mean(1), r.std(1)
        downside = np.sqrt((np.minimum(r, 0.0) ** 2).mean(1))
        log_growth = np.log1p(np.maximum(r, -1.0 + 1e-12))
        moved = self.invested[indices] & (r != 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "total_return": np.expm1(log_growth.mean(1) * length),
                "sharpe": np.where(deviation > 0, mean / deviation * root, np.nan),
                "sortino": np.where(downside > 0, mean / downside * root, np.nan),
                "max_drawdown": self._drawdown(log_growth),
                "turnover": self.traded[indices].mean(1) * self.a_year,
                "cost": self.costs[indices].mean(1) * length,
                "hit_rate": (moved & (r > 0)).sum(1) / moved.sum(1),
                "mean_reward": self.reward[indices].mean(1),
            }

    def _drawdown(self, log_growth: Array) -> Array:
        """Mean over the episodes, whose lengths stay as they are, of the largest drawdown."""
        total = np.zeros(len(log_growth))
        ends = np.cumsum(self.lengths)
        for start, end in zip(ends - self.lengths, ends, strict=True):
            path = np.cumsum(log_growth[:, start:end], axis=1)
            path = np.concatenate([np.zeros((len(path), 1)), path], axis=1)
            peak = np.maximum.accumulate(path, axis=1)
            total += -np.expm1((path - peak).min(1))
        return total / len(self.lengths)


def _parts(total: int, max_part: int) -> list[int]:
    whole, rest = divmod(total, max_part)
    return [max_part] * whole + ([rest] if rest else [])


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
