"""Matrix products with bias, ReLU and mask, by torch or by a kernel of this project.

On one thread of a processor with AVX-512 the kernel (`_matmul/product.h`) came closer to the
hardware's limit than torch's library. It rounds factors to bfloat16 while it reads them and sums in
float32. Elsewhere torch multiplies: without AVX-512, on a device, on several threads, and where AMX
units make the library's bfloat16 products faster. `trainer.kernel = "torch"` never uses the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.trainer.td3._matmul import _native

KERNELS = ("own", "torch")
Matrix = Any  # a tensor or an array, as `matrix` gave it


class Matmul:
    """Products by torch, on any device."""

    kind = "torch"

    def __init__(self, *, half: bool) -> None:
        """With `half`, factors are rounded to bfloat16 unless a product is `exact`."""
        self.half = half

    def matrix(self, tensor: Tensor) -> Matrix:
        """Return what a product takes: the same memory, wherever the tensor's values change."""
        return tensor

    def factor(self, tensor: Tensor) -> Matrix:
        """Return a matrix whose values stay as they are while it is a factor of products."""
        return tensor.bfloat16() if self.half else tensor

    def product(
        self,
        out: Matrix,
        left: Matrix,
        right: Matrix,
        *,
        bias: Matrix | None = None,
        mask: Matrix | None = None,
        add: bool = False,
        relu: bool = False,
        exact: bool = False,
    ) -> None:
        """Compute out = mask(relu(left @ right + out + bias)), each part where it is asked for.

        Args:
            out: (m, n) float32, written.
            left: (m, k).
            right: (k, n).
            bias: (n,) float32, added.
            mask: (m, n); where it is not above 0, `out` becomes 0.
            add: add the product to what `out` holds.
            relu: take the positive part.
            exact: do not round the factors, whatever the precision.
        """
        if self.half and not exact:
            rounded = left.bfloat16() @ right.bfloat16()
            if add:
                out.add_(rounded)
            else:
                out.copy_(rounded)
            if bias is not None:
                out.add_(bias)
        elif add:
            out.addmm_(left, right)
            if bias is not None:
                out.add_(bias)
        elif bias is not None:
            torch.addmm(bias, left, right, out=out)
        else:
            torch.mm(left, right, out=out)
        if relu:
            out.relu_()
        if mask is not None:
            torch.ops.aten.threshold_backward.grad_input(out, mask, 0.0, grad_input=out)

    def column_sum(self, out: Matrix, matrix: Matrix) -> None:
        """Put the sums of the columns of a matrix (m, n) into `out` (1, n)."""
        torch.sum(matrix, 0, keepdim=True, out=out)


class NativeMatmul(Matmul):
    """Products by the kernel, on one thread of this processor."""

    kind = "avx512"

    def __init__(self, *, half: bool) -> None:
        """As torch's."""
        super().__init__(half=half)
        self._ones = np.ones((1, 1), np.float32)

    def matrix(self, tensor: Tensor) -> Matrix:
        """Return the tensor's memory as an array."""
        return tensor.numpy()

    factor = matrix  # it is rounded as it is read

    def product(
        self,
        out: Matrix,
        left: Matrix,
        right: Matrix,
        *,
        bias: Matrix | None = None,
        mask: Matrix | None = None,
        add: bool = False,
        relu: bool = False,
        exact: bool = False,
    ) -> None:
        """As torch's; sums are float32 also of rounded factors."""
        flags = add * _native.ADD | relu * _native.RELU
        if self.half and not exact:
            flags |= _native.HALF
        _native.product(out, left, right, bias, mask, flags)

    def column_sum(self, out: Matrix, matrix: Matrix) -> None:
        """As torch's."""
        if self._ones.shape[1] != len(matrix):
            self._ones = np.ones((1, len(matrix)), np.float32)
        _native.product(out, self._ones, matrix, None, None, 0)


def on_one_thread(device: torch.device) -> bool:
    """Return whether torch computes on one thread of this processor there."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def matmul_for(device: torch.device, *, half: bool, kernel: str = "own") -> Matmul:
    """Return what multiplies for this device, this processor and the number of threads set.

    Args:
        device: where the factors lie.
        half: whether factors of products that need not be exact are rounded to bfloat16.
        kernel: "own": the kernel of this project where the processor has AVX-512 and it is the
            faster one; "torch": torch's library everywhere.

    Raises:
        ValueError: `kernel` is neither.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r}, expected one of {', '.join(KERNELS)}")
    if kernel == "torch" or not on_one_thread(device):
        return Matmul(half=half)
    floats, pairs = _native.units()
    if half and (not pairs or torch.cpu.get_capabilities().get("amx_bf16")):
        return Matmul(half=half)
    return NativeMatmul(half=half) if floats else Matmul(half=half)
