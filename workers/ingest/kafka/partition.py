"""The states of one Kafka partition as one table: (state, event) -> (state, action). Pure.

Assignments by the brokers, answers about offsets, batches and back-pressure all become events;
the reader (`consumer.py`) performs the actions. A pair that is neither in the table nor in
`IGNORED` does not exist: a test walks every pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a partition is doing."""

    UNASSIGNED = "unassigned"  # of another host, or not yet assigned by the brokers
    RESOLVING = "resolving"  # assigned and paused until its first offset is known
    READING = "reading"
    WAITING = "waiting"  # paused for a while: a message's schema is not available
    BLOCKED = "blocked"  # paused: back-pressure, or a batch that cannot be committed yet
    RECOVERING = "recovering"  # the broker does not hold its position: a new one is looked up
    FAILED = "failed"  # the broker answers with an error; librdkafka goes on trying


class Event(StrEnum):
    """What happens to a partition."""

    ASSIGNED = "assigned"
    START_KNOWN = "start_known"  # where it begins was looked up
    DEFERRED = "deferred"  # a batch leaves it at a message whose schema is not available
    DUE = "due"  # the time for which it was deferred is over
    BLOCK = "block"
    UNBLOCK = "unblock"
    OUT_OF_RANGE = "out_of_range"  # the broker does not hold its position
    MOVED = "moved"  # its position was set: recovery, an operator's rewind, a skip
    ERROR = "error"  # the broker answered a fetch with an error
    MESSAGE = "message"  # a message was fetched
    REVOKED = "revoked"


class Action(StrEnum):
    """What the reader does on a transition."""

    NOTHING = "nothing"
    ADD = "add"  # assign it at its known position, paused
    MOVE = "move"  # unassign it, assign it at another offset, resume it
    HOLD = "hold"  # pause it and seek
    PAUSE = "pause"
    RESUME = "resume"
    REMOVE = "remove"  # unassign it


_S, _E, _A = State, Event, Action
_OWNED = tuple(state for state in State if state is not _S.UNASSIGNED)

TRANSITIONS: Mapping[tuple[State, Event], tuple[State, Action]] = {
    **{(state, _E.ASSIGNED): (_S.RESOLVING, _A.ADD) for state in State},
    **{(state, _E.REVOKED): (_S.UNASSIGNED, _A.REMOVE) for state in _OWNED},
    **{(state, _E.MOVED): (_S.READING, _A.MOVE) for state in _OWNED},
    (_S.RESOLVING, _E.START_KNOWN): (_S.READING, _A.MOVE),
    (_S.READING, _E.DEFERRED): (_S.WAITING, _A.HOLD),
    (_S.READING, _E.BLOCK): (_S.BLOCKED, _A.PAUSE),
    (_S.READING, _E.OUT_OF_RANGE): (_S.RECOVERING, _A.NOTHING),
    (_S.READING, _E.ERROR): (_S.FAILED, _A.NOTHING),
    (_S.WAITING, _E.DUE): (_S.READING, _A.RESUME),
    (_S.WAITING, _E.DEFERRED): (_S.WAITING, _A.HOLD),
    (_S.WAITING, _E.OUT_OF_RANGE): (_S.RECOVERING, _A.NOTHING),
    (_S.BLOCKED, _E.UNBLOCK): (_S.READING, _A.RESUME),
    (_S.BLOCKED, _E.DEFERRED): (_S.WAITING, _A.HOLD),
    (_S.BLOCKED, _E.OUT_OF_RANGE): (_S.RECOVERING, _A.NOTHING),
    (_S.RECOVERING, _E.OUT_OF_RANGE): (_S.RECOVERING, _A.NOTHING),
    (_S.RECOVERING, _E.DEFERRED): (_S.WAITING, _A.HOLD),  # its position is looked up there anew
    (_S.FAILED, _E.MESSAGE): (_S.READING, _A.NOTHING),
    (_S.FAILED, _E.DEFERRED): (_S.WAITING, _A.HOLD),
    (_S.FAILED, _E.BLOCK): (_S.BLOCKED, _A.PAUSE),
    (_S.FAILED, _E.OUT_OF_RANGE): (_S.RECOVERING, _A.NOTHING),
}

#: Pairs that may occur and change nothing: events of a partition that another host has taken over,
#: of one that is paused anyway, and repetitions.
_ELSEWHERE = {
    _E.START_KNOWN: tuple(s for s in State if s is not _S.RESOLVING),
    _E.DEFERRED: (_S.UNASSIGNED, _S.RESOLVING),
    _E.DUE: tuple(s for s in State if s is not _S.WAITING),
    _E.BLOCK: tuple(s for s in State if s not in {_S.READING, _S.FAILED}),
    _E.UNBLOCK: tuple(s for s in State if s is not _S.BLOCKED),
    _E.OUT_OF_RANGE: (_S.UNASSIGNED, _S.RESOLVING),
    _E.MOVED: (_S.UNASSIGNED,),
    _E.ERROR: tuple(s for s in State if s is not _S.READING),
    _E.MESSAGE: tuple(s for s in State if s is not _S.FAILED),
    _E.REVOKED: (_S.UNASSIGNED,),
}
IGNORED = frozenset((state, event) for event, states in _ELSEWHERE.items() for state in states)

#: States of a partition of this host whose first offset is known.
STARTED = frozenset(State) - {State.UNASSIGNED, State.RESOLVING}

PartitionKey = tuple[str, int]  # topic, number


def partition_name(topic: str, number: int) -> str:
    """Return the name of a partition in positions and status: "topic/number"."""
    return f"{topic}/{number}"


def transition(state: State, event: Event) -> tuple[State, Action]:
    """Return the next state and what to do; an ignored pair stays and does nothing.

    A pair that is in neither table (a bug) is a KeyError.
    """
    if (state, event) in IGNORED:
        return state, Action.NOTHING
    return TRANSITIONS[state, event]


@dataclass(slots=True, eq=False)
class Partition:
    """One partition and its state."""

    topic: str
    number: int
    state: State = State.UNASSIGNED
    committed: int = 0  # next offset as Kafka has it from this process; 0: unknown
    due_at: float = 0.0  # WAITING: when it is read again, on the reader's clock, s
    missing_offset: int = 0  # RECOVERING: the position that the broker does not hold

    @property
    def key(self) -> PartitionKey:
        """Topic and number."""
        return self.topic, self.number

    @property
    def name(self) -> str:
        """The name in positions and status."""
        return partition_name(self.topic, self.number)


class PartitionTable:
    """All partitions of a reader, by key; `apply` is the only way to change a state."""

    def __init__(self, keys: Iterable[PartitionKey]) -> None:
        """Begin with every partition unassigned."""
        self._partitions = {key: Partition(*key) for key in keys}
        self._counts = dict.fromkeys(State, 0)
        self._counts[State.UNASSIGNED] = len(self._partitions)

    def __getitem__(self, key: PartitionKey) -> Partition:
        """Return a partition; one that was not there at the start is added, unassigned."""
        if key not in self._partitions:
            self._partitions[key] = Partition(*key)
            self._counts[State.UNASSIGNED] += 1
        return self._partitions[key]

    def apply(self, partition: Partition, event: Event) -> Action:
        """Change the state of `partition` as the table says and return what to do."""
        state, action = transition(partition.state, event)
        self._counts[partition.state] -= 1
        self._counts[state] += 1
        partition.state = state
        return action

    def has(self, state: State) -> bool:
        """Whether any partition is in `state`."""
        return self._counts[state] > 0

    def within(self, *states: State) -> list[Partition]:
        """Return the partitions that are in one of `states`, in the order of their keys."""
        if not any(self._counts[state] for state in states):
            return []
        return [partition for partition in self._partitions.values() if partition.state in states]

    def states(self) -> dict[str, str]:
        """Return the state of each partition by its name."""
        return {partition.name: partition.state.value for partition in self._partitions.values()}
