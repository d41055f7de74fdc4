"""The update: autograd's gradients, stable-baselines3's weights, and NaN or infinity."""

from __future__ import annotations

import pytest
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from tests.workers.trainer.batches import (
    FEW,
    OBSERVATIONS,
    A,
    B,
    batch,
    largest_difference,
    learners,
)
from workers.trainer.td3.autograd_update import AutogradUpdate
from workers.trainer.td3.matmul import Matmul, matmul_for
from workers.trainer.td3.mlp_update import MlpUpdate
from workers.trainer.td3.update import UpdateHyperparameters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Encoder(BaseFeaturesExtractor):
    """Something that is no plain MLP, with running statistics."""

    def __init__(self, space):
        super().__init__(space, 8)
        self.layer = nn.Linear(space.shape[1], 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, observations):
        return self.norm(torch.tanh(self.layer(observations)).mean(1))


@pytest.mark.parametrize(
    ("policy_kwargs", "kind"),
    [
        ({"net_arch": [32, 16]}, "mlp"),
        ({"net_arch": [24, 16, 12]}, "mlp"),
        ({"net_arch": [24], "n_critics": 3}, "mlp"),
        ({"net_arch": {"pi": [16, 8], "qf": [24, 12]}}, "mlp"),
        ({"net_arch": [16], "optimizer_kwargs": {"betas": (0.8, 0.99), "eps": 1e-5}}, "mlp"),
        ({"net_arch": [16, 8], "activation_fn": nn.Tanh}, "autograd"),
        ({"net_arch": [16], "features_extractor_class": Encoder}, "autograd"),
        ({"net_arch": [16], "optimizer_class": torch.optim.SGD}, "stable-baselines3"),
        (
            {
                "net_arch": [16],
                "features_extractor_class": Encoder,
                "share_features_extractor": True,
            },
            "stable-baselines3",
        ),
    ],
)
def test_weights_are_those_of_stable_baselines3(policy_kwargs, kind):
    """Twenty updates on the same batches with the same noise: the same weights within rounding."""
    ours, stock = learners(policy_kwargs=policy_kwargs, learning_rate=1e-3)
    for model in (ours, stock):
        torch.manual_seed(7)
        model.train(12, B)
        model.train(8, B)
    assert ours.update is None or ours.update_kind.startswith(kind)
    assert ours.update_kind.startswith(kind)
    assert largest_difference(ours, stock) < 2e-5
    for name in ("train/critic_loss", "train/actor_loss", "train/n_updates"):
        theirs = stock.logger.name_to_value[name]
        assert ours.logger.name_to_value[name] == pytest.approx(theirs, rel=1e-4)


def of_torch(*, half=False):
    """Products by torch."""
    return Matmul(half=half)


def the_faster_ones(*, half=False):
    """Matmul as they are chosen here: the kernel's where there is AVX-512."""
    return matmul_for(torch.device("cpu"), half=half)


MAKERS = pytest.mark.parametrize("made", [of_torch, the_faster_ones])


@MAKERS
@pytest.mark.parametrize("observations", [OBSERVATIONS, FEW], ids=["many", "few"])
@pytest.mark.parametrize("net_arch", [[32, 16], [16], [24, 16, 8], {"pi": [8], "qf": [32, 16]}])
def test_gradients_are_those_of_autograd(net_arch, observations, made):
    """The written-out backward pass agrees with autograd's on both losses, discounts given too."""
    ours, other = learners(observations=observations, policy_kwargs={"net_arch": net_arch})
    written, asked = MlpUpdate(ours.policy, matmul=made()), AutogradUpdate(other.policy)
    for discounts in (None, 0.5):
        transitions, noise = batch(3, discounts, observations), 0.1 * torch.ones(B, A)
        with torch.no_grad():
            losses = [u.critic_gradients(transitions, noise, 0.9) for u in (written, asked)]
            assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
            losses = [u.actor_gradients(transitions) for u in (written, asked)]
            assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
        pairs = zip(ours.policy.parameters(), other.policy.parameters(), strict=True)
        for found, wanted in pairs:
            if wanted.grad is not None:
                assert torch.allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


@MAKERS
def test_weighted_errors_are_those_of_autograd(made):
    """With weights: the same gradient and the same absolute errors either way."""
    ours, other = learners()
    written, asked = MlpUpdate(ours.policy, matmul=made()), AutogradUpdate(other.policy)
    weights = torch.linspace(0.1, 1.0, B)[:, None]
    with torch.no_grad():
        losses = [
            float(u.critic_gradients(batch(3), torch.zeros(B, A), 0.9, weights))
            for u in (written, asked)
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(written.errors, asked.errors, rtol=1e-4, atol=1e-6)
    pairs = zip(ours.critic.parameters(), other.critic.parameters(), strict=True)
    for found, wanted in pairs:
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


@MAKERS
def test_rounded_factors_stay_close(made):
    """With bfloat16 factors a gradient keeps its direction and size within a few percent."""
    ours, other = learners()
    exact = MlpUpdate(ours.policy, matmul=made())
    rounded = MlpUpdate(other.policy, matmul=made(half=True))
    with torch.no_grad():
        for update in (exact, rounded):
            update.critic_gradients(batch(0), torch.zeros(B, A), 0.99)
            update.actor_gradients(batch(0))
    for network in ("critics", "actor"):
        one, two = getattr(exact, network).gradient, getattr(rounded, network).gradient
        assert torch.cosine_similarity(one, two, dim=0) > 0.999
        assert float((one - two).norm()) < 0.05 * float(one.norm())


@pytest.mark.parametrize("where", ["rewards", "observations", "next_observations", "actions"])
@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["mlp", "autograd"])
def test_planted_faults_never_reach_the_weights(where, what, kind):
    """NaN or infinity anywhere in a batch: that update is not made, the next one is."""
    activation = {"mlp": nn.ReLU, "autograd": nn.Tanh}[kind]
    ours, _ = learners(policy_kwargs={"net_arch": [32, 16], "activation_fn": activation})
    update = ours.update
    for number in range(4):
        update.update(batch(number), UpdateHyperparameters())
    before = {name: tensor.clone() for name, tensor in update.state().items()}
    poisoned = batch(9)
    getattr(poisoned, where).view(B, -1)[3, -1] = what
    update.updates = 4
    update.update(poisoned, UpdateHyperparameters(policy_delay=1))
    assert update.is_sound()
    if float(update.skipped) == 0:  # its tanh made a plain number of an infinite observation
        assert (kind, where, abs(what)) == ("autograd", "next_observations", float("inf"))
        return
    for name in ("values", "first", "second", "steps"):
        assert torch.equal(update.critics.state()[name], before[f"critics_{name}"])
    assert update.is_sound()
    weights = update.critics.values.clone()
    update.update(batch(10), UpdateHyperparameters())
    assert not torch.equal(update.critics.values, weights)


def test_parameters_that_were_replaced_are_bound_again():
    """A policy whose parameters were moved by its user is learnt on, moments included."""
    ours, stock = learners()
    for model in (ours, stock):
        torch.manual_seed(1)
        model.train(4, B)
    for parameter in ours.policy.parameters():
        parameter.data = parameter.data.clone()
    for model in (ours, stock):
        torch.manual_seed(2)
        model.train(6, B)
    assert largest_difference(ours, stock) < 2e-5


def test_precision_is_checked():
    """An unknown precision is refused with those that are known."""
    with pytest.raises(ValueError, match="highest, high, medium"):
        learners(precision="low")
