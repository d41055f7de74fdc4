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
            len(
                re.split(
                    r"[;.]\s",
                    re.search(r"\*Mutations?\.\* (.*)", text, re.DOTALL)[1].split("\n\n")[0] + " ",
                )
            )
            - 1
        )
        assert listed == sum(mutation.invariant == number for mutation in MUTATIONS)
        assert all(
            f"test_{number.lower()}_" in mutation.test
            or mutation.invariant != number
            or mutation.test.rpartition("::")[2] in PAGE
            for mutation in MUTATIONS
        )
