"""From values to text for people: tables, sizes, durations, records. Knows nothing of meshes.

Colours are the terminal's own green and red with bold and reverse video, which stay readable on
a light ground; yellow and grey do not.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GOOD, WARN, BAD, STRONG = "32", "7", "1;31", "1"
STATE_STYLES = {
    "healthy": GOOD,
    "running": GOOD,
    "degraded": WARN,
    "starting": WARN,
    "backoff": WARN,
    "stopping": WARN,
    "down": BAD,
    "dead": BAD,
    "quarantined": BAD,
}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_NUMBER = re.compile(r"-?[\d.]*(e[+-]?\d+)?")
LINE = 96  # columns of a table within other values
FEW = 12  # elements of an array that are written out


def styled(text: str, style: str | None, *, colours: bool | None = None) -> str:
    """Return `text` in a style, if the output is a terminal."""
    use = _on_a_colour_terminal() if colours is None else colours
    return f"\x1b[{style}m{text}\x1b[0m" if style and use else text


def _on_a_colour_terminal() -> bool:
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def state(text: str) -> str:
    """Return the name of a state in its colour."""
    return styled(text, STATE_STYLES.get(text.partition(":")[0]))


def table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> list[str]:
    """Return lines of aligned columns; `right` names those that are flush right.

    Styles in cells are not counted as width.
    """
    body = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(title), *(width(row[i]) for row in body)]) for i, title in enumerate(titles)]
    lines = []
    for row in [list(titles), *body]:
        cells = []
        for title, cell, wide in zip(titles, row, widths, strict=True):
            gap = " " * (wide - width(cell))
            cells.append(gap + cell if title in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    lines[0] = styled(lines[0], STRONG)
    return lines


def width(text: str) -> int:
    """Columns that `text` takes, escape sequences not counted."""
    count = 0
    inside = False
    for character in text:
        if character == "\x1b":
            inside = True
        elif inside:
            inside = character != "m"
        else:
            count += 1
    return count


def size(count: float) -> str:
    """Bytes in binary units: 70402048 is 67.1M."""
    for unit in ("", "K", "M", "G"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "" or count >= 100 else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


def duration(seconds: float | None) -> str:
    """A time span in two units at most: 3725 is 1h02m."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


def score(value: float | None) -> str:
    """The score of an evaluation, behind what it belongs to; empty before the first."""
    return "" if value is None or math.isnan(value) else f", score {value:.4g}"


def since(seconds: float) -> str:
    """The time since a moment, given in wall-clock seconds."""
    return duration(max(0.0, time.time_ns() / 1e9 - seconds))


def moment(seconds: float) -> str:
    """Wall-clock seconds as local time of day, with the date when it is not today."""
    local = time.localtime(seconds)
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def instant(ns: int) -> str:
    """Nanoseconds since the epoch as ISO 8601 in UTC, to the microsecond; 0 is empty."""
    if ns == 0:
        return ""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9))
    return f"{whole}.{ns % 10**9 // 1000:06d}Z"


def as_json(value: object, *, indent: int | None = 1) -> str:
    """JSON for programs: NaN and infinity, which JSON has not, are null."""
    separators = (",", ": " if indent else ":")
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, separators=separators)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def named(value: Any) -> Mapping[str, Any]:
    """Return a record by field names; what has no fields (a plain number) is called `value`."""
    return value if isinstance(value, Mapping) else {"value": value}


def record_line(record: Any, fields: Sequence[str] = ()) -> str:
    """One record as `name=value` pairs; what is absent (NaN, empty, no time) is left out."""
    if not isinstance(record, Mapping):
        return field_text("value", record)
    pairs = ((name, field_text(name, record[name])) for name in fields or record)
    return " ".join(f"{name}={text}" for name, text in pairs if text)


def columns(rows: Sequence[Mapping[str, Any]], wide: int | None = None) -> list[str]:
    """Rows of the same names as a table: what is empty in all of them is left out, times come last.

    Lines are cut at `wide` columns, where given.
    """
    texts = [{name: field_text(name, value) for name, value in row.items()} for row in rows]
    names = [name for name in (texts[0] if texts else {}) if any(row[name] for row in texts)]
    # a key that is also a field of its record is shown once
    doubles = [n for n in names if n != "key" and all(r.get("key") == r[n] for r in texts)]
    names = [name for name in names if name not in doubles]
    late = [name for name in names if any(_INSTANT.fullmatch(row[name]) for row in texts)]
    order = [name for name in names if name not in late] + late
    right = [name for name in order if all(_NUMBER.fullmatch(row[name]) for row in texts)]
    lines = table(order, [[row[name] for name in order] for row in texts], right=right)
    return lines if wide is None else [cut(line, wide) for line in lines]


def cut(line: str, wide: int) -> str:
    """Return a line of at most so many columns; one that is longer loses its styles and its end."""
    if width(line) <= wide:
        return line
    return re.sub("\x1b\\[[0-9;]*m", "", line)[: wide - 1] + "…"


def field_text(name: str, value: Any) -> str:
    """One field for people: times are written out, long arrays are told by their shape."""
    if isinstance(value, list):
        shape = _shape(value)
        if math.prod(shape) > FEW:
            return f"<{'x'.join(map(str, shape))}>"
        return "[" + ",".join(_element(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{" + record_line(value) + "}"
    if isinstance(value, bool) or value in {None, ""}:
        return "yes" if value is True else ""
    if isinstance(value, int) and (name.startswith("ts_") or is_instant(value)):
        return instant(value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text else text


def _shape(value: Any) -> tuple[int, ...]:
    """Lengths of nested lists."""
    return (len(value), *_shape(value[0])) if isinstance(value, list) and value else ()


def is_instant(number: int) -> bool:
    """Whether a whole number can only be nanoseconds since the epoch (2001 to 2065)."""
    return 10**18 <= number <= 3 * 10**18


def _element(value: Any) -> str:
    """One element of an array, which has no name to be left out with."""
    return str(value).lower() if isinstance(value, bool) else field_text("", value) or "-"


def pairs(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of `name  value`, names aligned, tables within tables indented."""
    wide = max((len(name) for name in values), default=0)
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{name}")
            lines += pairs(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{name}")
            if (rows := _short_rows(value)) is not None:
                lines += [f"{indent}  {row}" for row in rows]
                continue
            for each in value:
                first, *rest = pairs(each, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            lines.append(f"{indent}{name:<{wide}}  {value_text(value)}".rstrip())
    return lines


def _short_rows(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Mappings of the same plain values as a table; None where it would not fit on a line."""
    names = list(rows[0])
    plain = all(list(row) == names and not any(map(_nested, row.values())) for row in rows)
    if not plain or len(rows) == 1:
        return None
    cells = [[value_text(value) for value in row.values()] for row in rows]
    numbers = [n for n in names if all(isinstance(row[n], int | float) for row in rows)]
    lines = table(names, cells, right=numbers)
    return lines if max(map(width, lines)) <= LINE else None


def _nested(value: Any) -> bool:
    return isinstance(value, list | Mapping)


def value_text(value: Any) -> str:
    """One value of a cell for people."""
    if isinstance(value, list):
        return ", ".join(value_text(each) for each in value)
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.6g}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return instant(value) if is_instant(value) else f"{value:,}"
    return "" if isinstance(value, Mapping) else str(value)
