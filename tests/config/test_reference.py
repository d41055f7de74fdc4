"""docs/configuration.md is what the models say."""

from __future__ import annotations

from pathlib import Path

from config.reference import reference
from config.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_page_is_up_to_date():
    """`make docs` was run after the last change of a model."""
    assert PAGE.read_text() == reference()


def test_page_names_every_section():
    """Each section has its heading."""
    text = reference()
    for name in Settings.model_fields:
        assert f"## {name}" in text or f"`{name}`" in text


def test_every_key_is_described():
    """No key without a meaning: an empty last column is a field without description."""
    empty = [
        line
        for line in reference().splitlines()
        if line.startswith("| `") and line.endswith("|  |")
    ]
    assert not empty
