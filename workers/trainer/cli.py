"""Offline training on recorded or simulated data: `python -m workers.trainer.cli`.

    --timesteps N --model FILE.zip     the classic two
    --data PATH, --synthetic SEED or --known-optimum SEED: the market (default: synthetic, seed 0)
    --root NAME, --date YYYYMMDD: which underlying's options, which day of a folder (with --data)
    --profile NAME, --set key=value: settings of [trainer], as the daemon has them; of another
        section with its name in front (--set trading.multiplier=1)
    --evaluate-every N: updates between two evaluations (default: trainer.evaluate_every; 0: none)
    --evaluate-on MARKET: "synthetic", "known_optimum" or a recorded file, instead of the held-out
        part of the market that is trained on
    --lanes N --tensorboard DIR --tracking RUN_DIRECTORY
    --resume: go on with the model at FILE.zip up to N steps in all

The zip is one of stable-baselines3's; beside it lies FILE.npz, the arrays of the published policy,
which `python -m workers.trading_env.evaluation --policy FILE.npz` evaluates without torch. Every N
updates the policy is scored on what it does not learn from (of a recorded file the last fifth,
after an embargo; of a simulated market one of another seed), and the best one is FILE.best.zip and
FILE.best.npz.

Ctrl-C or SIGTERM ends the training in good order: the model is saved, and the experience beside it
(FILE.replay.pkl), so that the same command with --resume goes on where it was. A second one ends it
at once and saves nothing more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from config import EXIT_CONFIGURATION, ConfigProblems, load_settings
from config.trading import TradingConfig
from config.trainer import TrainerConfig
from workers.contract.dtypes import SLOTS
from workers.market_data.errors import MarketDataError
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.providers.files import states_of_file
from workers.trainer.callbacks import EndBySignal, MLflowCallback, ProgressCallback
from workers.trainer.evaluation.best_model import BestModelCallback
from workers.trainer.evaluation.markets import offline_market
from workers.trainer.replay.frames import FrameReplay
from workers.trainer.spool import Spool
from workers.trainer.state import model_files
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.learner import policy_kwargs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stable_baselines3.common.callbacks import BaseCallback

    from config import Settings
    from mesh.arrays import Array
    from workers.trainer.evaluation.evaluation import Evaluation

BUFFER = 200_000
NOISE = 0.2


class RewardScale(VecEnvWrapper):
    """Multiplies rewards, as the critics of a trainer worker see them."""

    def __init__(self, venv: VecEnv, factor: float) -> None:
        """Wrap `venv`."""
        super().__init__(venv)
        self.factor = factor

    def reset(self) -> Any:
        """Start episodes."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step; rewards are scaled."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * self.factor, dones, infos


def train_td3(
    total_timesteps: int,
    model_path: str | Path,
    *,
    market: str | Path | Array = "synthetic",
    market_seed: int = 0,
    lanes: int = 16,
    config: TrainerConfig | None = None,
    trading: TradingConfig | None = None,
    callbacks: Sequence[BaseCallback] = (),
    progress_bar: bool | None = None,
    tensorboard: str | None = None,
    resume: bool = False,
    evaluate_on: str | Path | None = None,
    spool: Spool | None = None,
) -> TD3:
    """Train a policy offline, save it to `model_path` and return it.

    Args:
        total_timesteps: steps of all lanes together; with `resume` those of earlier runs count.
        model_path: the zip; beside it the policy's arrays (.npz), the best model by score
            (`model_files.best_path`) and, after an early end by a callback, the experience.
        market: "synthetic", "known_optimum", the path of a recorded file, or market states (T,).
        market_seed: seed of a simulated market.
        lanes: environments that are stepped together.
        config: settings of [trainer]; None: the defaults.
        trading: settings of [trading]; None: the defaults.
        callbacks: further callbacks of stable-baselines3.
        progress_bar: None: where standard error is a terminal.
        tensorboard: directory for TensorBoard.
        resume: go on with the model at `model_path`.
        evaluate_on: market of the evaluations instead of the held-out part of `market`.
        spool: where scores go for MLflow.

    Raises:
        TradingEnvError: the data is not a market.
        MarketDataError: a file cannot be read as market data.
        CannotResume: the model at `model_path` does not fit the settings.
        ValueError: `total_timesteps` or `lanes` is below 1.
    """
    if total_timesteps < 1 or lanes < 1:
        raise ValueError(f"{total_timesteps} timesteps of {lanes} lanes: both must be at least 1")
    config = TrainerConfig() if config is None else config
    path = Path(model_path).with_suffix(".zip")
    rules = TradingConfig() if trading is None else trading
    found = offline_market(
        market, seed=market_seed, trading=rules, config=config, evaluate_on=evaluate_on
    )
    env = TradingVectorEnv(
        found.training, lanes, found.trading, autoreset_mode=AutoresetMode.SAME_STEP
    ).as_sb3()
    model = _learner(env, config, lanes, tensorboard)
    if resume:
        model_files.resume(model, path)
    if spool is not None:
        model.run_id = spool.run
    best = _best_model(found.held_out, path, config, resume=resume, spool=spool)
    further: list[BaseCallback] = [] if best is None else [best]
    if sys.stderr.isatty() if progress_bar is None else progress_bar:
        further.append(ProgressCallback())
    left = total_timesteps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=[*callbacks, *further], reset_num_timesteps=not resume)
    if model.num_timesteps > 0:
        model_files.save(model, path, with_experience=model.num_timesteps < total_timesteps)
    if not resume and (best is None or best.updates_of_best == 0):
        model_files.forget_best(path)  # of another run
    return model


def _best_model(
    held_out: Evaluation | None,
    path: Path,
    config: TrainerConfig,
    *,
    resume: bool,
    spool: Spool | None,
) -> BestModelCallback | None:
    """Return what scores the policy and saves the best one; None: nothing is held out."""
    if held_out is None:
        return None
    return BestModelCallback(
        held_out, path, every_updates=config.evaluate_every, resume=resume, spool=spool
    )


def _learner(env: VecEnv, config: TrainerConfig, lanes: int, tensorboard: str | None) -> TD3:
    """Make a learner on `lanes` trading environments, as the configuration says."""
    return TD3(
        "MlpPolicy",
        RewardScale(VecMonitor(env), config.reward_scale),
        learning_rate=config.learning_rate,
        buffer_size=BUFFER,
        learning_starts=config.learning_starts,
        batch_size=config.batch,
        tau=config.tau,
        gamma=config.gamma,
        train_freq=1,
        gradient_steps=max(1, round(config.replay_ratio * lanes)),
        action_noise=NormalActionNoise(np.zeros(SLOTS), np.full(SLOTS, NOISE)),
        replay_buffer_class=FrameReplay,
        policy_delay=config.policy_delay,
        target_policy_noise=config.policy_noise,
        target_noise_clip=config.noise_clip,
        policy_kwargs=policy_kwargs(config),
        precision=config.precision,
        compile_networks=config.compile_networks,
        kernel=config.kernel,
        tensorboard_log=tensorboard,
        seed=config.seed,
        device=config.device,
    )


def updates_of(model: TD3) -> int:
    """Return the updates the model has made."""
    return 0 if model.update is None else model.update.updates


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0 = the model was saved, 1 = it could not be, 78 = a setting is wrong.

    2 = an argument is wrong, 128 + N = ended by signal N, the model saved as far as it was.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
        parser.error("--tensorboard needs a package that is not here: pip install tensorboard")
    try:
        settings = load_settings(options.profile, _overrides(options))
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    try:
        model_files.writable(options.model)
        with EndBySignal() as end:
            return _train(options, settings, end)
    except (TradingEnvError, MarketDataError, model_files.CannotResume, OSError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("train: ended at once, what was learned since the last save is lost\n")
        return 128 + signal.SIGINT


def _train(options: argparse.Namespace, settings: Settings, end: EndBySignal) -> int:
    """Train as the options say and tell what came of it."""
    market: str | Array = "synthetic"
    market_seed = options.synthetic
    if options.data is not None:
        market = states_of_file(
            options.data, settings.trading, date=options.date, root=options.root
        )
    if options.known_optimum is not None:
        market, market_seed = "known_optimum", options.known_optimum
    torch.set_num_threads(settings.trainer.threads)
    callbacks: list[BaseCallback] = [end]
    with contextlib.ExitStack() as stack:
        spool = None
        if options.tracking is not None:
            directory, tracking = options.tracking / "tracking", settings.tracking
            known = model_files.run_of(options.model) if options.resume else ""
            spool = Spool(directory, "train", known or uuid.uuid4().hex, tracking.spool_bytes)
            stack.enter_context(_published_at(spool, end))
            tells = MLflowCallback(
                spool,
                every_updates=tracking.every_updates,
                ends=False,
                resumed_from=str(options.model) if options.resume else "",
            )
            callbacks.append(tells)
        model = train_td3(
            options.timesteps,
            options.model,
            market=market,
            market_seed=market_seed,
            lanes=options.lanes,
            config=settings.trainer,
            trading=settings.trading,
            callbacks=callbacks,
            tensorboard=options.tensorboard,
            resume=options.resume,
            evaluate_on=options.evaluate_on,
            spool=spool,
        )
        best = model_files.best_arrays(options.model) if settings.trainer.evaluate_every else None
        if spool is not None and model.num_timesteps > 0:
            _register(spool, f"{settings.tracking.experiment}-train", options.model, model, best)
    what = f"{options.model}: {updates_of(model)} updates, {model.update_kind}"
    if best is not None:
        score, updates = float(best["score"]), int(best["updates"])
        path = model_files.best_path(options.model)
        what += f"\n{path}: {score:.6g} a step on what was held out, after {updates} updates"
    if end.number:
        made = f"{model.num_timesteps} of {options.timesteps} steps"
        sys.stderr.write(f"train: ended after {made}; --resume goes on from there\n")
        return 128 + end.number
    sys.stdout.write(f"{what}\n")
    return 0


def _register(
    spool: Spool, name: str, path: Path, model: TD3, best: Mapping[str, Array] | None
) -> None:
    """Register the best model by score; the newest where nothing was evaluated."""
    updates, alias = updates_of(model), "newest"
    if best is not None:
        path, updates, alias = model_files.best_path(path), int(best["updates"]), "best"
    spool.model(updates, name, alias, [path.with_suffix(end) for end in (".zip", ".npz")])


def _overrides(options: argparse.Namespace) -> list[str]:
    """Return what the options set in the configuration."""
    pairs = list(options.set)
    if options.evaluate_every is not None:
        pairs.append(f"evaluate_every={options.evaluate_every}")
    return [pair if "." in pair.partition("=")[0] else f"trainer.{pair}" for pair in pairs]


@contextlib.contextmanager
def _published_at(spool: Spool, end: EndBySignal) -> Iterator[None]:
    """Say at the end of the run how it ended."""
    status = "FAILED"
    try:
        yield
        status = "KILLED" if end.number else "FINISHED"
    finally:
        spool.end(status)
        spool.close()


def _count(minimum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are at least `minimum`, as argparse calls it."""

    def parse(text: str) -> int:
        digits = text.replace("_", "")
        if not digits.removeprefix("-").isdecimal() or int(digits) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is no count of {minimum} or more")
        return int(digits)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "workers.trainer.cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--timesteps", type=_count(1), default=100_000)
    parser.add_argument("--model", type=Path, default=Path("td3.zip"))
    market = parser.add_mutually_exclusive_group()
    market.add_argument("--data", type=Path)
    market.add_argument("--synthetic", type=int, default=0, metavar="SEED")
    market.add_argument("--known-optimum", type=int, metavar="SEED")
    parser.add_argument("--root", default="")
    parser.add_argument("--date", default="", metavar="YYYYMMDD")
    parser.add_argument("--evaluate-every", type=_count(0), metavar="N")
    parser.add_argument("--evaluate-on", metavar="MARKET")
    parser.add_argument("--lanes", type=_count(1), default=16)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--profile", default=None)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tensorboard", metavar="DIR")
    parser.add_argument("--tracking", type=Path, metavar="RUN_DIRECTORY")
    return parser


if __name__ == "__main__":
    sys.exit(main())
