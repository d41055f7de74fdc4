"""Evaluate a policy and the baselines: `python -m workers.trading_env.evaluation`.

    --policy FILE.npz: the arrays of a published policy
    --mesh DIR --trainer td3-0: the newest policy that this trainer published
    --data PATH, --synthetic SEED or --known-optimum SEED: the market
    --root NAME: with --data, trade the options on this underlying
    --date YYYYMMDD: with --data, read this day of the folder
    --folds N: evaluate only the test parts of N walk-forward splits, with --embargo-s before each
    --held-out: evaluate only the last fifth, which `python -m workers.trainer.cli` holds out
    --set KEY=VALUE: a setting of [trading], as in a profile
    --out DIR: write report.json and report.png there; the JSON is printed too

Without --policy and --mesh only the baselines are evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config import EXIT_CONFIGURATION, ConfigProblems, load_settings
from mesh import Mesh, MeshError
from workers.contract.names import policy_segment
from workers.market_data.errors import MarketDataError
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.evaluation.baselines import Random, baselines, flat
from workers.trading_env.evaluation.measures import report
from workers.trading_env.evaluation.picture import picture
from workers.trading_env.evaluation.run import Policy, evaluate
from workers.trading_env.policy.numpy_policy import PublishedPolicy
from workers.trading_env.providers.files import file_provider
from workers.trading_env.providers.known_optimum import (
    KnownOptimum,
    known_optimum_config,
    known_optimum_provider,
)
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.splits import held_out_providers, walk_forward
from workers.trading_env.providers.synthetic import synthetic_provider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.trading import TradingConfig


def market(options: argparse.Namespace) -> tuple[RecordedProvider, TradingConfig]:
    """Return the market that the options name, and its rules.

    Args:
        options: The parsed command line.

    Returns:
        (provider, rules).
    """
    config = load_settings(None, [f"trading.{pair}" for pair in options.set]).trading
    if options.known_optimum is not None:
        return known_optimum_provider(options.known_optimum), known_optimum_config()
    provider = (
        synthetic_provider(options.synthetic, states=options.states)
        if options.data is None
        else file_provider(
            options.data, config, date=options.date, root=options.root, random_start=True
        )
    )
    if options.folds:
        states = provider.states
        splits = walk_forward(states["ts_event"], folds=options.folds, embargo_s=options.embargo_s)
        provider = RecordedProvider([states[split.test] for split in splits])
    elif options.held_out:
        _, provider = held_out_providers(provider.states)
    return provider, config


def contenders(options: argparse.Namespace, config: TradingConfig) -> dict[str, Policy]:
    """Return the policy that the options name, and those it is compared with.

    Args:
        options: The parsed command line.
        config: The rules of the market.

    Returns:
        The policies by name.
    """
    chosen: dict[str, Policy] = {}
    if options.policy is not None:
        with np.load(options.policy, allow_pickle=False) as arrays:
            chosen["policy"] = PublishedPolicy(dict(arrays))
    elif options.mesh is not None:
        segment = Mesh(options.mesh).tensors(policy_segment(options.trainer))
        chosen["policy"] = PublishedPolicy(segment.read()[1])
    if options.known_optimum is not None:
        best = KnownOptimum(config.quadratic_risk, config.quadratic_cost, discount=1.0)
        return {**chosen, "flat": flat, "random": Random(), "optimum": best.act}
    return {**chosen, **baselines(config, seed=options.seed)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and print the report.

    Args:
        arguments: The command line without the program's name; that of the process by default.

    Returns:
        Exit status: 0 the report was printed, 1 the market or the policy cannot be used, 78 a
        setting is wrong.
    """
    options = parser().parse_args(arguments)
    try:
        provider, config = market(options)
        policies = contenders(options, config)
        runs = evaluate(
            provider,
            policies,
            config,
            episodes=options.episodes,
            seed=options.seed,
            steps=options.steps,
        )
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    except (TradingEnvError, MarketDataError, MeshError, OSError, ValueError) as error:
        sys.stderr.write(f"evaluation: {error}\n")
        return 1
    document = report(runs)
    text = json.dumps(document, indent=2)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "report.json").write_text(text + "\n")
        picture(runs, document, options.out / "report.png")
    sys.stdout.write(text + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        "workers.trading_env.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--mesh", type=Path)
    parser.add_argument("--trainer", default="td3-0")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--root", default="")
    parser.add_argument("--date", default="")
    parser.add_argument("--synthetic", type=int, default=0)
    parser.add_argument("--known-optimum", type=int)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--folds", type=int, default=0)
    part.add_argument("--held-out", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--embargo-s", type=float, default=3600.0)
    parser.add_argument("--states", type=int, default=1200)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
