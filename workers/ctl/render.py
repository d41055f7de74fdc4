"""Format values as text for people: tables, sizes, durations, records. Independent of meshes.

Colours are the terminal's own green and red with bold and reverse video, which stay readable on
a light background; yellow and grey do not.
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
_IDENTIFIERS = {"pid", "start_time"}
_NUMBER = re.compile(r"-?[\d.]*(e[+-]?\d+)?")
MAX_TABLE_WIDTH = 96  # of a table within other values, in columns
MAX_ELEMENTS = 12  # longer arrays are shown by their shape


def styled(text: str, style: str | None, *, colours: bool | None = None) -> str:
    """Return `text` with the escape sequence of a style.

    Args:
        text: The text.
        style: Parameters of an SGR sequence; None or empty: no style.
        colours: Whether to use styles; None: if standard output is a terminal that shows them.
    """
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
    """Return lines of aligned columns, the titles first.

    Args:
        titles: Title of each column.
        rows: Cells; styles in them do not count as width.
        right: Titles of the right-aligned columns.
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
    """Return how many columns `text` takes, without its escape sequences."""
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
    """Return a number of bytes in binary units: 70402048 is 67.1M."""
    for unit in ("", "K", "M", "G"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "" or count >= 100 else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units: 3725 seconds are 1h02m; `-` for None or NaN."""
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
    """Return `, score VALUE` to append to a line; empty before the first evaluation."""
    return "" if value is None or math.isnan(value) else f", score {value:.4g}"


def since(seconds: float) -> str:
    """Return the time that has passed since a moment in wall-clock seconds."""
    return duration(max(0.0, time.time_ns() / 1e9 - seconds))


def moment(seconds: float) -> str:
    """Return wall-clock seconds as local time of day, with the date unless it is today."""
    local = time.localtime(seconds)
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def instant(ns: int) -> str:
    """Return nanoseconds since the epoch as ISO 8601 in UTC with microseconds; empty for 0."""
    if ns == 0:
        return ""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9))
    return f"{whole}.{ns % 10**9 // 1000:06d}Z"


def as_json(value: object, *, indent: int | None = 1) -> str:
    """Return JSON; NaN and infinity, which JSON does not have, become null."""
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
    """Return a record by field names; a plain number becomes the field `value`."""
    return value if isinstance(value, Mapping) else {"value": value}


def record_line(record: Any, fields: Sequence[str] = ()) -> str:
    """Return a record as `name=value` pairs, without absent values (NaN, empty, time 0)."""
    if not isinstance(record, Mapping):
        return field_text("value", record)
    pairs = ((name, field_text(name, record[name])) for name in fields or record)
    return " ".join(f"{name}={text}" for name, text in pairs if text)


def columns(rows: Sequence[Mapping[str, Any]], wide: int | None = None) -> list[str]:
    """Return rows with the same names as a table, times last, without columns that are empty.

    Args:
        rows: The rows.
        wide: Columns at which lines are cut; None: not at all.
    """
    texts = [{name: field_text(name, value) for name, value in row.items()} for row in rows]
    names = [name for name in (texts[0] if texts else {}) if any(row[name] for row in texts)]
    # a field that only repeats the key of its row is left out
    repeated = [n for n in names if n != "key" and all(r.get("key") == r[n] for r in texts)]
    names = [name for name in names if name not in repeated]
    times = [name for name in names if any(_INSTANT.fullmatch(row[name]) for row in texts)]
    order = [name for name in names if name not in times] + times
    right = [name for name in order if all(_NUMBER.fullmatch(row[name]) for row in texts)]
    lines = table(order, [[row[name] for name in order] for row in texts], right=right)
    return lines if wide is None else [cut(line, wide) for line in lines]


def cut(line: str, wide: int) -> str:
    """Return a line cut to `wide` columns; a cut line loses its styles."""
    if width(line) <= wide:
        return line
    return re.sub("\x1b\\[[0-9;]*m", "", line)[: wide - 1] + "…"


def field_text(name: str, value: Any) -> str:
    """Return a field as text: times in ISO 8601, long arrays by shape, absent values empty."""
    if isinstance(value, list):
        shape = _shape(value)
        if math.prod(shape) > MAX_ELEMENTS:
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
    """Return the lengths of nested lists."""
    return (len(value), *_shape(value[0])) if isinstance(value, list) and value else ()


def is_instant(number: int) -> bool:
    """Whether a whole number can only be nanoseconds since the epoch (2001 to 2065)."""
    return 10**18 <= number <= 3 * 10**18


def _element(value: Any) -> str:
    """Return an element of an array as text; `-` for an absent one."""
    return str(value).lower() if isinstance(value, bool) else field_text("", value) or "-"


def pairs(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return lines of `name  value` with aligned values; nested mappings are indented."""
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
            lines.append(f"{indent}{name:<{wide}}  {value_text(value, name)}".rstrip())
    return lines


def _short_rows(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return mappings with the same plain values as a table; None if it is too wide."""
    names = list(rows[0])
    plain = all(list(row) == names and not any(map(_nested, row.values())) for row in rows)
    if not plain or len(rows) == 1:
        return None
    cells = [[value_text(value, name) for name, value in row.items()] for row in rows]
    numbers = [n for n in names if all(isinstance(row[n], int | float) for row in rows)]
    lines = table(names, cells, right=numbers)
    return lines if max(map(width, lines)) <= MAX_TABLE_WIDTH else None


def _nested(value: Any) -> bool:
    return isinstance(value, list | Mapping)


def value_text(value: Any, name: str = "") -> str:
    """Return a value as text; identifiers of processes have no thousands separators."""
    if isinstance(value, list):
        return ", ".join(value_text(each) for each in value)
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.6g}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        if name in _IDENTIFIERS:
            return str(value)
        return instant(value) if is_instant(value) else f"{value:,}"
    return "" if isinstance(value, Mapping) else str(value)
