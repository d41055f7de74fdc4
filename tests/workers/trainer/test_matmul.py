"""The product kernel: numpy's product within rounding, nothing written beside its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.trainer.td3._matmul import _native
from workers.trainer.td3.matmul import Matmul, NativeMatmul, matmul_for

FLOATS, PAIRS = _native.units()
pytestmark = pytest.mark.skipif(not FLOATS, reason="this processor has no AVX-512")
sizes = st.integers(1, 70)


def placed(rng, rows, columns, *, transposed, apart):
    """A random matrix that lies in a larger piece of memory, row by row or column by column."""
    shape = (columns, rows + apart) if transposed else (rows, columns + apart)
    found = rng.standard_normal(shape).astype(np.float32)
    return found[:, :rows].T if transposed else found[:, :columns]


@settings(max_examples=150, deadline=None)
@given(
    sizes,
    st.integers(1, 900),
    sizes,
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_product_is_that_of_numpy(
    rows, inner, columns, left_turned, right_turned, apart, add, biased, relu, masked, half, seed
):
    """Any shape, either layout, any epilogue; a border of the output stays as it was."""
    half = half and PAIRS
    rng = np.random.default_rng(seed)
    left = placed(rng, rows, inner, transposed=left_turned, apart=apart)
    right = placed(rng, inner, columns, transposed=right_turned, apart=apart)
    around = rng.standard_normal((rows + 2, columns + 2)).astype(np.float32)
    before, out = around.copy(), around[1:-1, 1:-1]
    bias = rng.standard_normal(columns).astype(np.float32) if biased else None
    mask = rng.standard_normal((rows, columns)).astype(np.float32) if masked else None
    factors = [
        torch.from_numpy(np.ascontiguousarray(f)).bfloat16().double().numpy()
        if half
        else f.astype(np.float64)
        for f in (left, right)
    ]
    wanted = factors[0] @ factors[1] + (before[1:-1, 1:-1] if add else 0)
    wanted = wanted + (0 if bias is None else bias)
    wanted = np.maximum(wanted, 0) if relu else wanted
    wanted = wanted if mask is None else np.where(mask > 0, wanted, 0)
    flags = add * _native.ADD | relu * _native.RELU | half * _native.HALF
    _native.product(out, left, right, bias, mask, flags)
    # factors of size 1: errors grow with the root of the number of sums
    assert np.abs(out - wanted).max() < 2e-6 * (10 + inner)
    around[1:-1, 1:-1] = before[1:-1, 1:-1]
    assert np.array_equal(around, before)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 150),
    st.integers(1, 900),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_narrow_products_are_those_of_numpy(
    few, many, inner, few_rows, left_turned, right_turned, apart, biased, seed
):
    """Few rows or few columns, either layout; a border of the output stays as it was."""
    rows, columns = (few, many) if few_rows else (many, few)
    rng = np.random.default_rng(seed)
    left = placed(rng, rows, inner, transposed=left_turned, apart=apart)
    right = placed(rng, inner, columns, transposed=right_turned, apart=apart)
    around = rng.standard_normal((rows + 2, columns + 2)).astype(np.float32)
    before, out = around.copy(), around[1:-1, 1:-1]
    bias = rng.standard_normal(columns).astype(np.float32) if biased else None
    wanted = left.astype(np.float64) @ right + (0 if bias is None else bias)
    _native.product(out, left, right, bias, None, 0)
    assert np.abs(out - wanted).max() < 2e-6 * (10 + inner)
    around[1:-1, 1:-1] = before[1:-1, 1:-1]
    assert np.array_equal(around, before)


def test_columns_are_added_up():
    """Sums of columns, by torch and by the kernel, of a part of a matrix too."""
    tensor = torch.randn(300, 77)[:, 5:70]
    wanted = tensor.double().sum(0)
    for matmul in (Matmul(half=False), NativeMatmul(half=False), NativeMatmul(half=True)):
        out = torch.zeros(1, 65)
        matmul.column_sum(matmul.matrix(out), matmul.matrix(tensor))
        assert torch.allclose(out[0].double(), wanted, atol=1e-4)


def test_more_rows_than_a_block_and_more_steps_than_a_panel():
    """Sizes beyond every block of the kernel."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((2100, 1700)).astype(np.float32)
    right = rng.standard_normal((1700, 50)).astype(np.float32)
    for transposed in (False, True):
        given_left = np.asfortranarray(left) if transposed else left
        out = np.zeros((2100, 50), np.float32)
        _native.product(out, given_left, right, None, None, 0)
        assert np.abs(out - left @ right).max() < 1e-3


@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_come_through(what):
    """ReLU and mask hide no NaN; an infinite factor makes an output that is not finite."""
    left, right = np.ones((3, 40), np.float32), np.ones((40, 20), np.float32)
    left[1, 7] = what
    out = np.zeros((3, 20), np.float32)
    _native.product(out, left, right, None, np.ones_like(out), 0)
    assert not np.isfinite(out[1]).any()
    assert np.isfinite(out[[0, 2]]).all()
    narrow = np.zeros((3, 1), np.float32)
    _native.product(narrow, left, right[:, :1], None, None, 0)
    assert np.isfinite(narrow[:, 0]).tolist() == [True, False, True]
    transposed = np.zeros((1, 3), np.float32)
    _native.product(transposed, right[:, :1].T, left.T, None, None, 0)
    _native.product(out[:1], np.ones((1, 3), np.float32), left[:, :20], None, None, 0)
    assert np.isfinite(transposed[0]).tolist() == [True, False, True]
    assert np.flatnonzero(~np.isfinite(out[0])).tolist() == [7]
    left[1, 7] = np.nan
    _native.product(out, left, right, None, None, _native.RELU)
    assert np.isnan(out[1]).all()


def test_what_does_not_fit_is_refused():
    """Shapes, types and layouts that the kernel does not know raise ValueError naming the part."""
    m = np.zeros((4, 4), np.float32)
    read_only = m.copy()
    read_only.flags.writeable = False
    wrong = [
        ("out", (m[:, ::2], m, m[:, :2], None, None)),
        ("fit", (read_only, m, m, None, None)),
        ("left", (m, m.astype(np.float64), m, None, None)),
        ("right", (m, m, np.zeros((4, 8), np.float32)[::2, ::2], None, None)),
        ("fit", (m, m, np.zeros((3, 4), np.float32), None, None)),
        ("bias", (m, m, m, np.zeros(3, np.float32), None)),
        ("mask", (m, m, m, None, np.zeros((4, 3), np.float32))),
        ("left", (m, np.zeros((4, 0), np.float32), np.zeros((0, 4), np.float32), None, None)),
    ]
    for name, arguments in wrong:
        with pytest.raises(ValueError, match=name):
            _native.product(*arguments, 0)
    with pytest.raises(TypeError):
        _native.product(m, m, m)


def test_several_threads_and_devices_take_the_products_of_torch():
    """The kernel is of one thread of this processor."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert isinstance(matmul_for(torch.device("cpu"), half=False), NativeMatmul)
        assert type(matmul_for(torch.device("meta"), half=False)) is Matmul
        torch.set_num_threads(2)
        assert type(matmul_for(torch.device("cpu"), half=False)) is Matmul
    finally:
        torch.set_num_threads(before)
