"""Stock stable-baselines3 with our callbacks: its policy is in the mesh while it learns."""

import sys

from stable_baselines3 import TD3

import workers.trading_env.env  # noqa: F401 - makes the ids known to gymnasium
from mesh import Mesh
from workers.contract.names import policy_segment
from workers.trainer.callbacks import HeartbeatCallback, SHMWeightSyncCallback
from workers.trainer.publish.publisher import policy_arrays

path, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
mesh = Mesh(path)
small = {"buffer_size": 10_000, "policy_kwargs": {"net_arch": [64, 64]}, "device": "cpu"}
model = TD3("MlpPolicy", "tradingmesh/KnownOptimum-v0", **small)
like = policy_arrays(model.policy)
segment = mesh.tensors(policy_segment(name), like=like, create=True)
heartbeat = HeartbeatCallback(mesh.heartbeats(create=True).claim(name))
model.learn(steps, callback=[SHMWeightSyncCallback(segment, every_updates=50), heartbeat])
