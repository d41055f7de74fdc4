"""The page of the protocol names tests and mutations that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutations import MUTATIONS

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/crash-protocol.md").read_text(encoding="utf-8")


def test_every_invariant_has_a_section_with_tests_and_mutations():
    """I1 to I7: each names its protocol, tests that exist under its number, and its mutations."""
    sections = re.findall(r"^## (I\d) .*?\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert [number for number, _ in sections] == [f"I{n}" for n in range(1, 8)]
    code = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    for number, text in sections:
        assert "*Protocol.*" in text
        named = re.findall(r"`(test_\w+)`", text)
        assert named
        assert all(name.startswith(f"test_{number.lower()}_") for name in named), named
        assert all(f"def {name}(" in code for name in named), named
        listed = (
            re.search(r"\*Mutations?\.\* (.*?)\.\n", text, re.DOTALL)[1]
            .replace("\n", " ")
            .split("; ")
        )
        assert len(listed) == sum(mutation.invariant == number for mutation in MUTATIONS)


def test_every_mutation_names_a_test_of_an_invariant():
    """The tests that must notice are named after invariants and are on the page."""
    for mutation in MUTATIONS:
        name = mutation.test.rpartition("::")[2]
        assert re.match(r"test_i[1-7]_", name)
        assert name in PAGE
