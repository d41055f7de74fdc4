"""`meshctl tail`: print records as they are published, woken by the ring's futex."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mesh.plain import PlainRing
from workers.ctl import render
from workers.ctl.commands.show import attach
from workers.ctl.failure import CommandFailed, Exit

if TYPE_CHECKING:
    from mesh import Mesh

BATCH = 4096
WAIT_S = 1.0


def tail(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the newest records and then each new one until interrupted.

    Raises:
        CommandFailed: There is no such segment or field, or the segment is not a ring.
    """
    ring = attach(mesh, options.ring)
    if not isinstance(ring, PlainRing):
        raise CommandFailed(
            f"{options.ring} is a {ring.info.kind}, not a ring; see: meshctl show {options.ring}",
            Exit.USAGE,
        )
    fields = _fields(ring, options.fields)
    reader = ring.reader(max(ring.oldest, ring.published - max(0, options.records)))
    end = ring.published if options.no_follow else None
    lost = 0
    while end is None or reader.sequence < end:
        first = reader.sequence
        records = reader.read(max_records=BATCH if end is None else min(BATCH, end - first))
        if reader.lost > lost:
            print(
                f"{reader.lost - lost:,} records were overwritten before they could be shown",
                file=sys.stderr,
            )
            lost = reader.lost
        first = reader.sequence - len(records)
        for index, record in enumerate(records):
            if options.format == "json":
                chosen = {name: record[name] for name in fields} or record
                print(render.as_json({"sequence": first + index, "record": chosen}, indent=None))
            else:
                print(f"{first + index:>8} {render.record_line(record, fields)}")
        sys.stdout.flush()
        if not records:
            reader.wait_published(WAIT_S)
    return Exit.HEALTHY


def _fields(ring: PlainRing, wanted: str | None) -> tuple[str, ...]:
    known = ring.records.names
    if wanted is None:
        return known
    names = tuple(name.strip() for name in wanted.split(","))
    if unknown := [name for name in names if name not in known]:
        raise CommandFailed(
            f"{ring.name} has no field {unknown[0]!r}; its fields are {', '.join(known)}",
            Exit.USAGE,
        )
    return names
