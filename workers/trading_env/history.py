"""What an episode looked like: equity, positions and costs as a picture (needs matplotlib)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from workers.records import SLOTS

if TYPE_CHECKING:
    from config.trading import TradingConfig

Array = np.ndarray[Any, np.dtype[Any]]


class History:
    """The steps of one episode, for drawing."""

    def __init__(self, config: TradingConfig) -> None:
        """Start without a step."""
        self._config = config
        self._figure: Any = None
        self.clear()

    def clear(self) -> None:
        """Forget the episode."""
        self._equity: list[float] = []
        self._positions: list[Array] = []
        self._costs: list[float] = []

    def add(self, equity: float, positions: Array, costs: float) -> None:
        """Add a step: equity and its costs in quote currency, positions (10,) in contracts."""
        self._equity.append(equity)
        self._positions.append(positions)
        self._costs.append(costs)

    def render(self, mode: str) -> Any:
        """Draw: `rgb_array` gives uint8 (600, 800, 3); `human` shows a window and gives None."""
        if mode == "human":
            from matplotlib import pyplot as plt  # noqa: PLC0415 - only those who draw pay for it

            if self._figure is None:
                plt.ion()
                self._figure = plt.figure(figsize=(8, 6), dpi=100)
                if self._figure.canvas.required_interactive_framework is None:
                    gymnasium.logger.warn(
                        f"render_mode human: no display for matplotlib's {plt.get_backend()}; "
                        "set DISPLAY and install python3-tk, or use rgb_array"
                    )
            self._draw(self._figure)
            self._figure.canvas.draw_idle()
            self._figure.canvas.flush_events()
            return None
        from matplotlib.backends.backend_agg import (  # noqa: PLC0415 - only those who draw pay
            FigureCanvasAgg,
        )
        from matplotlib.figure import Figure  # noqa: PLC0415 - only those who draw pay for it

        figure = Figure(figsize=(8, 6), dpi=100)
        canvas: Any = FigureCanvasAgg(figure)
        self._draw(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()

    def close(self) -> None:
        """Close the window."""
        if self._figure is not None:
            from matplotlib import pyplot as plt  # noqa: PLC0415 - only those who draw pay for it

            plt.close(self._figure)
            self._figure = None

    def _draw(self, figure: Any) -> None:
        figure.clear()
        top, middle, bottom = figure.subplots(3, 1, sharex=True)
        steps = np.arange(len(self._equity))
        top.plot(steps, self._equity, color="tab:blue")
        top.axhline(self._config.initial_balance, color="0.7", linewidth=0.8)
        top.set_ylabel("equity")
        top.ticklabel_format(useOffset=False, style="plain")
        top.set_title(f"step {max(0, len(self._equity) - 1)}")
        positions = np.array(self._positions).reshape(-1, SLOTS)
        for slot in range(SLOTS):
            middle.step(steps, positions[:, slot], where="post", linewidth=0.9, label=str(slot))
        middle.set_ylabel("contracts")
        middle.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), title="slot")
        bottom.plot(steps, np.cumsum(self._costs), color="tab:red")
        bottom.set_ylabel("costs, total")
        bottom.set_xlabel("step")
        figure.tight_layout()
