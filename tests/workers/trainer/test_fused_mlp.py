"""Networks beside each other: values and gradients of plain arrays, computed in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from workers.trainer.td3.fused_mlp import FusedMlp, Memory
from workers.trainer.td3.matmul import Matmul, matmul_for

EPSILON = float(np.finfo(np.float32).eps)
COUNT, SIZE, ACTIONS = 2, 7, 2
WIDTHS = [20, 8, 6, 3]  # more inputs than are always exact


def of_torch():
    """Products by torch."""
    return Matmul(half=False)


def chosen():
    """Products as they are chosen for this processor."""
    return matmul_for(torch.device("cpu"), half=False)


MATMULS = pytest.mark.parametrize("make", [of_torch, chosen])


def draw(*shape, seed):
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def networks():
    """Weight (K, out, in) and bias (K, out) of each layer."""
    arrays = []
    for number, (width, above) in enumerate(pairwise(WIDTHS)):
        arrays += [
            draw(COUNT, above, width, seed=2 * number),
            draw(COUNT, above, seed=2 * number + 1),
        ]
    return arrays


def fused(matmul, arrays, gradient=(), *, inputs=(WIDTHS[0] - ACTIONS, ACTIONS), actions=ACTIONS):
    """The networks over memory of their own."""
    parameters = [torch.from_numpy(array) for array in arrays]
    memory = Memory(torch.device("cpu"), COUNT * max(WIDTHS))
    return FusedMlp(matmul, memory, "test", parameters, gradient, inputs=inputs, actions=actions)


def layers_of(observations, arrays, k):
    """Layers of network k in float64, the input first, and how large their sums are at most."""
    layers, sizes = [observations.astype(np.float64)], [np.abs(observations).astype(np.float64)]
    for at in range(0, len(arrays), 2):
        weight, bias = (array[k].astype(np.float64) for array in arrays[at : at + 2])
        value = layers[-1] @ weight.T + bias
        layers.append(value if at == len(arrays) - 2 else np.maximum(value, 0.0))
        sizes.append(sizes[-1] @ np.abs(weight).T + np.abs(bias))
    return layers, sizes


def assert_rounded(found, wanted, size, terms):
    """Each number is the wanted one within `terms` roundings of sums of that size."""
    assert (np.abs(found - wanted) <= EPSILON * terms * size).all()


@MATMULS
def test_values_are_those_of_each_network(make):
    """The output of K networks for an input in two parts, for two sizes of batch in turn."""
    arrays, matmul = networks(), make()
    mlp = fused(matmul, arrays)
    terms = sum(WIDTHS) + len(WIDTHS)
    for size in (SIZE, 2 * SIZE, SIZE):
        given = draw(size, WIDTHS[0], seed=size)
        tensor = torch.from_numpy(given)
        parts = [tensor[:, :-ACTIONS].contiguous(), tensor[:, -ACTIONS:].contiguous()]
        values = mlp.forward(*(matmul.matrix(part) for part in parts)).numpy()
        assert values.shape == (size, COUNT * WIDTHS[-1])
        for k, found in enumerate(np.split(values, COUNT, axis=1)):
            layers, sizes = layers_of(given, arrays, k)
            assert_rounded(found, layers[-1], sizes[-1], terms)


@MATMULS
def test_gradients_are_those_of_the_chain_rule(make):
    """Gradients of weights, biases and actions for an output's gradient of plain numbers."""
    arrays, matmul = networks(), make()
    gradient = [torch.zeros(array.shape) for array in arrays]
    mlp = fused(matmul, arrays, gradient)
    given, slope = draw(SIZE, WIDTHS[0], seed=90), draw(SIZE, COUNT * WIDTHS[-1], seed=91)
    tensor = torch.from_numpy(given)
    parts = [
        matmul.matrix(tensor[:, :-ACTIONS].contiguous()),
        matmul.matrix(tensor[:, -ACTIONS:].contiguous()),
    ]
    mlp.forward(*parts)
    mlp.values.copy_(torch.from_numpy(slope))
    mlp.backward(*parts)
    terms = 2 * sum(WIDTHS) + SIZE + 2 * len(WIDTHS)
    to_input, input_size = np.zeros((SIZE, WIDTHS[0])), np.zeros((SIZE, WIDTHS[0]))
    for k, part in enumerate(np.split(slope.astype(np.float64), COUNT, axis=1)):
        layers, sizes = layers_of(given, arrays, k)
        back, size = part, np.abs(part)
        for at in range(len(arrays) - 2, -1, -2):
            below, below_size = layers[at // 2], sizes[at // 2]
            assert_rounded(gradient[at][k].numpy(), back.T @ below, size.T @ below_size, terms)
            assert_rounded(gradient[at + 1][k].numpy(), back.sum(0), size.sum(0), terms)
            weight = arrays[at][k].astype(np.float64)
            back, size = back @ weight, size @ np.abs(weight)
            if at:  # a unit is on or off whatever the rounding, and passes the gradient or not
                near = np.abs(below) <= EPSILON * terms * below_size
                assert not (near & (below > 0)).any()
                back, size = back * (below > 0), size * (below > 0)
        to_input += back
        input_size += size
    found = mlp.action_gradient().numpy()
    assert_rounded(found, to_input[:, -ACTIONS:], input_size[:, -ACTIONS:], terms)


@MATMULS
def test_networks_without_gradients_write_none(make):
    """Without memory for gradients a backward pass reaches the actions and asks no input."""
    matmul = make()
    mlp = fused(matmul, networks(), inputs=[WIDTHS[0]])
    mlp.forward(matmul.matrix(torch.from_numpy(draw(SIZE, WIDTHS[0], seed=5))))
    mlp.values.fill_(1.0)
    mlp.backward()
    assert mlp.action_gradient().shape == (SIZE, ACTIONS)
    assert bool(mlp.action_gradient().any())


def test_parameters_are_read_where_they_lie():
    """A parameter that changes between two calls changes the values."""
    matmul, arrays = of_torch(), networks()
    mlp = fused(matmul, arrays, inputs=[WIDTHS[0]])
    given = torch.from_numpy(draw(SIZE, WIDTHS[0], seed=6))
    before = mlp.forward(given).clone()
    arrays[-1] += 1.0  # the last biases
    assert torch.allclose(mlp.forward(given), before + 1.0)


@MATMULS
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_product_is_that_of_numpy(make, add, relu):
    """A product with bias, ReLU and mask, of plain arrays."""
    matmul = make()
    left, right, bias = draw(5, 30, seed=1), draw(30, 9, seed=2), draw(9, seed=3)
    out, mask = draw(5, 9, seed=4), draw(5, 9, seed=5)
    wanted = left.astype(np.float64) @ right + bias + (out if add else 0.0)
    wanted = np.maximum(wanted, 0.0) if relu else wanted
    wanted = np.where(mask > 0, wanted, 0.0)
    size = np.abs(left).astype(np.float64) @ np.abs(right) + np.abs(bias) + np.abs(out)
    there = torch.from_numpy(out)
    named = [matmul.matrix(torch.from_numpy(array)) for array in (left, right, bias, mask)]
    matmul.product(
        matmul.matrix(there), named[0], named[1], bias=named[2], mask=named[3], add=add, relu=relu
    )
    assert_rounded(there.numpy(), wanted, size, 30 + 3)


@MATMULS
def test_columns_are_summed(make):
    """The sums of the columns of a plain array."""
    matmul, given, out = make(), draw(40, 11, seed=1), torch.zeros(1, 11)
    matmul.column_sum(matmul.matrix(out), matmul.matrix(torch.from_numpy(given)))
    assert_rounded(out.numpy()[0], given.astype(np.float64).sum(0), np.abs(given).sum(0), 40)


def test_the_setting_chooses_what_multiplies():
    """ "torch" is torch on every processor; another word is refused with the known ones."""
    device = torch.device("cpu")
    assert type(matmul_for(device, half=False, kernel="torch")) is Matmul
    assert type(matmul_for(device, half=True, kernel="torch")) is Matmul
    with pytest.raises(ValueError, match="own, torch"):
        matmul_for(device, half=False, kernel="mkl")
