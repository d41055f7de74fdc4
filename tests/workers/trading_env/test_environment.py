"""`TradingEnvironment` and `TradingVectorEnv`: gymnasium's and SB3's contracts, one maths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from config.trading import TradingConfig
from tests.workers.trading_env.markets import Streamed, market
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.errors import BadMarketData, InvalidAction, StaleData
from workers.trading_env.providers.known_optimum import (
    known_optimum_config,
    known_optimum_provider,
)
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.synthetic import synthetic_provider

ROOT = Path(__file__).parents[3]
WINDOW_CHILD = """
import numpy as np
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.providers.synthetic import synthetic_provider

env = TradingEnvironment(synthetic_provider(3, states=120), render_mode="human")
env.reset(seed=0)
for steps in (10, 10):
    for _ in range(steps):
        env.step(np.linspace(-1, 1, 10))
    print("drawn", flush=True)
    input()
env.close()
"""
RULES = TradingConfig(max_episode_steps=17, ruin_share=0.9, latency_states=1, partial_fills=True)


def provider(seed=0):
    """Random segments in which episodes begin anywhere."""
    runs = [market(seed + i, 40 + 7 * i) for i in range(4)]
    return RecordedProvider(runs, random_start=True, min_steps=5)


def test_gymnasium_accepts_it():
    """check_env finds nothing, not even something to warn of."""
    check_env(TradingEnvironment(provider()), skip_render_check=True)
    check_env(TradingEnvironment(Streamed(provider())), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:Your observation .* has an unconventional shape")
def test_stable_baselines_accepts_it():
    """SB3's check_env finds nothing but the shape, which is a window on purpose."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(TradingEnvironment(provider()))


@pytest.mark.parametrize("name", ["Synthetic-v0", "KnownOptimum-v0"])
def test_ids_are_registered(name):
    """gymnasium.make and make_vec know them, with the vector environment of our own."""
    sizes = {"states": 200} if name.startswith("Synth") else {"episodes": 3, "steps": 20}
    env = gymnasium.make(f"tradingmesh/{name}", **sizes)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    several = gymnasium.make_vec(f"tradingmesh/{name}", num_envs=3, **sizes)
    assert isinstance(several.unwrapped, TradingVectorEnv)
    first, _ = several.reset(seed=1)
    assert first[0].tobytes() == observation.tobytes()


def test_gymnasium_finds_an_id_by_its_module():
    """A fresh interpreter makes an environment from the id alone, module and all."""
    code = (
        "import gymnasium; env = gymnasium.make("
        "'workers.trading_env.env.registration:tradingmesh/KnownOptimum-v0', episodes=2, steps=9); "
        "print(env.reset(seed=0)[0].shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(16, 100)"


@pytest.mark.skipif(
    not hasattr(gymnasium.envs.registration, "load_plugin_envs"),
    reason="this version of gymnasium loads no plugins",
)
def test_gymnasium_finds_an_id_of_the_installed_package():
    """The entry point of the installed package registers the ids: nothing of ours is imported."""
    code = (
        "import gymnasium; env = gymnasium.make('tradingmesh/KnownOptimum-v0', episodes=2, steps=9)"
        "; print(env.reset(seed=0)[0].shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(16, 100)"


def rollout(env, actions, seed):
    """Everything a vector environment gives for these actions."""
    observation, info = env.reset(seed=seed)
    yield observation, np.zeros(env.num_envs), None, None, info
    for action in actions:
        yield env.step(action)


def assert_same(found, wanted):
    """Two rollouts agree to the last bit."""
    for one, two in zip(found, wanted, strict=True):
        assert one[0].tobytes() == np.ascontiguousarray(two[0]).tobytes()
        assert np.asarray(one[1], float).tobytes() == np.asarray(two[1], float).tobytes()
        for place in (2, 3):
            assert one[place] is None or (one[place] == two[place]).all()
        for name in ("cash", "equity", "fills", "reasons", "step", "ts_event"):
            assert (one[4][name] == two[4][name]).all(), name


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("swap", [False, True])
def test_scalar_and_batched_agree_step_for_step(mode, swap):
    """Five lanes as SyncVectorEnv of scalar ones and as one batch: the same to the last bit."""
    config = RULES.model_copy(update={"swap_terminated_truncated": swap})
    rng = np.random.default_rng(5)
    actions = rng.uniform(-1.3, 1.3, (120, 5, SLOTS)).astype(np.float32)
    batch = TradingVectorEnv(provider(), 5, config, autoreset_mode=mode)
    scalar = SyncVectorEnv(
        [lambda: TradingEnvironment(provider(), config) for _ in range(5)], autoreset_mode=mode
    )
    assert_same(rollout(batch, actions, 11), rollout(scalar, actions, 11))


def test_streams_and_rows_agree_step_for_step():
    """A provider stepped by `advance` gives what the same states in memory give."""
    rng = np.random.default_rng(6)
    actions = rng.uniform(-1, 1, (100, 3, SLOTS))
    rows = TradingVectorEnv(provider(), 3, RULES)
    streams = TradingVectorEnv([Streamed(provider()) for _ in range(3)], config=RULES)
    assert_same(rollout(rows, actions, 2), rollout(streams, actions, 2))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_lanes_that_share_a_stream(mode):
    """Live: all lanes at the newest state, new episodes begin there, at the end all begin anew."""
    states = market(8, 30)
    config = TradingConfig(ruin_share=0.0, max_episode_steps=0)
    actions = np.random.default_rng(3).uniform(-1, 1, (70, 3, SLOTS))
    stream = Streamed(RecordedProvider(states))
    shared = TradingVectorEnv(stream, 3, config, autoreset_mode=mode)
    alone = TradingVectorEnv(RecordedProvider(states), 3, config, autoreset_mode=mode)
    assert_same(rollout(shared, actions, 1), rollout(alone, actions, 1))
    assert stream.calls <= 71  # one state a step, whatever the number of lanes
    poor = TradingConfig(initial_balance=30_000.0, ruin_share=0.97)
    shared = TradingVectorEnv(Streamed(RecordedProvider(states)), 2, poor, autoreset_mode=mode)
    shared.reset(seed=0)
    action = np.stack([np.ones(SLOTS), np.zeros(SLOTS)])
    for step in range(1, 20):
        _, _, terminated, _, info = shared.step(action)
        assert (info["ts_event"] == states["ts_event"][step]).all()
        assert not terminated[1]
        if terminated[0]:
            break
    assert terminated[0]
    if mode is AutoresetMode.NEXT_STEP:
        _, _, _, _, info = shared.step(action)
    assert info["step"][0] == 0
    assert info["equity"][0] == poor.initial_balance
    assert info["step"][1] == (step + 1 if mode is AutoresetMode.NEXT_STEP else step)


def test_same_step_mode_keeps_what_ended():
    """`final_obs` ends the old episode, the observation begins the new one."""
    config = TradingConfig(max_episode_steps=3)
    env = TradingVectorEnv(provider(), 2, config, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = np.full((2, SLOTS), 0.5)
    for _ in range(2):
        env.step(actions)
    observation, _, _, truncated, info = env.step(actions)
    assert truncated.all()
    assert info["_final_obs"].all()
    for lane in range(2):
        assert info["final_obs"][lane][-1, 0] != 1.0
        assert observation[lane][-1, 0] == 1.0
        assert not observation[lane][:, 1:11].any()
    assert info["final_info"]["ended"].tolist() == ["step limit"] * 2
    assert (info["step"] == 0).all()


def test_disabled_mode_resets_by_mask():
    """Without autoreset an ended lane must be reset, alone, and the others go on."""
    config = TradingConfig(max_episode_steps=4)
    env = TradingVectorEnv(provider(), 3, config, autoreset_mode="Disabled")
    env.reset(seed=0)
    for _ in range(4):
        _, _, _, truncated, _ = env.step(np.zeros((3, SLOTS)))
    assert truncated.all()
    with pytest.raises(ResetNeeded, match="lanes"):
        env.step(np.zeros((3, SLOTS)))
    env.reset(options={"reset_mask": np.array([True, True, True])})
    env.step(np.zeros((3, SLOTS)))
    _, info = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert info["step"].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": [1, 2]})


def test_same_seed_same_trajectory():
    """Two runs of one seed are equal, another seed is not."""
    runs = []
    for seed in (3, 3, 4):
        env = TradingEnvironment(provider())
        observation, _ = env.reset(seed=seed)
        env.action_space.seed(1)
        parts = [observation]
        for _ in range(3):
            parts += [env.step(env.action_space.sample())[0] for _ in range(4)]
            parts.append(env.reset()[0])
        runs.append(np.stack(parts).tobytes())
    assert runs[0] == runs[1] != runs[2]


def test_the_end_of_data_truncates_and_ruin_terminates():
    """The learner bootstraps at the end of data, not at ruin; the switch swaps the two."""
    states = market(1, 12)
    for swap in (False, True):
        config = TradingConfig(swap_terminated_truncated=swap)
        env = TradingEnvironment(RecordedProvider(states), config)
        env.reset(seed=0)
        flags = [env.step(np.zeros(SLOTS))[2:4] for _ in range(11)]
        assert flags[:-1] == [(False, False)] * 10
        assert flags[-1] == ((True, False) if swap else (False, True))
        with pytest.raises(ResetNeeded):
            env.step(np.zeros(SLOTS))
    poor = TradingConfig(initial_balance=1000.0, cost_rate=1.0)
    env = TradingEnvironment(RecordedProvider(states), poor)
    env.reset(seed=0)
    *_, terminated, truncated, info = env.step(np.ones(SLOTS))
    assert (terminated, truncated, info["ended"]) == (True, False, "ruin")


@pytest.mark.parametrize(
    "action",
    [np.full(SLOTS, np.nan), np.full(SLOTS, np.inf), np.zeros(3), "buy", None, [[0.0] * SLOTS]],
)
def test_bad_actions_are_typed_errors(action):
    """NaN, infinity, a wrong shape, a string: InvalidAction, and the account is as before."""
    env = TradingEnvironment(provider())
    env.reset(seed=0)
    before = env.simulation.accounts.to_bytes()
    with pytest.raises(InvalidAction):
        env.step(action)
    assert env.simulation.accounts.to_bytes() == before


def test_a_bad_action_can_hold_instead():
    """Configured to hold, a NaN keeps the positions and says so."""
    env = TradingEnvironment(provider(), TradingConfig(on_bad_action="hold"))
    env.reset(seed=0)
    env.step(np.full(SLOTS, 0.5))
    held = env.simulation.accounts.positions.copy()
    *_, info = env.step(np.full(SLOTS, np.nan))
    stayed = (info["reasons"] & 16) == 0
    assert (env.simulation.accounts.positions[0] == held[0])[stayed].all()
    assert (info["reasons"] & 32).all()


def test_stale_data_holds_or_raises():
    """A live source that fell silent: the state is held, nothing trades, or StaleData."""
    env = TradingEnvironment(Streamed(provider(), silent_at=2))
    env.reset(seed=0)
    env.step(np.ones(SLOTS))
    *_, info = env.step(np.zeros(SLOTS))
    at = info["ts_event"]
    observation, reward, _, _, info = env.step(np.zeros(SLOTS))
    assert np.isfinite(observation).all()
    assert np.isfinite(reward)
    assert info["ts_event"] == at
    *_, info = env.step(np.ones(SLOTS))
    assert not info["fills"].any()
    assert (info["reasons"] & 4).any()
    env = TradingEnvironment(Streamed(provider(), silent_at=1), TradingConfig(on_bad_data="raise"))
    env.reset(seed=0)
    with pytest.raises(StaleData):
        env.step(np.ones(SLOTS))


def test_what_is_no_provider_is_refused():
    """A list of numbers, a provider of dictionaries, numbers of lanes that do not fit."""
    with pytest.raises(TypeError, match="reset"):
        TradingEnvironment([1, 2, 3])
    with pytest.raises(ValueError, match="one a lane"):
        TradingVectorEnv([Streamed(provider()), Streamed(provider())], 3)
    with pytest.raises(ValueError, match="at least 1"):
        TradingVectorEnv(provider(), 0)

    class Dictionaries:
        def reset(self, *, seed=None):
            return {"price": seed}

        def advance(self):
            return {"price": float("nan")}

    env = TradingEnvironment(Dictionaries())
    with pytest.raises(BadMarketData, match="MARKET_DTYPE"):
        env.reset()


def test_the_sb3_view_has_what_learners_need():
    """Same-step resets, the terminal observation, and a truncation that is marked as one."""
    pytest.importorskip("stable_baselines3")
    config = known_optimum_config(max_episode_steps=5)
    env = TradingVectorEnv(known_optimum_provider(steps=9), 4, config, autoreset_mode="SameStep")
    view = env.as_sb3()
    view.seed(3)
    first = view.reset()
    assert first.shape == (4, 16, 100)
    for step in range(5):
        observations, rewards, dones, infos = view.step(np.zeros((4, SLOTS), np.float32))
        assert dones.all() == (step == 4)
    assert rewards.dtype == np.float32
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"].shape == (16, 100)
    assert (observations[:, -1, 0] == 1.0).all()


def test_sb3_learns_on_the_view():
    """TD3 of stable-baselines3 takes the view as its environment and trains."""
    sb3 = pytest.importorskip("stable_baselines3")
    env = TradingVectorEnv(
        known_optimum_provider(episodes=4, steps=30),
        2,
        known_optimum_config(),
        autoreset_mode="SameStep",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sb3.TD3(
            "MlpPolicy",
            env.as_sb3(),
            learning_starts=20,
            buffer_size=500,
            batch_size=16,
            policy_kwargs={"net_arch": [8]},
            device="cpu",
        )
        model.learn(60)
    assert model.num_timesteps >= 60


def test_the_library_does_not_import_stable_baselines():
    """A feeder or a notebook pays for torch only when it asks for the SB3 view."""
    code = (
        "import sys; import workers.trading_env.env.vector, workers.trading_env.env.registration; "
        "print([m for m in ('torch', 'stable_baselines3', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_rendering_draws_the_episode():
    """rgb_array is a picture of another episode step by step."""
    pytest.importorskip("matplotlib")
    env = TradingEnvironment(provider(), render_mode="rgb_array")
    env.reset(seed=0)
    blank = env.render()
    for _ in range(5):
        env.step(np.ones(SLOTS))
    drawn = env.render()
    assert drawn.shape == (600, 800, 3)
    assert drawn.dtype == np.uint8
    assert (drawn != blank).any()
    env.close()


def screen_of(path):
    """The pixels of an X server's frame buffer file, uint32 (height, width): XWD, version 7."""
    data = path.read_bytes()
    words = np.frombuffer(data[:100], ">u4").astype(int)
    width, height, colours = words[4], words[5], words[19]
    return np.frombuffer(data, "<u4", width * height, words[0] + 12 * colours).reshape(
        height, width
    )


def test_a_window_shows_the_episode(tmp_path):
    """human: on an X server the window of an episode has been drawn into, at every step anew."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("needs an X server: apt-get install xvfb")
    number, ready = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(ready), "-screen", "0", "900x700x24", "-fbdir", str(tmp_path)],
        pass_fds=[ready],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(ready)
    child = None
    try:
        display = os.read(number, 16).decode().strip()
        assert display, "the X server did not start"
        child = subprocess.Popen(
            [sys.executable, "-c", WINDOW_CHILD],
            cwd=ROOT,
            text=True,
            env={**os.environ, "DISPLAY": f":{display}", "MPLBACKEND": "TkAgg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        pictures = []
        for _ in range(2):
            assert child.stdout.readline() == "drawn\n"
            pictures.append(screen_of(tmp_path / "Xvfb_screen0"))
            child.stdin.write("\n")
            child.stdin.flush()
        child.communicate(timeout=30)
        assert child.returncode == 0
    finally:
        for process in filter(None, (child, server)):
            process.kill()
            process.wait()
        os.close(number)
    first, second = pictures
    assert first.shape == (700, 900)
    assert np.unique(second).size > 50  # a blank screen has one colour, an empty window a few
    assert (first != second).sum() > 500


def test_without_a_display_a_window_is_no_silent_nothing():
    """human where nothing can be shown: the environment says so, and goes on."""
    pytest.importorskip("matplotlib.pyplot").switch_backend("Agg")
    env = TradingEnvironment(provider(), render_mode="human")
    with pytest.warns(UserWarning, match="no display"):
        env.reset(seed=0)
    env.step(np.zeros(SLOTS))
    env.close()


def test_a_synthetic_market_is_the_same_for_a_seed():
    """Same seed, same states; every state is sane, and most slots can be traded."""
    one, two, three = (synthetic_provider(seed, states=150) for seed in (1, 1, 2))
    for name in one.states.dtype.names:
        equal = {"equal_nan": True} if one.states[name].dtype.kind == "f" else {}
        assert np.array_equal(one.states[name], two.states[name], **equal), name
    assert (one.states["price"][:150] != three.states["price"][:150]).any()
    assert one.states["tradeable"].mean() > 0.8
    env = TradingEnvironment(one)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
