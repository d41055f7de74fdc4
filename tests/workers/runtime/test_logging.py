"""Log lines: one context, one form, limited; files: bounded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.logging import LoggingConfig
from workers.runtime.logging import LimitedStream, LineLimit
from workers.supervision.log_rotation import LogFiles

ROOT = Path(__file__).parents[3]
PROGRAM = """
import logging, warnings
from config.logging import LoggingConfig
from workers.runtime.logging import configure_logging
log = configure_logging(LoggingConfig(), worker="w", pid=7, generation=3, incident=2)
log.info("ours", answer=42)
logging.getLogger("a.library").warning("theirs %s", "too")
warnings.warn("and warnings")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("crashed")
import structlog
structlog.get_logger().info("anybody's")
"""


def test_every_line_has_the_context():
    """Our lines, those of libraries, warnings and errors: JSON with worker, pid, generation."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines][:2] == ["ours", "theirs too"]
    assert "and warnings" in lines[2]["event"]
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert lines[4]["event"] == "anybody's"
    for line in lines:
        assert (line["worker"], line["pid"], line["generation"], line["incident"]) == ("w", 7, 3, 2)


def test_left_out_lines_are_counted_and_told():
    """A burst passes, the rest is left out; the next line that passes says how many."""
    out = io.StringIO()
    limit = LineLimit(0.3)  # a burst of three, then nothing for seconds
    stream = LimitedStream(out, limit)
    for number in range(10):
        stream.write(f"line {number}\n")
    assert out.getvalue() == "line 0\nline 1\nline 2\nline 3\n"
    limit._tokens = 3.0
    stream.write("left out, too\nseen\n")
    assert out.getvalue().endswith("... 7 lines left out: more than may be logged\nseen\n")


@given(st.lists(st.text(alphabet="ab\n", max_size=6), max_size=20))
def test_within_the_limit_nothing_is_changed(pieces):
    """However it is cut into pieces, what is written is what arrives."""
    out = io.StringIO()
    stream = LimitedStream(out, LineLimit(1e6))
    for piece in pieces:
        assert stream.write(piece) == len(piece)
    assert out.getvalue() == "".join(pieces)


def test_a_stream_that_fails_harms_nobody():
    """A closed stream, as of a worker that closed its descriptors: the lines are lost, no more."""
    out = io.StringIO()
    out.close()
    stream = LimitedStream(out, LineLimit(10.0))
    assert stream.write("lost\n") == 5
    stream.flush()


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_files_stay_within_their_limits(tmp_path, keep):
    """A file over its limit is kept as NAME.1 and begins again; the oldest is dropped."""
    files = LogFiles(tmp_path, LoggingConfig(max_bytes=4096, keep=keep))
    with files.path("w").open("ab") as log:
        for turn in range(6):
            log.write(b"%d" % turn * 5000)
            log.flush()
            assert files.rotate(float(turn * 100)) == []
            assert files.path("w").stat().st_size == 0
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["w.log", *(f"w.log.{n}" for n in range(1, keep + 1))]
    assert all(path.stat().st_size <= 4096 for path in tmp_path.iterdir())
    if keep:
        assert set((tmp_path / "w.log.1").read_text()) == {"5"}


def test_a_flood_is_reported(tmp_path):
    """Far over the limit at one check, or over it again soon: the worker's name and the size."""
    limits = LoggingConfig(max_bytes=4096, keep=1)
    files = LogFiles(tmp_path, limits)
    files.path("w").write_bytes(b"x" * 20_000)
    assert files.rotate(0.0) == [("w", 20_000)]
    files.path("w").write_bytes(b"x" * 5000)
    assert files.rotate(1.0) == [("w", 5000)]
    assert (tmp_path / "w.log.1").stat().st_size == 4096


def test_structlog_is_loaded_without_rich():
    """No process pays for rich, and who wants it later gets it."""
    code = """
import sys
from config.logging import LoggingConfig
from workers.runtime.logging import configure_logging
configure_logging(LoggingConfig(), worker="w")
assert not any(name.partition(".")[0] == "rich" for name in sys.modules)
import rich.console
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
