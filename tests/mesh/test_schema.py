"""Schemas: text that gives the dtype back."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.schema import dtype_of, schema_of
from tests.mesh.dtypes import RECORDS
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE, TICK_DTYPE


@pytest.mark.parametrize("dtype", [TICK_DTYPE, MARKET_DTYPE, EXPERIENCE_DTYPE, np.dtype("<f4")])
def test_dtype_comes_back_from_its_schema(dtype):
    """Names, formats, offsets and size survive the text, aligned and nested ones too."""
    assert dtype_of(schema_of(dtype)) == dtype
    assert dtype_of(schema_of(dtype)).itemsize == dtype.itemsize


def test_dtype_with_objects_is_refused():
    """A dtype that holds Python objects means nothing in another process."""
    with pytest.raises(TypeError, match="cannot be shared"):
        schema_of(np.dtype([("x", "O")]))


#: a segment of its own for every example
NUMBERS = itertools.count()
SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SLOW
@given(dtype=RECORDS, data=st.data())
def test_any_dtype_crosses_the_mesh(mesh, dtype, data):
    """Whatever numpy can describe comes back byte for byte, attached by its head alone."""
    assert dtype_of(schema_of(dtype)) == dtype
    value = np.frombuffer(
        data.draw(st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize)), np.uint8
    ).view(dtype)
    name = f"c{next(NUMBERS)}"
    with_sum = data.draw(st.booleans())
    mesh.cell(name, dtype, create=True, checksum=with_sum).write(value)
    out = np.zeros(1, dtype)
    assert mesh.cell(name, dtype).read(out=out)[0] == 1
    assert out.tobytes() == value.tobytes()
    assert mesh.attach(name).read(out=np.zeros(1, dtype))[0] == 1
    mesh.unlink(name)


FIELDS = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    list[int]: st.lists(st.integers(0, 99), max_size=5),
    dict[str, float]: st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=4),
    tuple[int, str]: st.tuples(st.integers(0, 9), st.text(max_size=5)),
    str | None: st.none() | st.text(max_size=5),
}


@SLOW
@given(data=st.data(), kinds=st.lists(st.sampled_from(list(FIELDS)), min_size=1, max_size=7))
def test_any_struct_crosses_the_mesh(mesh, data, kinds):
    """A Struct of any fields comes back equal; attached by its head alone it is a dict."""
    kind = msgspec.defstruct("Drawn", [(f"field_{i}", kind) for i, kind in enumerate(kinds)])
    value = kind(*(data.draw(FIELDS[field]) for field in kinds))
    name = f"s{next(NUMBERS)}"
    cell = mesh.cell(name, kind, create=True, checksum=data.draw(st.booleans()))
    cell.write(value)
    assert mesh.cell(name, kind).read() == (1, value)
    assert set(mesh.attach(name).read()[1]) == {f"field_{i}" for i in range(len(kinds))}
    mesh.unlink(name)


def test_array_without_a_field_is_refused():
    """numpy gives an array of such a dtype another shape: it is refused with the remedy."""
    with pytest.raises(TypeError, match="name it"):
        schema_of(np.dtype(("<f8", (3,))))
