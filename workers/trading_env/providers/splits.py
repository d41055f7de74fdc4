"""Walk-forward splits: train on the past, test on what came after, with an embargo between.

States that lie close together share the window of an observation and the memory of the indicators
(60 states), so the last states of the training part would know the first of the test part.
An embargo in market time drops those between (Lopez de Prado, Advances in Financial Machine
Learning, 2018, chapter 7). Nothing here or in the environment is normalised with statistics of the
data: what a state says depends on the states before it alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from workers.trading_env.errors import NoMarketData
from workers.trading_env.providers.recorded import RecordedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.arrays import Array


HELD_OUT_SHARE = 0.2  # of a recorded file's states, the last ones
EMBARGO_STATES = 16  # before them: the window of an observation
MIN_STEPS = 16  # of an episode that starts anywhere


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of one fold: every test state is later than every training state by the embargo."""

    train: slice
    test: slice


def walk_forward(
    ts_event: Array, *, folds: int = 4, embargo_s: float = 3600.0, expanding: bool = True
) -> list[Split]:
    """Split states into walk-forward folds.

    The states are cut into folds + 1 parts of equal numbers; fold k tests on part k + 1 and trains
    on the parts before it. Source: Lopez de Prado, Advances in Financial Machine Learning, 2018,
    chapter 7.

    Args:
        ts_event: Event times, int64 (T,), ns, not decreasing.
        folds: Number of folds.
        embargo_s: Market time left out before each test part, seconds.
        expanding: Train on all parts before the test part, not only on the last one.

    Returns:
        The splits, oldest fold first.

    Raises:
        ValueError: `folds` below 1, a negative embargo, or unsorted times.
        NoMarketData: A fold has fewer than two states to train on or to test on.
    """
    if folds < 1 or embargo_s < 0:
        raise ValueError(f"folds must be at least 1 and embargo_s not negative: {folds, embargo_s}")
    if (np.diff(ts_event) < 0).any():
        raise ValueError("event times run backwards; a split by time needs them in order")
    edges = np.linspace(0, len(ts_event), folds + 2).astype(int)
    splits = []
    for fold in range(folds):
        start, stop = int(edges[fold + 1]), int(edges[fold + 2])
        first = 0 if expanding else int(edges[fold])
        split = _split(ts_event, first, start, stop, embargo_s)
        if _size(split.train) < 2 or _size(split.test) < 2:
            raise NoMarketData(
                f"fold {fold}: {_left(split)} of {len(ts_event)} are left with an embargo of "
                f"{embargo_s} s; use fewer folds, a shorter embargo or more data"
            )
        splits.append(split)
    return splits


def last_part(ts_event: Array, *, share: float, embargo_states: int) -> Split:
    """Split off the last states for tests, with an embargo before them.

    Args:
        ts_event: Event times, int64 (T,), ns, not decreasing.
        share: Share of the states to test on, between 0 and 1.
        embargo_states: The embargo as a number of median gaps between two states.

    Returns:
        The split.

    Raises:
        ValueError: A share outside (0, 1).
        NoMarketData: Fewer states are left than an episode needs.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is {share}, expected more than 0 and less than 1")
    count = len(ts_event)
    if count < 2:
        raise NoMarketData(f"{count} states cannot be split; record for longer")
    embargo_s = embargo_states * float(np.median(np.diff(ts_event))) / 1e9
    split = _split(ts_event, 0, count - int(count * share), count, embargo_s)
    if _size(split.train) <= embargo_states or _size(split.test) < 2:
        raise NoMarketData(
            f"{_left(split)} of {count} are left with an embargo of {embargo_s:.0f} s; take more "
            "data, or hold nothing out (train: --evaluate-on another file, or --evaluate-every 0)"
        )
    return split


def held_out_providers(states: Array) -> tuple[RecordedProvider, RecordedProvider]:
    """Hold out the last fifth of the states; episodes start anywhere in both parts.

    Args:
        states: Market states, MARKET_DTYPE (T,).

    Returns:
        (training, test) providers.

    Raises:
        NoMarketData: As `last_part` raises it.
    """
    split = last_part(states["ts_event"], share=HELD_OUT_SHARE, embargo_states=EMBARGO_STATES)
    test_steps = min(MIN_STEPS, _size(split.test) // 2)
    return (
        RecordedProvider(states[split.train], random_start=True, min_steps=MIN_STEPS),
        RecordedProvider(states[split.test], random_start=True, min_steps=test_steps),
    )


def _split(ts_event: Array, first: int, start: int, stop: int, embargo_s: float) -> Split:
    """Train from row `first` to the embargo before row `start`, test from there to `stop`."""
    latest = int(ts_event[start]) - int(embargo_s * 1e9) if start < len(ts_event) else 0
    end = min(start, int(np.searchsorted(ts_event, latest, side="right")))
    return Split(slice(first, max(first, end)), slice(start, stop))


def _size(part: slice) -> int:
    size: int = part.stop - part.start
    return size


def _left(split: Split) -> str:
    return f"{_size(split.train)} training and {_size(split.test)} test states"


def walk_forward_providers(
    states: Array,
    *,
    folds: int = 4,
    embargo_s: float = 3600.0,
    expanding: bool = True,
    random_start: bool = True,
) -> Iterator[tuple[RecordedProvider, RecordedProvider]]:
    """Return the providers of each fold of `walk_forward`.

    Args:
        states: Market states, MARKET_DTYPE (T,).
        folds: As in `walk_forward`.
        embargo_s: As in `walk_forward`, seconds.
        expanding: As in `walk_forward`.
        random_start: Start training episodes anywhere in their part.

    Yields:
        (training, test) providers; test episodes start at the first state of their part.
    """
    for split in walk_forward(
        states["ts_event"], folds=folds, embargo_s=embargo_s, expanding=expanding
    ):
        yield (
            RecordedProvider(states[split.train], random_start=random_start),
            RecordedProvider(states[split.test]),
        )
