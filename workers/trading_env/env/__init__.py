"""The Gymnasium environments; importing any module of this package registers their ids."""

from workers.trading_env.env import registration

__all__ = ["registration"]
