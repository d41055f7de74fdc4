"""Networks compiled by torch: the same weights, and an honest word where they are not compiled."""

from __future__ import annotations

import pytest
import torch

from tests.workers.trainer.batches import B, largest_difference, learners
from workers.trainer.td3.networks import FrameEncoder
from workers.trainer.td3.torch_compile import not_compilable

pytestmark = pytest.mark.filterwarnings("ignore")
FRAMES = {
    "net_arch": [16],
    "features_extractor_class": FrameEncoder,
    "features_extractor_kwargs": {"width": 4},
}


def compiling(**settings):
    """Return `learners`, of which ours compiles what can be."""
    ours, stock = learners(**settings)
    ours.compile_networks, ours._update = True, None
    return ours, stock


@pytest.mark.stress
@pytest.mark.skipif(bool(not_compilable(torch.device("cpu"))), reason="no C++ compiler")
def test_compiled_update_is_that_of_stable_baselines3():
    """Features extractors compiled: after eight updates the same weights within rounding."""
    ours, stock = compiling(policy_kwargs=FRAMES, learning_rate=1e-3)
    for model in (ours, stock):
        torch.manual_seed(7)
        model.train(8, B)
    assert ours.update_kind.endswith("; compiled")
    assert largest_difference(ours, stock) < 2e-5


def test_without_a_compiler_it_learns_and_says_so(monkeypatch):
    """Nothing on PATH: the update is made all the same, the reason is in its kind."""
    monkeypatch.setenv("PATH", "")
    ours, stock = compiling(policy_kwargs=FRAMES, learning_rate=1e-3)
    for model in (ours, stock):
        torch.manual_seed(7)
        model.train(4, B)
    assert ours.update_kind.endswith("not compiled: no C++ compiler (g++, c++, clang++) on PATH")
    assert largest_difference(ours, stock) < 2e-5


def test_a_plain_mlp_has_nothing_to_compile():
    """Its backward pass is written out."""
    ours, _ = compiling()
    assert ours.update is not None
    assert ours.update_kind.endswith("; nothing to compile")
