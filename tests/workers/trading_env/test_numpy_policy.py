"""Published policies: acted with by numpy as torch would, refused when they must not act."""

from __future__ import annotations

import numpy as np
import pytest

from workers.contract.dtypes import FEATURES, SLOTS, WINDOW
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.numpy_policy import act, checked, layers_of, like

RNG = np.random.default_rng(0)


def policy():
    """A random policy with two hidden layers."""
    arrays = like([32, 16])
    for name, array in arrays.items():
        if name[0] in "wb":
            array[...] = 0.1 * RNG.standard_normal(array.shape)
    return arrays


def test_actions_are_those_of_torch():
    """The same network in torch gives the same actions."""
    torch = pytest.importorskip("torch")
    arrays = policy()
    windows = RNG.standard_normal((5, WINDOW, FEATURES)).astype(np.float32)
    values = torch.from_numpy(windows).flatten(1)
    for layer in range(3):
        weight = torch.from_numpy(arrays[f"w{layer}"])
        values = values @ weight.T + torch.from_numpy(arrays[f"b{layer}"])
        values = torch.relu(values) if layer < 2 else torch.tanh(values)
    actions = act(layers_of(arrays), windows)
    assert actions.shape == (5, SLOTS)
    assert actions == pytest.approx(values.numpy(), abs=1e-5)


def test_what_must_not_act_is_refused():
    """NaN anywhere, a missing layer, another kind, other outputs: InvalidPolicy names it."""
    good = policy()
    checked(good)
    bad = {**good, "b1": np.full_like(good["b1"], np.nan)}
    with pytest.raises(InvalidPolicy, match="'b1' is not finite"):
        checked(bad)
    with pytest.raises(InvalidPolicy, match="'w0'"):
        layers_of({name: a for name, a in good.items() if name != "w0"})
    with pytest.raises(InvalidPolicy, match="kind 9"):
        layers_of({**good, "kind": np.array(9)})
    with pytest.raises(InvalidPolicy, match="16 outputs"):
        layers_of({name: a for name, a in good.items() if name not in {"w2", "b2"}})
