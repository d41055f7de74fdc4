"""Every line that protects an invariant, removed: the test named after the invariant fails."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, copied, passes, survives

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def copy():
    """A copy of the project to break."""
    with copied() as directory:
        yield directory


@pytest.mark.parametrize("test", sorted({mutation.test for mutation in MUTATIONS}))
def test_named_test_passes_untouched(copy, test):
    """Without a mutation the test passes, so that its failure says something."""
    assert passes(copy, test)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.invariant} {m.what}")
def test_mutation_is_caught(copy, mutation):
    """With the protecting line removed it fails."""
    assert not survives(copy, mutation)
