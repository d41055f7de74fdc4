"""The life of a worker as one table: (state, event) -> (state, action). Pure.

Signals, exits, timers, heartbeat verdicts and requests all become events; the supervisor's loop
performs the actions. What is neither in the table nor in `IGNORED` does not exist: a test walks
every pair. `docs/lifecycle.md` is made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a worker is in its life."""

    WAITING = "waiting"  # to be started once its dependencies are ready
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"  # being stopped on purpose, to start again at once
    STOPPED = "stopped"
    BACKOFF = "backoff"  # dead or not started yet, to be started at a set time
    QUARANTINED = "quarantined"  # dead too often; only a reset starts it again


class Event(StrEnum):
    """What can happen to a worker."""

    START = "start"  # its dependencies are ready, or an operator wants it back
    PUT_OFF = "put_off"  # a start that this host has no means for now
    ADOPTED = "adopted"  # a live process of it was found: an earlier daemon started it
    READY = "ready"  # its heartbeat says so
    EXITED = "exited"  # its death is confirmed
    HUNG = "hung"  # no beat within its deadline, with evidence
    OUTGROWN = "outgrown"  # its memory is over the limit
    STOP = "stop"  # planned: shutdown or an operator
    RESTART = "restart"  # planned: an operator, a changed specification, memory, a dependency
    DEADLINE = "deadline"  # of the start or of the stop
    RETRY_DUE = "retry_due"
    GIVE_UP = "give_up"  # the restart policy's verdict
    RESET = "reset"  # an operator's, out of quarantine


class Action(StrEnum):
    """What the loop does on a transition."""

    NOTHING = "nothing"
    SPAWN = "spawn"
    WATCH = "watch"  # an adopted process: wait for its readiness and its end
    ANNOUNCE = "announce"  # ready: note the time, start what depends on it
    TERMINATE = "terminate"  # SIGTERM, then the stop deadline
    KILL = "kill"  # stack dump, crash report, SIGKILL; the death is an event of its own
    HEAL = "heal"  # break locks and leases, event, ask the restart policy
    RELEASE = "release"  # break locks and leases after a planned stop
    ALARM = "alarm"  # quarantined: the system is degraded


_S, _E, _A = State, Event, Action

TRANSITIONS: Mapping[tuple[State, Event], tuple[State, Action]] = {
    (_S.WAITING, _E.START): (_S.STARTING, _A.SPAWN),
    (_S.WAITING, _E.ADOPTED): (_S.STARTING, _A.WATCH),
    (_S.WAITING, _E.STOP): (_S.STOPPED, _A.NOTHING),
    (_S.WAITING, _E.GIVE_UP): (_S.QUARANTINED, _A.ALARM),
    (_S.STARTING, _E.PUT_OFF): (_S.BACKOFF, _A.NOTHING),
    (_S.STARTING, _E.READY): (_S.RUNNING, _A.ANNOUNCE),
    (_S.STARTING, _E.EXITED): (_S.BACKOFF, _A.HEAL),
    (_S.STARTING, _E.OUTGROWN): (_S.STARTING, _A.KILL),
    (_S.STARTING, _E.DEADLINE): (_S.STARTING, _A.KILL),
    (_S.STARTING, _E.STOP): (_S.STOPPING, _A.TERMINATE),
    (_S.STARTING, _E.RESTART): (_S.RESTARTING, _A.TERMINATE),
    (_S.RUNNING, _E.EXITED): (_S.BACKOFF, _A.HEAL),
    (_S.RUNNING, _E.HUNG): (_S.RUNNING, _A.KILL),
    (_S.RUNNING, _E.OUTGROWN): (_S.RUNNING, _A.KILL),
    (_S.RUNNING, _E.STOP): (_S.STOPPING, _A.TERMINATE),
    (_S.RUNNING, _E.RESTART): (_S.RESTARTING, _A.TERMINATE),
    (_S.STOPPING, _E.EXITED): (_S.STOPPED, _A.RELEASE),
    (_S.STOPPING, _E.DEADLINE): (_S.STOPPING, _A.KILL),
    (_S.STOPPING, _E.START): (_S.RESTARTING, _A.NOTHING),
    (_S.STOPPING, _E.RESTART): (_S.RESTARTING, _A.NOTHING),
    (_S.RESTARTING, _E.EXITED): (_S.WAITING, _A.RELEASE),
    (_S.RESTARTING, _E.DEADLINE): (_S.RESTARTING, _A.KILL),
    (_S.RESTARTING, _E.STOP): (_S.STOPPING, _A.NOTHING),
    (_S.STOPPED, _E.START): (_S.WAITING, _A.NOTHING),
    (_S.STOPPED, _E.RESTART): (_S.WAITING, _A.NOTHING),
    (_S.BACKOFF, _E.RETRY_DUE): (_S.WAITING, _A.NOTHING),
    (_S.BACKOFF, _E.GIVE_UP): (_S.QUARANTINED, _A.ALARM),
    (_S.BACKOFF, _E.START): (_S.WAITING, _A.NOTHING),
    (_S.BACKOFF, _E.RESTART): (_S.WAITING, _A.NOTHING),
    (_S.BACKOFF, _E.STOP): (_S.STOPPED, _A.NOTHING),
    (_S.QUARANTINED, _E.RESET): (_S.WAITING, _A.NOTHING),
    (_S.QUARANTINED, _E.STOP): (_S.STOPPED, _A.NOTHING),
}

#: Pairs that may occur and change nothing: a late or repeated request, a verdict on a process that
#: has ended or is ending anyhow, a timer of a state that was left.
_ELSEWHERE = {
    _E.START: (_S.STARTING, _S.RUNNING, _S.RESTARTING, _S.QUARANTINED),
    _E.ADOPTED: tuple(s for s in State if s is not _S.WAITING),
    _E.PUT_OFF: tuple(s for s in State if s is not _S.STARTING),
    _E.READY: tuple(s for s in State if s is not _S.STARTING),
    _E.EXITED: (_S.WAITING, _S.STOPPED, _S.BACKOFF, _S.QUARANTINED),
    _E.HUNG: tuple(s for s in State if s is not _S.RUNNING),
    _E.OUTGROWN: tuple(s for s in State if s not in {_S.STARTING, _S.RUNNING}),
    _E.STOP: (_S.STOPPING, _S.STOPPED),
    _E.RESTART: (_S.WAITING, _S.RESTARTING, _S.QUARANTINED),
    _E.DEADLINE: (_S.WAITING, _S.RUNNING, _S.STOPPED, _S.BACKOFF, _S.QUARANTINED),
    _E.RETRY_DUE: tuple(s for s in State if s is not _S.BACKOFF),
    _E.GIVE_UP: tuple(s for s in State if s not in {_S.BACKOFF, _S.WAITING}),
    _E.RESET: tuple(s for s in State if s is not _S.QUARANTINED),
}
IGNORED = frozenset((state, event) for event, states in _ELSEWHERE.items() for state in states)

#: States in which a process of the worker may exist.
ALIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.RESTARTING})


def transition(state: State, event: Event) -> tuple[State, Action]:
    """Return the next state and the action; an ignored pair stays and does nothing.

    A pair that is in neither table is a KeyError: a bug of ours.
    """
    if (state, event) in IGNORED:
        return state, Action.NOTHING
    return TRANSITIONS[state, event]
