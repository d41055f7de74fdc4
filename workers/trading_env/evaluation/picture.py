"""Runs as one picture: equity, drawdown, and the measures as a table (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workers.trading_env.evaluation.run import Run

SHOWN = ("total_return", "sharpe", "max_drawdown", "turnover", "cost", "hit_rate")
TITLES = ("return", "Sharpe", "max drawdown", "turnover/year", "cost", "hit rate")
LINEAR_PERCENT = 1.0
PERCENT = {"total_return", "max_drawdown", "cost", "hit_rate"}


def picture(runs: Mapping[str, Run], document: Mapping[str, Any], path: Path) -> None:
    """Draw runs as one picture.

    Args:
        runs: The runs by the policy's name.
        document: What `report` returned for them.
        path: The .png to write.
    """
    from matplotlib.backends.backend_agg import (  # noqa: PLC0415 - only those who draw pay for it
        FigureCanvasAgg,
    )
    from matplotlib.figure import Figure  # noqa: PLC0415 - only those who draw pay for it
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415 - only those who draw pay for it

    figure = Figure(figsize=(10, 10), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 1, height_ratios=(3, 1.6, 1.2 + 0.45 * len(runs)), hspace=0.08)
    top = figure.add_subplot(grid[0])
    middle = figure.add_subplot(grid[1], sharex=top)
    for name, run in runs.items():
        growth = 100 * (run.equity / run.equity[0] - 1)
        steps = np.arange(len(growth))
        (line,) = top.plot(steps, growth.mean(1), label=name, linewidth=1.4)
        if growth.shape[1] > 1:
            low, high = np.percentile(growth, [10, 90], axis=1)
            top.fill_between(steps, low, high, alpha=0.12, color=line.get_color())
        peak = np.maximum.accumulate(run.equity, axis=0)
        middle.plot(steps, -(1 - run.equity / peak).mean(1) * 100, linewidth=1.0)
    for axes in (top, middle):  # chance loses so much that on a plain scale the others are one line
        axes.set_yscale("symlog", linthresh=LINEAR_PERCENT)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.25, linewidth=0.6)
    top.set_ylabel("return, %")
    top.tick_params(labelbottom=False)
    top.set_title(
        f"mean over episodes; band: 10 % to 90 % of them; linear within {LINEAR_PERCENT:g} %, "
        "logarithmic beyond",
        fontsize=9,
    )
    top.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    middle.set_ylabel("drawdown, %")
    # States may lie minutes apart at noon and hours after the close: steps are what is even.
    mean_s = np.mean([run.step_s for run in runs.values()])
    middle.set_xlabel(f"steps since the start of the episode ({mean_s:.0f} s apart on the average)")
    _table(figure.add_subplot(grid[2]), document)
    figure.savefig(path, bbox_inches="tight")


def _table(axes: Any, document: Mapping[str, Any]) -> None:
    axes.axis("off")
    rows = [
        [_cell(entry["measures"][name], percent=name in PERCENT) for name in SHOWN]
        for entry in document["policies"].values()
    ]
    table = axes.table(
        rows,
        rowLabels=list(document["policies"]),
        colLabels=TITLES,
        loc="lower center",
        cellLoc="right",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.scale(1.0, 2.1)


def _cell(measure: Mapping[str, float | None], *, percent: bool) -> str:
    value, low, high = measure["value"], measure["low"], measure["high"]
    if value is None:
        return "-"

    def text(number: float) -> str:
        return f"{100 * number:.2f} %" if percent else f"{number:.4g}"

    if low is None or high is None:
        return text(value)
    return f"{text(value)}\n{text(low)} to {text(high)}".replace(" % to", " to")
