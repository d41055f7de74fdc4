"""A trainer that is not ours: attaches, samples experience, learns its own way, publishes.

    python docs/examples/own_trainer.py /dev/shm/tradingmesh mine 200

It imitates the actions that were rewarded (advantage-weighted regression, Peng et al. 2019, with
the mean reward as the baseline). Replace `learn` with whatever you like; the rest is what any
trainer needs. `meshctl status` shows the process by its heartbeat; add its name to
`feeder.trainers` and the feeder acts with its policy as with any other.
"""

import itertools
import sys
import time

import numpy as np
import torch

from mesh import Mesh
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.names import EXPERIENCE, policy_segment
from workers.trading_env.policy.numpy_policy import checked, like
from workers.trainer.replay.ring import NoExperience, RingReplay

HIDDEN = (64, 64)
BATCH, PUBLISH_EVERY = 128, 20


def network():
    """An MLP over the flattened window, as the published arrays have it."""
    sizes = [1600, *HIDDEN, 10]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    parts = [part for layer in layers[:-1] for part in (layer, torch.nn.ReLU())]
    return torch.nn.Sequential(*parts, layers[-1], torch.nn.Tanh()), layers


def learn(policy, optimizer, batch):
    """One step of your own learning."""
    weights = torch.softmax(batch.rewards / (batch.rewards.std() + 1e-6), 0) * BATCH
    errors = (policy(batch.observations.flatten(1)) - batch.actions).square().mean(1, keepdim=True)
    loss = (weights * errors).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def publish(segment, layers, updates):
    """Named arrays of one version; `checked` refuses what must not act."""
    arrays = like(HIDDEN)
    for number, layer in enumerate(layers):
        arrays[f"w{number}"] = layer.weight.detach().numpy()
        arrays[f"b{number}"] = layer.bias.detach().numpy()
    arrays["updates"], arrays["score"] = np.array(updates), np.array(np.nan)
    arrays["created_ns"] = np.array(time.time_ns())
    checked(arrays)
    return segment.publish(arrays)


def main(path, name, updates):
    """Learn for so many updates, then leave."""
    mesh = Mesh(path)
    heartbeat = mesh.heartbeats(create=True).claim(name)
    segment = mesh.tensors(policy_segment(name), like=like(HIDDEN), create=True)
    ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE)  # SegmentMissing: no feeder has run yet
    replay = RingReplay(ring)
    policy, layers = network()
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    heartbeat.ready()
    made = 0
    while made < updates:
        try:
            batch = replay.sample(BATCH)
        except NoExperience:
            heartbeat.waiting()
            ring.reader("latest").wait_published(1.0)
            continue
        learn(policy, optimizer, batch)
        made += 1
        heartbeat.beat(progress=made)
        if made % PUBLISH_EVERY == 0:
            publish(segment, layers, made)
    heartbeat.gone()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
