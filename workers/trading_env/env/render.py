"""What an episode looked like: equity, positions and costs as a picture (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from workers.contract.dtypes import SLOTS

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array

WIDTH = 600  # pixels in which the steps lie
_LABEL: dict[str, Any] = {"loc": "left", "fontsize": 9, "pad": 4}


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
        self._ts_event = 0
        self._ended = ""

    def add(self, positions: Array, info: Mapping[str, Any]) -> None:
        """Add a step: the environment's `info` of it, and positions (10,) in contracts."""
        self._ts_event, self._ended = info["ts_event"], info.get("ended", "")
        self._equity.append(info["equity"])
        self._positions.append(positions)
        self._costs.append(info["costs"])

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
        from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 - as above

        figure.clear()
        grid = figure.add_gridspec(
            3,
            2,
            width_ratios=(50, 1),
            left=0.12,
            right=0.93,
            top=0.89,
            bottom=0.08,
            wspace=0.03,
            hspace=0.3,
        )
        middle = figure.add_subplot(grid[1, 0])
        top = figure.add_subplot(grid[0, 0], sharex=middle)
        bottom = figure.add_subplot(grid[2, 0], sharex=middle)
        count = len(self._equity)
        steps = np.arange(count)
        self._draw_positions(figure, middle, figure.add_subplot(grid[1, 1]))
        top.plot(steps, self._equity, color="tab:blue")
        top.axhline(self._config.initial_balance, color="0.6", linewidth=0.8, linestyle="--")
        top.set_title("equity, in quote currency", **_LABEL)
        bottom.plot(steps, np.cumsum(self._costs), color="tab:red")
        bottom.set_title("costs so far, in quote currency", **_LABEL)
        bottom.set_xlabel("step")
        for axes in (top, middle):
            axes.tick_params(labelbottom=False)
        for axes in (top, bottom):
            axes.yaxis.set_major_formatter(FuncFormatter(_amount))
            axes.grid(alpha=0.25, linewidth=0.6)
        middle.set_xlim(-0.5, max(count - 0.5, 1.5))
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(self._title(), fontsize=10)

    def _draw_positions(self, figure: Any, axes: Any, scale: Any) -> None:
        """A row a slot, coloured by its position: ten lines over each other cannot be told apart.

        Of more steps than there are pixels, one of each group is shown.
        """
        every = max(1, len(self._positions) // WIDTH)
        shown = np.array(self._positions[::every]).reshape(-1, SLOTS).T
        largest = float(np.abs(shown).max(initial=0.0)) or 1.0
        image = axes.imshow(
            shown,
            cmap="RdBu",
            vmin=-largest,
            vmax=largest,
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, max(1, shown.shape[1]) * every - 0.5, SLOTS - 0.5, -0.5),
        )
        axes.set_title("position of each slot, in contracts", **_LABEL)
        axes.set_yticks(range(SLOTS))
        axes.tick_params(axis="y", labelsize=7)
        figure.colorbar(image, cax=scale).ax.tick_params(labelsize=7)

    def _title(self) -> str:
        equity = self._equity[-1] if self._equity else self._config.initial_balance
        change = 100.0 * (equity / self._config.initial_balance - 1.0)
        moment = np.datetime64(self._ts_event // 10**9, "s").item()
        text = (
            f"step {max(0, len(self._equity) - 1):,}, {moment:%Y-%m-%d %H:%M:%S} UTC: "
            f"equity {equity:,.2f} ({change:+.4f} %)"
        )
        return f"{text}, ended: {self._ended}" if self._ended else text


def _amount(value: float, position: object) -> str:
    """An amount at an axis, in the width there is."""
    del position
    return f"{value:,.10g}" if abs(value) < 1e9 else f"{value:.4g}"
