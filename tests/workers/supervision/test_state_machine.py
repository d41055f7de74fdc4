"""The life of a worker: every pair of state and event is decided."""

from __future__ import annotations

import itertools

import pytest

from workers.supervision.state_machine import (
    ALIVE,
    IGNORED,
    TRANSITIONS,
    Action,
    Event,
    State,
    transition,
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_defined_or_ignored_on_purpose(state, event):
    """Each (state, event) is in exactly one of the two tables, and transition() takes it."""
    assert ((state, event) in TRANSITIONS) != ((state, event) in IGNORED)
    after, action = transition(state, event)
    assert isinstance(after, State)
    assert isinstance(action, Action)


def test_every_state_can_be_reached_and_left():
    """No state is a dead end, and from the first one every state is reached."""
    reached = {State.WAITING}
    while more := {after for (s, _), (after, _) in TRANSITIONS.items() if s in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert {s for s, _ in TRANSITIONS} == set(State)


def test_a_process_exists_only_between_spawn_and_exit():
    """Only a start or an adoption enters the living states, only a confirmed death leaves them,
    or a start that came to no process."""
    for (before, event), (after, action) in TRANSITIONS.items():
        if before not in ALIVE and after in ALIVE:
            assert action in {Action.SPAWN, Action.WATCH}
        if event is Event.PUT_OFF:
            assert (before, action) == (State.STARTING, Action.NOTHING)
        elif before in ALIVE and after not in ALIVE:
            assert event is Event.EXITED
            assert action in {Action.HEAL, Action.RELEASE}


def test_planned_and_unplanned_ends_are_kept_apart():
    """A death is healed (and counted) only where nobody had asked for the end."""
    for (before, event), (_, action) in TRANSITIONS.items():
        if event is Event.EXITED:
            planned = before in {State.STOPPING, State.RESTARTING}
            assert action is (Action.RELEASE if planned else Action.HEAL)


def test_who_was_given_up_comes_back_by_reset_alone():
    """No start, restart or timer revives a quarantined worker: a person looks at it first."""
    ways = {
        event
        for (s, event), (after, _) in TRANSITIONS.items()
        if s is State.QUARANTINED and after is State.WAITING
    }
    assert ways == {Event.RESET}
