"""Offline training on recorded or simulated data: `python -m workers.trainer.train`.

    --timesteps N --model FILE.zip     the classic two
    --data PATH, --synthetic SEED or --known-optimum SEED: the market (default: synthetic, seed 0)
    --profile NAME, --set key=value: settings of [trainer], as the daemon has them
    --lanes N --tensorboard DIR --tracking RUN_DIRECTORY
    --resume: go on with the model at FILE.zip up to N steps in all

The zip is one of stable-baselines3's; beside it lies FILE.npz, the arrays of the published policy,
which `python -m workers.trading_env.evaluation --policy FILE.npz` evaluates without torch.

Ctrl-C or SIGTERM ends the training in good order: the model is saved, and the experience beside it
(FILE.replay.pkl), so that the same command with --resume goes on where it was. A second one ends it
at once and saves nothing.
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
from workers.market_data.errors import MarketDataError
from workers.records import SLOTS
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.providers.files import file_provider
from workers.trading_env.providers.known_optimum import known_optimum_config, known_optimum_provider
from workers.trading_env.providers.synthetic import synthetic_provider
from workers.trading_env.vector import TradingVectorEnv
from workers.trainer import saved
from workers.trainer.algorithm import TD3
from workers.trainer.callbacks import EndBySignal, MLflowCallback, ProgressCallback
from workers.trainer.frame_replay import FrameReplay
from workers.trainer.learner import policy_kwargs
from workers.trainer.tracking import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stable_baselines3.common.callbacks import BaseCallback

    from config import Settings
    from workers.trading_env.evaluation import Policy

Array = np.ndarray[Any, np.dtype[Any]]
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


def environment(
    market: str | Path, *, lanes: int, seed: int, config: TradingConfig | None = None
) -> TradingVectorEnv:
    """Give `lanes` episodes at a time of "synthetic", "known_optimum" or a recorded file."""
    config = TradingConfig() if config is None else config
    if market == "known_optimum":
        config = known_optimum_config()
        provider = known_optimum_provider(seed, episodes=256)
    elif market == "synthetic":
        provider = synthetic_provider(seed, config=config)
    else:
        provider = file_provider(Path(market), config, random_start=True, least_steps=16)
    return TradingVectorEnv(provider, lanes, config, autoreset_mode=AutoresetMode.SAME_STEP)


def train_td3(
    total_timesteps: int,
    model_path: str | Path,
    *,
    market: str | Path = "synthetic",
    market_seed: int = 0,
    lanes: int = 16,
    config: TrainerConfig | None = None,
    trading: TradingConfig | None = None,
    callbacks: Sequence[BaseCallback] = (),
    progress_bar: bool | None = None,
    tensorboard: str | None = None,
    resume: bool = False,
) -> TD3:
    """Train for `total_timesteps` steps (of all lanes together), save to `model_path`, give it.

    With `resume` the model at `model_path` goes on until it has made that many. A callback that
    ends the training early has the experience saved too. The progress bar is shown on a terminal
    unless told otherwise. Raises TradingEnvError and MarketDataError for data that is no market,
    CannotResume for a model that does not fit, ValueError for numbers that are none.
    """
    if total_timesteps < 1 or lanes < 1:
        raise ValueError(f"{total_timesteps} timesteps of {lanes} lanes: both must be at least 1")
    config = TrainerConfig() if config is None else config
    path = Path(model_path).with_suffix(".zip")
    env = environment(market, lanes=lanes, seed=market_seed, config=trading).as_sb3()
    model = TD3(
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
        tensorboard_log=tensorboard,
        seed=config.seed,
        device=config.device,
    )
    if resume:
        saved.resume(model, path)
    shows = sys.stderr.isatty() if progress_bar is None else progress_bar
    bar = [ProgressCallback()] if shows else []
    left = total_timesteps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=[*callbacks, *bar], reset_num_timesteps=not resume)
    if model.num_timesteps > 0:
        saved.save(model, path, with_experience=model.num_timesteps < total_timesteps)
    return model


def updates_of(model: TD3) -> int:
    """Give the updates the model has made."""
    return 0 if model.update is None else model.update.updates


def acting(model: TD3) -> Policy:
    """Give the model as an evaluation calls it."""

    def act(observations: Array) -> Array:
        actions, _ = model.predict(observations, deterministic=True)
        return actions

    return act


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0 = the model was saved, 1 = it could not be, 78 = a setting is wrong.

    2 = an argument is wrong, 128 + N = ended by signal N, the model saved as far as it was.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
        parser.error("--tensorboard needs a package that is not here: pip install tensorboard")
    try:
        settings = load_settings(options.profile, [f"trainer.{pair}" for pair in options.set])
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    try:
        saved.writable(options.model)
        with EndBySignal() as end:
            return _train(options, settings, end)
    except (TradingEnvError, MarketDataError, saved.CannotResume, OSError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("train: ended at once, nothing was saved\n")
        return 128 + signal.SIGINT


def _train(options: argparse.Namespace, settings: Settings, end: EndBySignal) -> int:
    """Train as the options say and tell what came of it."""
    market: str | Path = "synthetic" if options.data is None else options.data
    market_seed = options.synthetic
    if options.known_optimum is not None:
        market, market_seed = "known_optimum", options.known_optimum
    torch.set_num_threads(settings.trainer.threads)
    callbacks: list[BaseCallback] = [end]
    with contextlib.ExitStack() as stack:
        spool = None
        if options.tracking is not None:
            directory, tracking = options.tracking / "tracking", settings.tracking
            spool = Spool(directory, "train", uuid.uuid4().hex, tracking.spool_bytes)
            stack.enter_context(_told(spool, end))
            callbacks.append(
                MLflowCallback(spool, every_updates=tracking.every_updates, ends=False)
            )
        model = train_td3(
            options.timesteps, options.model, market=market, market_seed=market_seed,
            lanes=options.lanes, config=settings.trainer, trading=settings.trading,
            callbacks=callbacks, tensorboard=options.tensorboard, resume=options.resume,
        )  # fmt: skip
        if spool is not None and model.num_timesteps > 0:
            name = f"{settings.tracking.experiment}-train"
            files = [options.model.with_suffix(suffix) for suffix in (".zip", ".npz")]
            spool.model(updates_of(model), name, "newest", files)
    what = f"{options.model}: {updates_of(model)} updates, {model.update_kind}"
    if end.number:
        made = f"{model.num_timesteps} of {options.timesteps} steps"
        sys.stderr.write(f"train: ended after {made}; --resume goes on from there\n")
        return 128 + end.number
    sys.stdout.write(f"{what}\n")
    return 0


@contextlib.contextmanager
def _told(spool: Spool, end: EndBySignal) -> Iterator[None]:
    """Say at the end of the run how it ended."""
    status = "FAILED"
    try:
        yield
        status = "KILLED" if end.number else "FINISHED"
    finally:
        spool.end(status)
        spool.close()


def _count(text: str) -> int:
    """Read a number that is at least 1. Raises ValueError."""
    if (number := int(text.replace("_", ""))) < 1:
        raise ValueError
    return number


_count.__name__ = "count of 1 or more"  # what argparse says is expected


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "workers.trainer.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--timesteps", type=_count, default=100_000)
    parser.add_argument("--model", type=Path, default=Path("td3.zip"))
    market = parser.add_mutually_exclusive_group()
    market.add_argument("--data", type=Path)
    market.add_argument("--synthetic", type=int, default=0, metavar="SEED")
    market.add_argument("--known-optimum", type=int, metavar="SEED")
    parser.add_argument("--lanes", type=_count, default=16)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--profile", default=None)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tensorboard", metavar="DIR")
    parser.add_argument("--tracking", type=Path, metavar="RUN_DIRECTORY")
    return parser


if __name__ == "__main__":
    sys.exit(main())
