"""The life of a worker: every pair of state and event is decided."""

from __future__ import annotations

import itertools

import pytest

from workers.lifecycle import ALIVE, IGNORED, TRANSITIONS, Action, Event, State, transition


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
    """Only SPAWN enters the living states; only a confirmed death leaves them for dead ones."""
    for (before, event), (after, action) in TRANSITIONS.items():
        if before not in ALIVE and after in ALIVE:
            assert action is Action.SPAWN
        if before in ALIVE and after not in ALIVE:
            assert event is Event.EXITED
            assert action in {Action.HEAL, Action.RELEASE}
