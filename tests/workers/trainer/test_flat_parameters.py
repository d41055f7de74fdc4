"""The optimiser's step over a flat vector: torch's Adam, the guard, the target's move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from workers.trainer.td3 import _adam
from workers.trainer.td3.flat_parameters import FlatParameters

CONSTANTS = (1e-2, 0.9, 0.999, 1e-8, 0.0, 0.005)


def parameters(size, seed):
    """One parameter of `size` numbers."""
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=g))]


@pytest.fixture(params=[1, 2], ids=["one thread: ours", "two threads: torch's"])
def threads(request):
    """The number of threads decides whose step is taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("size", [1, 7, 16, 1001])
@pytest.mark.usefixtures("threads")
def test_steps_are_those_of_torch(size, decay):
    """Thirty steps with any size: parameters, moments and target within rounding."""
    own, target = parameters(size, 0), parameters(size, 1)
    other = nn.Parameter(own[0].detach().clone())
    goal = target[0].detach().clone()
    settings = {"betas": (0.8, 0.99), "eps": 1e-5, "weight_decay": decay}
    stock, flat = torch.optim.Adam([other], 1e-2, **settings), FlatParameters(own, target)
    flat.adopt_settings(torch.optim.Adam(own, 1e-2, **settings))
    for number in range(30):
        other.grad = torch.randn(size, generator=torch.Generator().manual_seed(number))
        flat.gradient.copy_(other.grad)
        stock.step()
        tau = 0.3 if number % 2 else 0.0
        assert float(flat.step(torch.zeros(()), 1e-2, tau)) == 0.0
        goal.lerp_(other.detach(), tau)
    state = stock.state[other]
    pairs = [
        (own[0], other),
        (target[0], goal),
        (flat.steps, state["step"]),
        (flat.first, state["exp_avg"]),
        (flat.second, state["exp_avg_sq"]),
    ]
    for found, wanted in pairs:
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.usefixtures("threads")
def test_nan_and_infinity_change_nothing(where, what):
    """Weights, moments and count stay; the target moves on to weights that are finite."""
    flat = FlatParameters(parameters(1000, 0), parameters(1000, 1))
    flat.gradient.fill_(1.0)
    flat.step(torch.zeros(()), 1e-2, 0.1)
    before = {name: part.clone() for name, part in flat.state().items()}
    loss = torch.zeros(())
    (flat.gradient[977:978] if where == "gradient" else loss).fill_(what)
    assert float(flat.step(loss, 1e-2, 0.1)) == 1.0
    before["target"].lerp_(before["values"], 0.1)
    for name, part in flat.state().items():
        assert torch.allclose(part, before[name], rtol=0.0, atol=1e-6 * (name == "target")), name


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.usefixtures("threads")
def test_moments_do_not_stay_below_the_normal_numbers():
    """Gradients end: the first moment does not end at a number that slows each step."""
    flat = FlatParameters(parameters(40, 0), parameters(40, 1))
    flat.gradient.fill_(1e-3)
    flat.step(torch.zeros(()), 1e-3, 0.0)
    flat.gradient.zero_()
    for _ in range(900):  # 0.9 to the power of 900 is below them
        flat.step(torch.zeros(()), 1e-3, 0.0)
    size = flat.first.abs()
    assert float(size.max()) < 1e-36
    assert not ((size > 0.0) & (size < torch.finfo(torch.float32).smallest_normal)).any()


def test_memory_of_any_place_and_size():
    """An odd place and empty arrays; nothing is written beside them."""
    memory = np.ones((5, 40), np.float32)
    arrays = [row[3:26] for row in memory]
    assert _adam.step(*arrays, 0.0, 1.0, *CONSTANTS)
    assert (memory[:, :3] == 1).all()
    assert (memory[:, 26:] == 1).all()
    assert (arrays[0] < 1).all()
    nothing = [row[:0] for row in memory]
    assert _adam.step(*nothing, 0.0, 1.0, *CONSTANTS)


def test_what_does_not_fit_is_refused():
    """Another type, layout or size raises ValueError with the name of the vector."""
    fine = np.zeros((5, 8), np.float32)
    read_only = fine[1].copy()
    read_only.flags.writeable = False
    wrong = {
        "gradient": fine[1].astype(np.float64),
        "first": fine[2, ::2],
        "second": fine[3, :7],
        "target": read_only,
    }
    for number, name in enumerate(["gradient", "first", "second", "target"], 1):
        arrays = list(fine)
        arrays[number] = wrong[name]
        with pytest.raises(ValueError, match=name):
            _adam.step(*arrays, 0.0, 1.0, *CONSTANTS)


def test_parameters_are_views_of_one_vector():
    """Values keep their order; what is written into the vector is in the parameters, and back."""
    own = [nn.Parameter(torch.arange(6.0).view(2, 3)), nn.Parameter(torch.tensor([7.0, 8.0]))]
    target = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.ones(2))]
    flat = FlatParameters(own, target)
    assert flat.values.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert flat.target.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    flat.values[7] = 9.0
    assert own[1].tolist() == [7.0, 9.0]
    own[0].data[1, 2] = -1.0
    assert float(flat.values[5]) == -1.0
    flat.gradient.copy_(torch.arange(8.0))
    assert own[1].grad is not None
    assert own[1].grad.tolist() == [6.0, 7.0]
    assert flat.is_bound()
    own[0].data = own[0].data.clone()
    assert not flat.is_bound()


def test_runs_of_one_shape_are_stacked_without_a_copy():
    """Two weights beside each other, then two biases: one view each."""
    parts = [
        nn.Parameter(torch.full(shape, float(k)))
        for k, shape in enumerate([(2, 3)] * 2 + [(2,)] * 2)
    ]
    flat = FlatParameters(parts, [nn.Parameter(part.detach().clone()) for part in parts])
    weights, biases = flat.stacked(flat.values, [2, 2])
    assert weights.shape == (2, 2, 3)
    assert biases.tolist() == [[2.0, 2.0], [3.0, 3.0]]
    weights[1] = 5.0
    assert (parts[1] == 5.0).all()
    assert weights.data_ptr() == flat.values.data_ptr()
