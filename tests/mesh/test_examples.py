"""The examples in the docstrings of the mesh run as they are printed."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

MODULES = ("cell", "directory", "heartbeats", "ring", "spinlock", "table", "tensors")
EXAMPLES = [
    test
    for name in MODULES
    for test in doctest.DocTestFinder().find(importlib.import_module(f"mesh.{name}"))
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_the_example_of_a_docstring_runs(example, mesh):
    """What a docstring shows is what happens, in a mesh of its own."""
    example.globs |= {"mesh": mesh, "directory": mesh.path, "np": np}
    report = []
    doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not report, "".join(report)


def test_what_a_user_meets_first_has_an_example():
    """Each opener of a mesh and each kind of segment shows how it is used."""
    shown = {test.name.partition(".")[2].partition(".")[2] for test in EXAMPLES}
    openers = {"cell", "ring", "table", "tensors", "lock", "heartbeats", "attach", "unlink"}
    segments = {"Mesh", "Cell", "Ring", "RingReader", "Table", "Tensors", "SpinLock", "Heartbeats"}
    assert {f"Mesh.{opener}" for opener in openers} | segments <= shown
