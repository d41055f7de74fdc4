"""A small axiomatic checker of litmus tests: C11 (RC11), x86-TSO and AArch64.

A litmus test is a few straight-line threads of loads, stores and fences. All its candidate
executions are enumerated (which store each load reads, in which order the stores of a location
take effect), and those that the axioms of the model allow are kept.

Sources: Lahav et al. 2017, "Repairing sequential consistency in C/C++11" (RC11); Owens et al.
2009, "A better x86 memory model: x86-TSO"; Pulte et al. 2018, "Simplifying ARM concurrency"
(AArch64, multicopy atomic; dependencies are left out, so this one allows more than the hardware).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

RELAXED, ACQUIRE, RELEASE, FULL = "relaxed", "acquire", "release", "full"
Relation = set[tuple[int, int]]


@dataclass(frozen=True)
class Event:
    """A load ("R"), a store ("W"), a fence ("F") or a read-modify-write ("U", a full fence)."""

    kind: str
    order: str = RELAXED
    place: str = ""
    value: int = 0  # stored
    register: str = ""  # loaded into
    thread: int = -1


def load(register: str, place: str, order: str = RELAXED) -> Event:
    """Load `place` into `register`."""
    return Event("R", order, place, register=register)


def store(place: str, value: int, order: str = RELAXED) -> Event:
    """Store `value` to `place`."""
    return Event("W", order, place, value)


def fence(order: str) -> Event:
    """A fence."""
    return Event("F", order)


def update(place: str, value: int) -> Event:
    """A compare-and-swap that succeeds: a store of `value` with full fences around it."""
    return Event("U", FULL, place, value)


@dataclass
class Execution:
    """One candidate: its events, program order, reads-from and coherence."""

    events: list[Event]
    po: Relation
    rf: Relation
    co: Relation
    values: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Derive from-reads."""
        self.fr = {
            (load, after)
            for write, load in self.rf
            for before, after in self.co
            if before == write and after != load
        }

    def only(self, relation: Relation, keep: Callable[[Event, Event], bool]) -> Relation:
        """The pairs of `relation` whose events satisfy `keep`."""
        return {(a, b) for a, b in relation if keep(self.events[a], self.events[b])}


def closure(relation: Relation) -> Relation:
    """Transitive closure."""
    found = set(relation)
    while True:
        more = {(a, d) for a, b in found for c, d in found if b == c} - found
        if not more:
            return found
        found |= more


def compose(*relations: Relation) -> Relation:
    """One relation after the other."""
    first, *rest = relations
    for second in rest:
        first = {(a, d) for a, b in first for c, d in second if b == c}
    return first


def acyclic(relation: Relation) -> bool:
    """Whether no event comes before itself."""
    return all(a != b for a, b in closure(relation))


def candidates(threads: list[list[Event]]) -> Iterator[Execution]:
    """Every candidate execution; each place holds 0 at first."""
    flat = [
        Event(e.kind, e.order, e.place, e.value, e.register, number)
        for number, thread in enumerate(threads)
        for e in thread
    ]
    places = sorted({e.place for e in flat if e.place})
    events = [Event("W", RELAXED, place, 0) for place in places] + flat
    numbers = range(len(events))
    po = {
        (a, b)
        for a in numbers
        for b in numbers
        if a < b and events[a].thread == events[b].thread != -1
    }
    stores = [n for n in numbers if events[n].kind in "WU"]
    writes = {p: [n for n in stores if events[n].place == p] for p in places}
    loads = [n for n in numbers if events[n].kind == "R"]
    orders = [
        [(first, *order) for order in itertools.permutations(rest)]
        for first, *rest in writes.values()
    ]
    for sources in itertools.product(*(writes[events[n].place] for n in loads)):
        rf = set(zip(sources, loads, strict=True))
        values = {events[n].register: events[w].value for w, n in rf}
        for chosen in itertools.product(*orders):
            co = {pair for order in chosen for pair in itertools.combinations(order, 2)}
            yield Execution(events, po, rf, co, values)


def coherent(x: Execution) -> bool:
    """Each place for itself behaves as if there were one order of its accesses."""
    there = x.only(x.po, lambda a, b: bool(a.place) and a.place == b.place)
    return acyclic(there | x.rf | x.co | x.fr)


def external(x: Execution, relation: Relation) -> Relation:
    """The pairs between different threads (what was there at first counts as one)."""
    return x.only(relation, lambda a, b: a.thread != b.thread)


def around(x: Execution, orders: set[str], before: str, after: str) -> Relation:
    """Events of kinds `before` and `after` with a fence of one of `orders` between them."""
    fences = {n for n, e in enumerate(x.events) if e.kind in "FU" and e.order in orders}
    return {
        (a, b)
        for a, b in x.po
        if x.events[a].kind in before
        and x.events[b].kind in after
        and any((a, f) in x.po and (f, b) in x.po for f in fences)
    }


def tso(x: Execution) -> bool:
    """x86-TSO: only a store may be delayed behind a later load; locked instructions stop that."""
    kept = x.only(x.po, lambda a, b: "F" not in a.kind + b.kind and a.kind + b.kind != "WR")
    kept |= around(x, {FULL}, "W", "R")
    return coherent(x) and acyclic(kept | external(x, x.rf) | x.co | x.fr)


def aarch64(x: Execution) -> bool:
    """AArch64 as gcc maps C11 to it: ldar, stlr, dmb ishld, dmb ish (release fences, too)."""
    observed = external(x, x.rf | x.fr | x.co)
    ordered = around(x, {FULL, RELEASE}, "RWU", "RWU") | around(x, {ACQUIRE}, "R", "RWU")
    accesses = x.only(x.po, lambda a, b: "F" not in a.kind + b.kind)
    ordered |= x.only(accesses, lambda a, _: a.kind + a.order == "R" + ACQUIRE or a.kind == "U")
    ordered |= x.only(accesses, lambda _, b: b.kind + b.order == "W" + RELEASE or b.kind == "U")
    ordered |= x.only(accesses, lambda a, b: (a.kind, a.order, b.order) == ("W", RELEASE, ACQUIRE))
    return coherent(x) and acyclic(observed | ordered)


def rc11(x: Execution) -> bool:
    """C11 as repaired by Lahav et al.: coherence, no value out of thin air, SC fences."""
    events, numbers = x.events, range(len(x.events))
    same = {(n, n) for n in numbers}

    def those(kinds: str, orders: set[str]) -> Relation:
        return {(n, n) for n in numbers if events[n].kind in kinds and events[n].order in orders}

    releasing = those("FWU", {RELEASE, FULL})
    acquiring = those("FRU", {ACQUIRE, FULL})
    to_fence = same | x.only(x.po, lambda a, b: a.kind in "FU" and b.kind in "WU")
    from_fence = same | x.only(x.po, lambda a, b: a.kind == "R" and b.kind in "FU")
    synchronises = compose(releasing, to_fence, x.rf, from_fence, acquiring)
    first = {(a, b) for a in numbers for b in numbers if events[a].thread == -1 != events[b].thread}
    before = closure(x.po | synchronises | first)
    later = closure(x.rf | x.co | x.fr)
    full = those("FU", {FULL})
    # a read-modify-write is a fence and an access: a path may begin and end at it
    reach = before | {(n, n) for n in numbers if events[n].kind == "U"}
    through = before | compose(reach, later, reach)
    return (
        all((b, a) not in before for a, b in later)
        and acyclic(before)
        and acyclic(x.po | x.rf)
        and acyclic(compose(full, through, full))
    )


MODELS = {"c11": rc11, "x86-tso": tso, "aarch64": aarch64}


def outcomes(threads: list[list[Event]], model: str) -> list[dict[str, int]]:
    """What the registers can hold at the end under `model`, each outcome once."""
    found: list[dict[str, int]] = []
    for x in candidates(threads):
        if x.values not in found and MODELS[model](x):
            found.append(x.values)
    return found


def allowed(threads: list[list[Event]], model: str, **registers: int) -> bool:
    """Whether `model` allows an outcome with these registers."""
    return any(registers.items() <= o.items() for o in outcomes(threads, model))
