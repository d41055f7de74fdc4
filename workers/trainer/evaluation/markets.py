"""What an offline training learns from, and what is held out of it for its evaluations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workers.trading_env.providers.files import states_of_file
from workers.trading_env.providers.known_optimum import known_optimum_config, known_optimum_provider
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.splits import MIN_STEPS, held_out_providers
from workers.trading_env.providers.synthetic import synthetic_provider
from workers.trainer.evaluation.evaluation import (
    HELD_OUT_SEED,
    KNOWN_OPTIMUM,
    SYNTHETIC,
    Evaluation,
)

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from config.trainer import TrainerConfig
    from mesh.arrays import Array

EPISODES = 256


@dataclasses.dataclass(frozen=True)
class OfflineMarket:
    """A market to train on, its rules, and held-out episodes; None: nothing is evaluated."""

    training: RecordedProvider
    trading: TradingConfig
    held_out: Evaluation | None


def offline_market(
    market: str | Path | Array,
    *,
    seed: int,
    trading: TradingConfig,
    config: TrainerConfig,
    evaluate_on: str | Path | None = None,
) -> OfflineMarket:
    """Return "synthetic", "known_optimum", a recorded file or states, and what is held out of it.

    Of a simulated market that is one of another seed, of a recorded file its last fifth, after an
    embargo of a window; nothing is held out where `evaluate_on` names another market, or with
    `config.evaluate_every` 0.

    Raises:
        MarketDataError: The file cannot be read.
        TradingEnvError: The data is not usable as a market, or too short to hold a part out.
    """
    is_known = isinstance(market, str) and market == KNOWN_OPTIMUM
    rules = known_optimum_config() if is_known else trading
    evaluates = config.evaluate_every > 0
    evaluated_on: str | RecordedProvider | None = None
    if evaluates and evaluate_on is not None:
        evaluated_on = str(evaluate_on)
    if isinstance(market, str) and market in {KNOWN_OPTIMUM, SYNTHETIC}:
        training = (
            known_optimum_provider(seed, episodes=EPISODES)
            if is_known
            else synthetic_provider(seed, config=trading)
        )
        if evaluates and evaluated_on is None:
            evaluated_on = market
    else:
        states = market if isinstance(market, np.ndarray) else states_of_file(Path(market), trading)
        if evaluates and evaluated_on is None:
            training, evaluated_on = held_out_providers(states)
        else:
            training = RecordedProvider(states, random_start=True, min_steps=MIN_STEPS)
    if evaluated_on is None:
        return OfflineMarket(training, rules, None)
    held_out = Evaluation(
        evaluated_on,
        trading,
        lanes=config.evaluate_lanes,
        steps=config.evaluate_steps,
        seed=HELD_OUT_SEED + (seed == HELD_OUT_SEED),
    )
    held_out.prepare()  # a mistake is said now, not after the first N updates
    return OfflineMarket(training, rules, held_out)
