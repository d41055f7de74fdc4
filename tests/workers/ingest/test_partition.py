"""The states of a partition: every pair is defined, and the table leads where it should."""

from __future__ import annotations

import itertools

import pytest

from workers.ingest.kafka.partition import (
    IGNORED,
    STARTED,
    TRANSITIONS,
    Action,
    Event,
    PartitionTable,
    State,
    transition,
)

PAIRS = list(itertools.product(State, Event))
PAUSED = {State.RESOLVING, State.WAITING, State.BLOCKED}


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_pair_is_defined_once(state, event):
    """A pair is a transition or is ignored, never both and never neither."""
    assert ((state, event) in TRANSITIONS) != ((state, event) in IGNORED)
    if (state, event) in IGNORED:
        assert transition(state, event) == (state, Action.NOTHING)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_what_is_paused_is_let_go_and_what_runs_is_paused(state, event):
    """librdkafka's pause follows the state: no partition stays paused in a state that reads."""
    after, action = transition(state, event)
    if state in PAUSED and after is State.READING:
        assert action in {Action.RESUME, Action.MOVE}
    if state not in PAUSED and after in PAUSED:
        assert action in {Action.ADD, Action.HOLD, Action.PAUSE}
    if after is State.UNASSIGNED and state is not State.UNASSIGNED:
        assert action is Action.REMOVE
    if state is State.UNASSIGNED:
        assert after is State.UNASSIGNED or event is Event.ASSIGNED


def test_every_state_is_reached_and_left():
    """From `unassigned` every state can be reached, and from every state `reading`."""

    def reached(start):
        states, new = {start}, {start}
        while new:
            new = {transition(s, e)[0] for s in new for e in Event} - states
            states |= new
        return states

    assert reached(State.UNASSIGNED) == set(State)
    assert all(State.READING in reached(state) for state in State)


def test_a_table_counts_its_states():
    """`has` and `within` follow every event; a partition that is new to it begins unassigned."""
    table = PartitionTable([("quotes", 0), ("quotes", 1)])
    first = table["quotes", 0]
    assert table.apply(first, Event.ASSIGNED) is Action.ADD
    assert table.has(State.RESOLVING)
    assert table.within(State.RESOLVING, State.READING) == [first]
    assert table.apply(first, Event.START_KNOWN) is Action.MOVE
    assert not table.has(State.RESOLVING)
    assert table.within(*STARTED) == [first]
    late = table["quotes", 2]
    assert table.apply(late, Event.MESSAGE) is Action.NOTHING
    assert table.within(State.UNASSIGNED) == [table["quotes", 1], late]
    assert table.states() == {
        "quotes/0": "reading",
        "quotes/1": "unassigned",
        "quotes/2": "unassigned",
    }
