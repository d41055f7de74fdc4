"""Weights out: never a mix of two policies, never one that must not act, never a worse one."""

from __future__ import annotations

import os
import random
import signal

import gymnasium
import numpy as np
import pytest
import torch

from config.trainer import TrainerConfig
from mesh import Mesh
from tests.daemons import daemon, until
from tests.processes import child
from tests.workers.trainer.experience import steps
from tests.workers.trainer.test_worker import EXTRA, WORKERS, status
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.names import policy_segment
from workers.feeder.policies import Policies
from workers.trading_env.errors import InvalidPolicy
from workers.trainer.publish.publisher import Publisher, policy_arrays
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.learner import make_learner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
PUBLISHED, OVERTAKEN = 2000, 10  # versions, readings that had to begin again


def opened(directory, model):
    """A segment for the policy of `model`, and its publisher."""
    segment = Mesh(directory).tensors(
        policy_segment("p"), like=policy_arrays(model.policy), create=True
    )
    return segment, Publisher(segment, model.policy)


@pytest.mark.crash
def test_who_swaps_amid_thousands_of_versions_sees_whole_ones(mesh_directory):
    """Policy n has 1/n everywhere and n for its score. A process that takes one after the other,
    stopped (SIGSTOP) amid its copying while others are published, never acts with parts of two."""
    model, _ = make_learner(TrainerConfig(hidden=(256, 32), device="cpu"))
    segment, publisher = opened(mesh_directory, model)

    def publish(*, last=False):
        number = segment.version + 1
        with torch.no_grad():
            for parameter in model.actor.parameters():
                parameter.fill_(1.0 / number)
        assert publisher.publish(number, -1.0 if last else float(number)) == number

    def body(tell):
        policies = Policies(Mesh(mesh_directory), ["p"], 3600.0)
        tell()
        seen = swaps = 0
        while True:
            policy = policies.best()
            if policy is None or policy.version == seen:
                continue
            value = np.float32(1.0 / policy.version)
            for weight, bias in policy.act._layers:
                assert (weight == value).all()
                assert (bias == value).all()
            assert policy.version > seen
            seen, swaps = policy.version, swaps + 1
            if policy.score < 0.0:
                break
            assert policy.score == policy.version
        assert policies.refused == 0
        assert swaps > 2

    rng = random.Random(0)
    publish()
    with child(body) as reader:
        reader.started()
        while segment.version < PUBLISHED or segment.statistics().retries < OVERTAKEN:
            assert segment.version < 100 * PUBLISHED, "the reader was never overtaken"
            publish()
            for _ in range(rng.randrange(2000)):  # somewhere amid its copying
                pass
            os.kill(reader.pid, signal.SIGSTOP)
            for _ in range(3):  # as many as there are slots
                publish()
            os.kill(reader.pid, signal.SIGCONT)
            if ended(reader):
                break
        publish(last=True)
        assert reader.wait() == 0
    segment.close()


def ended(process):
    """Whether a child has ended, which it stays to be reaped."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


KINDS = [
    {},
    {"policy": "frames", "frame_width": 4},
    {"policy": "transformer", "d_model": 8, "features": 8},
]


def pendulum():
    """A policy that is not of the mesh's shape."""
    env = gymnasium.make("Pendulum-v1")
    return TD3("MlpPolicy", env, buffer_size=10, device="cpu")


MODELS = pytest.mark.parametrize(
    "model",
    [
        *(
            lambda kind=kind: make_learner(TrainerConfig(hidden=(16, 8), device="cpu", **kind))[0]
            for kind in KINDS
        ),
        pendulum,
    ],
    ids=["mlp", "frames", "transformer", "of other spaces"],
)


@MODELS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_published(mesh_directory, model, value):
    """In any parameter: the last good policy stays, with its version."""
    made = model()
    segment, publisher = opened(mesh_directory, made)
    assert publisher.publish(1, 2.0) == 1
    wanted = segment.read()[1]
    for parameter in made.actor.parameters():
        element = parameter.data.view(-1)[-1:]
        before = element.clone()
        element.fill_(value)
        with pytest.raises(InvalidPolicy, match="is not finite"):
            publisher.publish(2, 3.0)
        element.copy_(before)
    version, arrays = segment.read()
    assert version == 1
    assert all((arrays[name] == wanted[name]).all() for name in arrays)
    assert publisher.publish(3, 4.0) == 2
    segment.close()


@MODELS
def test_what_does_not_act_is_not_published(mesh_directory, model):
    """Every weight is a number, and the action is none: the sum of such weights overflows."""
    made = model()
    segment, publisher = opened(mesh_directory, made)
    publisher.publish(1)
    with torch.no_grad():
        layers = [layer for layer in made.actor.mu if isinstance(layer, torch.nn.Linear)]
        for layer in layers:
            layer.weight.fill_(1.0)
            layer.bias.fill_(3e38)
        layers[-1].weight[:, ::2] = -1.0  # infinity less infinity
    with pytest.raises(InvalidPolicy, match="is no action"):
        publisher.publish(2)
    assert segment.version == 1
    segment.close()


@pytest.mark.crash
def test_gate_of_a_trainer_holds_back_what_is_worse(tmp_path):
    """A learner of another market gets worse on the one it is scored on: what is published never
    has a lower score than what was, and stays fresh meanwhile."""
    gated = EXTRA.replace("evaluate_every = 100", "evaluate_every = 20\ngate = true")
    with daemon(tmp_path, WORKERS, gated) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(300, 4))
        seen = []

        def withheld_often():
            arrays = one.mesh.attach("policy/td3-0").read()[1]
            seen.append(tuple(int(arrays[name]) for name in ("updates", "created_ns")))
            seen[-1] += (float(arrays["score"]),)
            return status(one)["withheld"] >= 20

        until("withheld", withheld_often)
        assert one.stop() == 0
        scores = [score for _, _, score in seen]
        assert scores == sorted(scores)
        times = {}
        for updates, created_ns, _ in seen:
            times.setdefault(updates, set()).add(created_ns)
        assert max(len(of_one) for of_one in times.values()) > 1  # the good one is confirmed
        ring.close()
