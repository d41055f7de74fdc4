"""The picture of an episode: legible with few steps and with many, in pence and in billions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from config.trading import TradingConfig
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.render import History

figures = pytest.importorskip("matplotlib.figure")
Text = pytest.importorskip("matplotlib.text").Text
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


def history_of(count, equity):
    """An episode of `count` steps that ends with this equity."""
    history = History(TradingConfig())
    for step in range(count + 1):
        info = {"equity": 1e6 + (equity - 1e6) * step / max(1, count), "costs": equity / 100}
        ended = {"ended": "end of data"} if step == count else {}
        history.add(np.full(SLOTS, step % 7 - 3.0), {"ts_event": 10**18 + step, **info, **ended})
    return history


def words_of(figure):
    """The texts that are drawn: titles, labels, and those of the ticks within an axis' limits."""
    yield figure.texts[0]
    for axes in figure.axes:
        yield from (axes.xaxis.label, axes.yaxis.label)
        yield from (title for title in axes.get_children() if isinstance(title, Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True):
                if low <= place <= high:
                    yield from (t for t in (tick.label1, tick.label2) if t.get_visible())


@pytest.mark.parametrize(
    ("count", "equity"), [(0, 1e6), (3, 999_999.07), (4000, 1.23456e11), (20, -5e6), (700, 1e6)]
)
def test_words_lie_within_the_picture_and_beside_each_other(count, equity):
    """No label is cut off at an edge, and none lies on another."""
    figure = figures.Figure(figsize=(8, 6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    history_of(count, equity)._draw(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((edge == 255).all() for edge in edges)
    boxes = [text.get_window_extent() for text in words_of(figure) if text.get_text()]
    assert len(boxes) > 20
    for one, two in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(two.padded(-1))


def test_the_title_says_step_time_equity_and_why_it_ended():
    """What a user asks first, in words."""
    figure = figures.Figure()
    history_of(4000, 990_000.0)._draw(figure)
    title = figure.get_suptitle()
    assert title.startswith("step 4,000, 2001-09-09 01:46:40 UTC: equity 990,000.00 (-1.0000 %)")
    assert title.endswith("ended: end of data")


def test_before_the_first_step_there_is_a_picture():
    """Rendering an environment that was never reset."""
    assert History(TradingConfig()).render("rgb_array").shape == (600, 800, 3)
