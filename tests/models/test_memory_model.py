"""The memory orders of `mesh/_core/atomics.h` as litmus tests, under C11, x86-TSO and AArch64.

What no test on an x86 machine can find: that a fence is missing. Each protocol is reduced to the
accesses that matter; its forbidden outcome must be allowed by no model, and with one fence or
order less by at least one. The AArch64 code that gcc emits is looked at for the same fences.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.models.axioms import (
    ACQUIRE,
    FULL,
    MODELS,
    RELAXED,
    RELEASE,
    allowed,
    fence,
    load,
    store,
    update,
)

CORE = Path(__file__).parent.parent.parent / "mesh/_core"

#: Outcomes that the literature agrees on: (threads, registers, allowed by c11, tso, aarch64).
CLASSICS = {
    "store buffering": (
        [[store("x", 1), load("a", "y")], [store("y", 1), load("b", "x")]],
        {"a": 0, "b": 0},
        (True, True, True),
    ),
    "store buffering, full fences": (
        [
            [store("x", 1), fence(FULL), load("a", "y")],
            [store("y", 1), fence(FULL), load("b", "x")],
        ],
        {"a": 0, "b": 0},
        (False, False, False),
    ),
    "store buffering, acquire and release": (
        [
            [store("x", 1, RELEASE), load("a", "y", ACQUIRE)],
            [store("y", 1, RELEASE), load("b", "x", ACQUIRE)],
        ],
        {"a": 0, "b": 0},
        (True, True, False),  # ldar does not pass an earlier stlr
    ),
    "message passing": (
        [[store("x", 1), store("y", 1)], [load("a", "y"), load("b", "x")]],
        {"a": 1, "b": 0},
        (True, False, True),
    ),
    "message passing, release and acquire": (
        [[store("x", 1), store("y", 1, RELEASE)], [load("a", "y", ACQUIRE), load("b", "x")]],
        {"a": 1, "b": 0},
        (False, False, False),
    ),
    "message passing, release fence and acquire fence": (
        [
            [store("x", 1), fence(RELEASE), store("y", 1)],
            [load("a", "y"), fence(ACQUIRE), load("b", "x")],
        ],
        {"a": 1, "b": 0},
        (False, False, False),
    ),
    "load buffering": (
        [[load("a", "x"), store("y", 1)], [load("b", "y"), store("x", 1)]],
        {"a": 1, "b": 1},
        (False, False, True),  # RC11 forbids it to have no values out of thin air
    ),
    "coherence of reads": (
        [[store("x", 1)], [load("a", "x"), load("b", "x")]],
        {"a": 1, "b": 0},
        (False, False, False),
    ),
    "independent reads of independent writes": (
        [
            [store("x", 1)],
            [store("y", 1)],
            [load("a", "x", ACQUIRE), load("b", "y", ACQUIRE)],
            [load("c", "y", ACQUIRE), load("d", "x", ACQUIRE)],
        ],
        {"a": 1, "b": 0, "c": 1, "d": 0},
        (True, False, False),
    ),
    "write to read causality": (
        [
            [store("x", 1)],
            [load("a", "x"), store("y", 1, RELEASE)],
            [load("b", "y", ACQUIRE), load("c", "x")],
        ],
        {"a": 1, "b": 1, "c": 0},
        (False, False, False),
    ),
    "write to read causality, relaxed": (
        [
            [store("x", 1)],
            [load("a", "x"), store("y", 1)],
            [load("b", "y", ACQUIRE), load("c", "x")],
        ],
        {"a": 1, "b": 1, "c": 0},
        (True, False, True),
    ),
}


@pytest.mark.parametrize("name", CLASSICS)
def test_checker_agrees_with_the_literature(name):
    """The classic litmus tests come out as published for each model."""
    threads, registers, expected = CLASSICS[name]
    assert tuple(allowed(threads, model, **registers) for model in MODELS) == expected


def slot(mark=RELAXED, opening=RELEASE, closing=RELEASE, first=ACQUIRE, again=ACQUIRE):
    """A slot of two words that is written again while it is read (seqlock.h)."""
    writer = [store("seq", 1, mark), fence(opening) if opening else None, store("x", 1)]
    writer += [store("y", 1), store("seq", 2, closing)]
    reader = [load("q", "seq", first), load("a", "x"), load("b", "y")]
    reader += [fence(again) if again else None, load("r", "seq")]
    return [[e for e in writer if e], [e for e in reader if e]]


TORN = [
    {"q": 0, "r": 0, "a": 1},
    {"q": 0, "r": 0, "b": 1},
    {"q": 2, "r": 2, "a": 0},
    {"q": 2, "r": 2, "b": 0},
]


def published(commit=True, order=ACQUIRE):
    """A slot that was never shown before: seq and payload behind the published version."""
    writer = [store("x", 1), store("seq", 2, RELEASE)]
    writer += [update("published", 1) if commit else store("published", 1)]
    return [writer, [load("v", "published", order), load("q", "seq", ACQUIRE), load("a", "x")]]


STALE = [{"v": 1, "q": 0}, {"v": 1, "q": 2, "a": 0}]


def ring(raise_intent=RELEASE, commit=True, tail=ACQUIRE, again=ACQUIRE):
    """A record that is overwritten while it is read, and the one behind it published (ring.h)."""
    writer = [store("intent", 1), fence(raise_intent) if raise_intent else None, store("x", 1)]
    writer += [update("published", 1) if commit else store("published", 1)]
    reader = [load("t", "published", tail), load("a", "x"), fence(again) if again else None]
    reader += [load("i", "intent")]
    return [[e for e in writer if e], [e for e in reader if e]]


OVERWRITTEN = [{"a": 1, "i": 0}, {"t": 1, "a": 0}]


def journal(commit=True, first=ACQUIRE, again=ACQUIRE, opening=RELEASE):
    """A state entry that is written again while it is read, and comes into force (ring.h)."""
    writer = [store("seq", 1), fence(opening) if opening else None, store("x", 1)]
    writer += [store("seq", 2, RELEASE), update("bit", 1) if commit else store("bit", 1)]
    reader = [load("q", "seq", first), load("a", "x"), fence(again) if again else None]
    reader += [load("k", "bit", ACQUIRE), load("r", "seq")]
    return [[e for e in writer if e], [e for e in reader if e]]


MIXED = [{"q": 0, "r": 0, "a": 1}, {"q": 2, "r": 2, "a": 0}]


def wake(writer_full=True, reader_full=True):
    """Publish, then order for sleepers; announce the sleep, then order at what is published."""
    publish = update("published", 1) if writer_full else store("published", 1, RELEASE)
    reader = [store("waiting", 1), fence(FULL) if reader_full else None]
    reader += [load("p", "published", ACQUIRE)]
    return [[publish, load("w", "waiting")], [e for e in reader if e]]


SLEPT = [{"w": 0, "p": 0}]


def lock(free=True, take=True):
    """What one owner of a lock wrote is seen by the next one (spinlock.h)."""
    freed = update("word", 2) if free else store("word", 2)
    taken = load("w", "word", ACQUIRE if take else RELAXED)
    return [[store("x", 1), freed], [taken, load("a", "x")]]


UNSEEN = [{"w": 2, "a": 0}]


def lease(commit=True, first=ACQUIRE, again=ACQUIRE):
    """The owner entry of an epoch, while the epoch after the next one writes it (lease.h)."""
    taker = [store("pid", 1), store("start", 1)]
    taker += [update("epoch", 1) if commit else store("epoch", 1)]
    reader = [load("e", "epoch", first), load("p", "pid"), load("s", "start")]
    reader += [fence(again) if again else None, load("f", "epoch")]
    return [taker, [e for e in reader if e]]


NOBODY = [{"e": 1, "f": 1, "p": 0}, {"e": 1, "f": 1, "s": 0}]

PROTOCOLS = {
    "slot": (slot, TORN),
    "published": (published, STALE),
    "ring": (ring, OVERWRITTEN),
    "journal": (journal, MIXED),
    "wake": (wake, SLEPT),
    "lock": (lock, UNSEEN),
    "lease": (lease, NOBODY),
}
WEAKER = [
    ("slot", {"opening": None}),
    ("slot", {"closing": RELAXED}),
    ("slot", {"first": RELAXED}),
    ("slot", {"again": None}),
    ("published", {"commit": False, "order": RELAXED}),
    ("published", {"order": RELAXED}),
    ("ring", {"raise_intent": None}),
    ("ring", {"commit": False}),
    ("ring", {"tail": RELAXED}),
    ("ring", {"again": None}),
    ("journal", {"opening": None}),
    ("journal", {"first": RELAXED}),
    ("journal", {"again": None}),
    ("wake", {"writer_full": False}),
    ("wake", {"reader_full": False}),
    ("lock", {"free": False}),
    ("lock", {"take": False}),
    ("lease", {"commit": False}),
    ("lease", {"first": RELAXED}),
]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("model", MODELS)
def test_i1_forbidden_outcome_is_allowed_by_no_model(name, model):
    """Torn, stale, lost and missed: none of them under any of the three models."""
    protocol, forbidden = PROTOCOLS[name]
    assert not [o for o in forbidden if allowed(protocol(), model, **o)]


@pytest.mark.parametrize(("name", "less"), WEAKER)
def test_every_order_is_needed(name, less):
    """With one fence or order less the outcome that must not be is allowed by C11."""
    protocol, forbidden = PROTOCOLS[name]
    assert [o for o in forbidden if allowed(protocol(**less), "c11", **o)]


PROBE = """
#include "ring.h"
#include "seqlock.h"
uint64_t probe_write(const mesh_slots *s, uint64_t lease, const uint64_t *p) {
    return mesh_slots_publish(s, lease, p, 16);
}
int64_t probe_read(const mesh_slots *s, uint64_t *out) {
    uint64_t v;
    mesh_slot *slot = mesh_slots_open(s, &v);
    if (slot == NULL) return 0;
    mesh_copy_out(out, mesh_slot_payload(slot), 16);
    return mesh_slots_valid(slot, v);
}
int probe_ring(const mesh_ring *r, uint64_t *out) {
    uint64_t tail = mesh_ring_published(r);
    mesh_copy_out(out, r->records, 16);
    return mesh_ring_oldest(r) <= tail;
}
int probe_ring_write(const mesh_ring *r, uint64_t epoch, const uint64_t *p) {
    uint64_t tail = mesh_load(&r->control->published);
    mesh_store(&r->control->intent, tail + 1);
    mesh_fence_release();
    mesh_copy_in(r->records, p, 16);
    return mesh_ring_commit(r, epoch, tail + 1, 1, 0);
}
"""


@pytest.fixture(scope="module")
def aarch64_code(tmp_path_factory):
    """Mnemonics of each probe function as the cross compiler emits them."""
    for tool, package in (
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu"),
    ):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {package} libc6-dev-arm64-cross")
    directory = tmp_path_factory.mktemp("aarch64")
    (directory / "probe.c").write_text(PROBE)

    def run(*command):
        return subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=True
        ).stdout

    flags = ["-O2", "-std=c11", "-mno-outline-atomics", f"-I{CORE}"]
    run("aarch64-linux-gnu-gcc", *flags, "-c", "probe.c")
    text = run("aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", "probe.o")
    functions = re.split(r"^[0-9a-f]+ <(\w+)>:$", text, flags=re.MULTILINE)[1:]
    return {
        name: re.findall(r"^\s+[0-9a-f]+:\s+(.*?)\s*$", body, re.MULTILINE)
        for name, body in zip(functions[::2], functions[1::2], strict=True)
    }


def in_order(code, *patterns):
    """Whether instructions that match the patterns follow each other, others in between."""
    rest = iter(code)
    return all(any(re.match(pattern, line) for line in rest) for pattern in patterns)


STORE, LOAD = r"st[rp]\s+x", r"ld[rp]\s+x"
PAIR = (r"lda?xp\s", r"stlxp\s", r"dmb\s+ish$")  # the compare-and-swap of (published, lease)


def test_i1_aarch64_code_has_the_fences(aarch64_code):
    """Odd mark, dmb ish, payload, stlr, then the pair by ldaxp/stlxp with a full fence behind it;
    the reader: ldar twice, payload, dmb ishld, the mark again. The same in the ring."""
    write = aarch64_code["probe_write"]
    assert in_order(write, STORE, r"dmb\s+ish$", STORE, r"stlr\s+x", *PAIR)
    read = aarch64_code["probe_read"]
    assert in_order(read, r"ldap?r\s+x", r"ldap?r\s+x", LOAD, r"dmb\s+ishld", LOAD)
    ring_read = aarch64_code["probe_ring"]
    assert in_order(ring_read, r"ldap?r\s+x", LOAD, r"dmb\s+ishld", LOAD)
    ring_write = aarch64_code["probe_ring_write"]
    assert in_order(ring_write, STORE, r"dmb\s+ish$", STORE, *PAIR)


@pytest.mark.model
def test_core_works_on_aarch64(tmp_path):
    """The thread test of the core, compiled for AArch64 and run by qemu: nothing torn or lost."""
    compiler, emulator = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64-static")
    if shutil.which(compiler) is None or emulator is None:
        pytest.skip("apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static")
    source = Path(__file__).parent.parent / "native/threads.c"
    program = tmp_path / "threads"
    subprocess.run(
        [compiler, "-O2", "-std=c11", "-static", "-pthread", f"-I{CORE}", source, "-o", program],
        check=True,
    )
    ended = subprocess.run(
        [emulator, program, "2000"], capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "0 failures" in ended.stdout
