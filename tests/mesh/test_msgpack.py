"""msgpack: what msgspec writes is read equal, and nothing else is believed."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.msgpack import NOT_MSGPACK, unpack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=40,
)


@given(VALUES)
def test_what_msgspec_writes_is_read_equal(value):
    """Any tree of plain values comes back as it went in."""
    assert unpack(msgspec.msgpack.encode(value)) == value


@pytest.mark.parametrize("size", [15, 16, 31, 32, 255, 256, 65535, 65536])
@pytest.mark.parametrize(
    "make",
    [lambda n: "x" * n, bytes, lambda n: [1] * n, lambda n: {str(i): i for i in range(n)}],
    ids=["text", "bytes", "array", "map"],
)
def test_every_length_is_read(make, size):
    """Both sides of each border where the form of a length changes."""
    assert unpack(msgspec.msgpack.encode(make(size))) == make(size)


@given(st.binary(max_size=60))
def test_garbage_is_refused_as_msgspec_refuses_it(data):
    """What is read from any bytes is what msgspec reads; what it refuses is refused."""
    try:
        value = unpack(data)
    except NOT_MSGPACK:
        # keys that cannot be keys of a dict, extension types: msgspec may know them, we need not
        return
    with contextlib.suppress(msgspec.DecodeError):
        theirs = msgspec.msgpack.decode(data)
        assert repr(theirs) == repr(value)


@given(VALUES, st.data())
def test_cut_short_is_refused(value, data):
    """No beginning of a value is one, and nothing may follow it."""
    packed = msgspec.msgpack.encode(value)
    end = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(NOT_MSGPACK):
        unpack(packed[:end])
    with pytest.raises(ValueError, match="behind the value"):
        unpack(packed + b"\0")


def test_deep_nesting_is_refused():
    """A bomb of arrays in arrays ends in an error, not in a crash."""
    with pytest.raises(NOT_MSGPACK):
        unpack(b"\x91" * 100_000)
