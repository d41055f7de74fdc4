"""Gymnasium ids of the trading environments, registered when this package is imported.

    import workers.trading_env.env
    gymnasium.make("tradingmesh/Synthetic-v0", seed=3)
    gymnasium.make_vec("tradingmesh/KnownOptimum-v0", num_envs=64)
    gymnasium.make("tradingmesh/Recorded-v0", path="lean/option/usa/minute/goog")
    gymnasium.make("tradingmesh/Live-v0", mesh="/dev/shm/tradingmesh")

Without an import of ours, `workers.trading_env.env.registration:tradingmesh/Synthetic-v0` names the
module too. Versions of gymnasium that load plugins find the ids by the installed package's entry
point `gymnasium.envs`; 1.4 loads none.
`tradingmesh/Trading-v0` takes any provider. All take `config=TradingConfig(...)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register as register_id
from gymnasium.envs.registration import registry

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from workers.trading_env.env.environment import TradingEnvironment
    from workers.trading_env.env.vector import TradingVectorEnv
    from workers.trading_env.providers.protocol import MarketDataProvider

SYNTHETIC, KNOWN_OPTIMUM, LIVE = "Synthetic-v0", "KnownOptimum-v0", "Live-v0"
RECORDED = "Recorded-v0"


def make_synthetic(*, seed: int = 0, states: int = 2000, **env: Any) -> TradingEnvironment:
    """One environment on a synthetic chain of `states` states."""
    provider, config = _synthetic(seed, states, env.pop("config", None))
    return _one(provider, config, env)


def make_synthetic_vector(
    *, num_envs: int, seed: int = 0, states: int = 2000, **env: Any
) -> TradingVectorEnv:
    """`num_envs` environments on a synthetic chain of `states` states."""
    provider, config = _synthetic(seed, states, env.pop("config", None))
    return _many(provider, num_envs, config, env)


def make_known_optimum(
    *, seed: int = 0, episodes: int = 64, steps: int = 256, assets: int = 1, **env: Any
) -> TradingEnvironment:
    """One environment on the market whose best policy is known."""
    provider, config = _known(seed, episodes, steps, assets, env.pop("config", None))
    return _one(provider, config, env)


def make_known_optimum_vector(
    *,
    num_envs: int,
    seed: int = 0,
    episodes: int = 64,
    steps: int = 256,
    assets: int = 1,
    **env: Any,
) -> TradingVectorEnv:
    """`num_envs` environments on the market whose best policy is known."""
    provider, config = _known(seed, episodes, steps, assets, env.pop("config", None))
    return _many(provider, num_envs, config, env)


def make_recorded(*, path: str, date: str = "", **env: Any) -> TradingEnvironment:
    """One environment on a recorded file or folder (or a Parquet archive of states)."""
    provider, config = _recorded(path, date, env.pop("config", None))
    return _one(provider, config, env)


def make_recorded_vector(
    *, num_envs: int, path: str, date: str = "", **env: Any
) -> TradingVectorEnv:
    """`num_envs` environments on a recorded file or folder."""
    provider, config = _recorded(path, date, env.pop("config", None))
    return _many(provider, num_envs, config, env)


def make_live(*, mesh: str, timeout_s: float = 30.0, **env: Any) -> TradingEnvironment:
    """One environment on the market that a mesh's feeder publishes."""
    from mesh import Mesh  # noqa: PLC0415 - only who trades live needs a mesh
    from workers.trading_env.providers.live import LiveProvider  # noqa: PLC0415 - the same

    provider = LiveProvider(Mesh(mesh), timeout_s=timeout_s)
    return _one(provider, env.pop("config", None), env)


def make_live_vector(
    *, num_envs: int, mesh: str, timeout_s: float = 30.0, **env: Any
) -> TradingVectorEnv:
    """`num_envs` paper portfolios on the market that a mesh's feeder publishes."""
    from mesh import Mesh  # noqa: PLC0415 - only who trades live needs a mesh
    from workers.trading_env.providers.live import LiveProvider  # noqa: PLC0415 - the same

    provider = LiveProvider(Mesh(mesh), timeout_s=timeout_s)
    return _many(provider, num_envs, env.pop("config", None), env)


def _synthetic(
    seed: int, states: int, config: TradingConfig | None
) -> tuple[MarketDataProvider, TradingConfig | None]:
    from workers.trading_env.providers.synthetic import (  # noqa: PLC0415 - made when asked for
        synthetic_provider,
    )

    return synthetic_provider(seed, states=states, config=config), config


def _recorded(
    path: str, date: str, config: TradingConfig | None
) -> tuple[MarketDataProvider, TradingConfig]:
    from config.trading import TradingConfig  # noqa: PLC0415 - made when asked for
    from workers.trading_env.providers.files import file_provider  # noqa: PLC0415 - the same

    config = TradingConfig() if config is None else config
    return file_provider(Path(path), config, date=date, random_start=True), config


def _known(
    seed: int, episodes: int, steps: int, assets: int, config: TradingConfig | None
) -> tuple[MarketDataProvider, TradingConfig]:
    from workers.trading_env.providers.known_optimum import (  # noqa: PLC0415 - made when asked for
        KnownOptimum,
        known_optimum_config,
        known_optimum_provider,
    )

    config = known_optimum_config() if config is None else config
    model = KnownOptimum(risk=config.quadratic_risk, cost=config.quadratic_cost)
    provider = known_optimum_provider(
        seed, optimum=model, episodes=episodes, steps=steps, assets=assets
    )
    return provider, config


def _one(
    provider: MarketDataProvider, config: TradingConfig | None, env: dict[str, Any]
) -> TradingEnvironment:
    from workers.trading_env.env.environment import TradingEnvironment  # noqa: PLC0415 - when asked for

    return TradingEnvironment(provider, config, **env)


def _many(
    provider: MarketDataProvider, count: int, config: TradingConfig | None, env: dict[str, Any]
) -> TradingVectorEnv:
    from workers.trading_env.env.vector import TradingVectorEnv  # noqa: PLC0415 - when asked for

    return TradingVectorEnv(provider, count, config, **env)


def register() -> None:
    """Register the ids with gymnasium; a second time changes nothing."""
    here = __name__
    ids: dict[str, dict[str, str]] = {
        "Trading-v0": {
            "entry_point": "workers.trading_env.env.environment:TradingEnvironment",
            "vector_entry_point": "workers.trading_env.env.vector:TradingVectorEnv",
        },
        SYNTHETIC: {
            "entry_point": f"{here}:make_synthetic",
            "vector_entry_point": f"{here}:make_synthetic_vector",
        },
        KNOWN_OPTIMUM: {
            "entry_point": f"{here}:make_known_optimum",
            "vector_entry_point": f"{here}:make_known_optimum_vector",
        },
        RECORDED: {
            "entry_point": f"{here}:make_recorded",
            "vector_entry_point": f"{here}:make_recorded_vector",
        },
        LIVE: {
            "entry_point": f"{here}:make_live",
            "vector_entry_point": f"{here}:make_live_vector",
        },
    }
    for name, points in ids.items():
        if f"tradingmesh/{name}" not in registry:
            register_id(f"tradingmesh/{name}", **points)  # type: ignore[arg-type] # strings


register()
