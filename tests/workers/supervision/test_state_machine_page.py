"""The page about the lifecycle is the table."""

from __future__ import annotations

from pathlib import Path

from workers.supervision.state_machine_page import page

PAGE = Path(__file__).parents[3] / "docs" / "lifecycle.md"


def test_page_is_up_to_date():
    """`make docs` was run after the last change of the table."""
    assert PAGE.read_text() == page()
