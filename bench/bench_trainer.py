"""The trainer beside stable-baselines3, SBX and a CleanRL-style loop, in one run.

    bench_trainer.py [updates] [kernels] [products] [networks] [compiled] [state] [action] [publish]
                     [tracking] [kill]

Without arguments everything but `learning` (see bench_learning.py). One thread. SBX is measured
where it can be imported (`pip install sbx-rl`), else a line says that it is not.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)
warnings.filterwarnings("ignore")

import gymnasium
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.logger import Logger
from torch.nn import functional

from config.trainer import TrainerConfig
from mesh import Mesh, MeshError
from tests.daemons import Daemon, until
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.names import policy_segment
from workers.feeder.policies import Policies
from workers.trading_env.policy.numpy_policy import act, layers_of
from workers.trainer.publish.publisher import Publisher, policy_arrays
from workers.trainer.replay.ring import RingReplay
from workers.trainer.spool import Spool
from workers.trainer.state import learner_state
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.learner import make_learner
from workers.trainer.td3.matmul import Matmul, matmul_for

BATCH, ROUNDS, ROUND_S, STORED = 256, 5, 1.0, 20_000
PAIRS, PAIR_S = 41, 0.2
LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")
SIZES = {
    "1600 inputs, [256,256]": ((16, 100), 10, [256, 256]),
    "Pendulum, [400,300]": ((3,), 1, [400, 300]),
    "Pendulum, [256,256]": ((3,), 1, [256, 256]),
}


def line(bench, value, unit, peer=None, ratio=None):
    """Print one figure."""
    entry = {"bench": f"trainer.{bench}", "value": value, "unit": unit}
    print(json.dumps({**entry, "peer": peer, "ratio": ratio}), flush=True)


class Spaces(gymnasium.Env):
    """Only its spaces matter."""

    def __init__(self, shape, actions):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (actions,), np.float32)


def filled(model):
    """Fill a replay buffer of stable-baselines3 with random transitions."""
    model.set_logger(Logger(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    shape = buffer.observations.shape
    buffer.observations[:] = rng.standard_normal(shape, dtype=np.float32)
    buffer.next_observations[:] = rng.standard_normal(shape, dtype=np.float32)
    buffer.actions[:] = rng.uniform(-1, 1, buffer.actions.shape)
    buffer.rewards[:] = rng.standard_normal(buffer.rewards.shape)
    buffer.full = True
    return model


def sb3_kind(kind, size, **kwargs):
    """A learner with stable-baselines3's interface, as a function of a number of updates."""
    shape, actions, arch = size
    model = filled(
        kind(
            "MlpPolicy",
            Spaces(shape, actions),
            buffer_size=STORED,
            batch_size=BATCH,
            policy_kwargs={"net_arch": arch},
            **kwargs,
        )
    )
    return lambda count: model.train(count, BATCH)


def from_ring(size, ring, **kwargs):
    """Our learner on the experience ring, as the worker runs it."""
    del size
    model, update = make_learner(TrainerConfig(batch=BATCH, device="cpu", **kwargs))
    replay, hyperparameters = RingReplay(ring, reward_scale=100.0), model.hyperparameters()

    def updates(count):
        for _ in range(count):
            update.update(replay.sample(BATCH), hyperparameters)

    return updates


def clean(size):
    """A plain loop in the manner of CleanRL: autograd, Adam, NumPy replay with fancy indexing."""
    shape, actions, arch = size
    inputs = int(np.prod(shape))

    def network(first, last, *end):
        return torch.nn.Sequential(
            torch.nn.Linear(first, arch[0]),
            torch.nn.ReLU(),
            torch.nn.Linear(arch[0], arch[1]),
            torch.nn.ReLU(),
            torch.nn.Linear(arch[1], last),
            *end,
        )

    actor, actor_target = (network(inputs, actions, torch.nn.Tanh()) for _ in range(2))
    critics, targets = ([network(inputs + actions, 1) for _ in range(2)] for _ in range(2))
    q_optimizer = torch.optim.Adam([p for q in critics for p in q.parameters()], 1e-3)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    columns = [rng.standard_normal((STORED, n), dtype=np.float32) for n in (inputs, inputs, 1, 1)]
    columns.append(rng.uniform(-1, 1, (STORED, actions)).astype(np.float32))
    columns[3][:] = 0.0
    made = 0

    def updates(count):
        nonlocal made
        for _ in range(count):
            made += 1
            at = rng.integers(0, STORED, BATCH)
            now, then, reward, done, action = (torch.from_numpy(column[at]) for column in columns)
            with torch.no_grad():
                noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
                wanted = torch.cat([then, (actor_target(then) + noise).clamp(-1, 1)], 1)
                value = torch.min(targets[0](wanted), targets[1](wanted))
                target = reward + (1 - done) * 0.99 * value
            pair = torch.cat([now, action], 1)
            loss = sum(functional.mse_loss(q(pair), target) for q in critics)
            q_optimizer.zero_grad()
            loss.backward()
            q_optimizer.step()
            if made % 2 == 0:
                loss = -critics[0](torch.cat([now, actor(now)], 1)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                networks = zip([actor, *critics], [actor_target, *targets], strict=True)
                for own, other in networks:
                    for p, t in zip(own.parameters(), other.parameters(), strict=True):
                        t.data.copy_(0.005 * p.data + 0.995 * t.data)

    return updates


def products(size):
    """Only the matrix products that an update cannot do without, at float32, by torch."""
    shape, _, (h1, h2) = size
    inputs = int(np.prod(shape))
    # (rows, inner, columns, how often an update); the actor's step is every second one
    layers = [
        (BATCH, inputs, h1, 1 + 0.5),
        (BATCH, h1, h2, 1 + 0.5),  # target actor, actor
        (BATCH, inputs, 2 * h1, 2),
        (BATCH, h1, h2, 4),  # target critics, critics
        (2 * h1, BATCH, inputs, 1),
        (h2, BATCH, h1, 2),
        (BATCH, h2, h1, 2),  # back through them
        (BATCH, inputs, h1, 0.5),
        (BATCH, h1, h2, 0.5),
        (BATCH, h2, h1, 0.5),  # the first critic
        (h1, BATCH, inputs, 0.5),
        (h2, BATCH, h1, 0.5),
        (BATCH, h2, h1, 0.5),  # and the actor
    ]
    factors = [
        (torch.randn(m, k), torch.randn(k, n), torch.empty(m, n), times)
        for m, k, n, times in layers
    ]

    def updates(count):
        for number in range(count):
            for left, right, out, times in factors:
                for _ in range(int(times) + (times % 1 > 0 and number % 2)):
                    torch.mm(left, right, out=out)

    return updates


def bench_updates(mesh):
    """Updates a second, every variant in turn, several rounds."""
    ring = mesh.ring("experience", EXPERIENCE_DTYPE, capacity=STORED, create=True)
    ring.publish(steps(STORED // 64, 64))
    try:
        from sbx import TD3 as SbxTD3  # noqa: N811, PLC0415 - a third one, where it is installed
    except ImportError as error:
        SbxTD3 = None  # noqa: N806 - a class, or none
        line("updates: SBX", None, f"not measured: {error}; pip install sbx-rl")
    for name, size in SIZES.items():
        variants = {
            "ours": lambda size=size: sb3_kind(TD3, size, device="cpu"),
            "ours, medium": lambda size=size: sb3_kind(TD3, size, device="cpu", precision="medium"),
            "SB3": lambda size=size: sb3_kind(StockTD3, size, device="cpu"),
            "CleanRL-style": lambda size=size: clean(size),
            "matrix products alone, by torch": lambda size=size: products(size),
        }
        if SbxTD3 is not None:
            variants["SBX"] = lambda size=size: sb3_kind(SbxTD3, size)
        if size[0] == (16, 100):
            variants["ours, ring"] = lambda size=size: from_ring(size, ring)
            variants["ours, ring, medium"] = lambda size=size: from_ring(
                size, ring, precision="medium"
            )
        found = rates({what: make() for what, make in variants.items()})
        for what, rate in found.items():
            peer = round(found["SB3"], 1)
            line(f"updates: {name}: {what}", round(rate, 1), "1/s", peer, round(rate / peer, 2))
    ring.close()


def rates(variants, least=20):
    """Median rate of each function of a count over interleaved rounds.

    Counted in processor seconds of this process, which on an idle machine are those of the clock:
    others that share the machine then change little.
    """
    counts, found = {}, {what: [] for what in variants}
    for what, updates in variants.items():
        updates(least)
        began = time.process_time()
        updates(least)
        counts[what] = max(least, int(least * ROUND_S / (time.process_time() - began)))
    for _ in range(ROUNDS):
        for what, updates in variants.items():
            began = time.process_time()
            updates(counts[what])
            found[what].append(counts[what] / (time.process_time() - began))
    return {what: median(values) for what, values in found.items()}


def paired(ours, theirs):
    """Median rates of two functions of a count, and the median of their ratios.

    Short rounds in turn, processor seconds: what disturbs one round of a pair disturbs the other.
    """
    counts, found = [], []
    for updates in (ours, theirs):
        updates(20)
        began = time.process_time()
        updates(20)
        counts.append(max(4, int(20 * PAIR_S / (time.process_time() - began))))
    for number in range(PAIRS):
        pair = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.process_time()
            (ours, theirs)[which](counts[which])
            pair[which] = counts[which] / (time.process_time() - began)
        found.append(pair)
    mine, peer = (median(values) for values in zip(*found, strict=True))
    return mine, peer, median(one / other for one, other in found)


def bench_kernels(mesh):
    """The whole update with the kernel of this project and with torch's products, in turn.

    `ONEDNN_MAX_CPU_ISA=AVX2` limits torch's bfloat16 products alone (its float32 products are
    MKL's: `MKL_ENABLE_INSTRUCTIONS=AVX2`) and never the kernel, which asks the processor.
    """
    del mesh
    limits = {n: v for n in LIMITS if (v := os.environ.get(n))}
    capability = torch.backends.cpu.get_cpu_capability()
    line(f"kernels: processor, limits {limits or 'not set'}", None, capability)
    for name, size in SIZES.items():
        for precision in ("highest", "medium"):
            variants = [
                sb3_kind(TD3, size, device="cpu", precision=precision, kernel=kernel)
                for kernel in ("own", "torch")
            ]
            kind = matmul_for(torch.device("cpu"), half=precision == "medium").kind
            mine, peer, ratio = paired(*variants)
            what = f"kernels: {name}: {precision}, own is {kind}"
            line(what, round(mine, 1), "1/s", round(peer, 1), round(ratio, 3))


def bench_products(mesh):
    """The product that an update spends most of its time in, GFLOP/s: kernel beside library."""
    del mesh
    rows, inner, columns = BATCH, 1600, 512
    left, right = torch.randn(rows, inner), torch.randn(columns, inner).t()
    out, flops = torch.empty(rows, columns), 2 * rows * inner * columns
    variants = {}
    for half in (False, True):
        kind = "bfloat16" if half else "float32"
        for matmul in (Matmul(half=half), matmul_for(torch.device("cpu"), half=half)):
            factors = matmul.factor(left), matmul.factor(right)
            place = matmul.matrix(out)

            def multiply(count, matmul=matmul, factors=factors, place=place):
                for _ in range(count):
                    matmul.product(place, *factors)

            variants[f"{kind}, {matmul.kind}"] = multiply
    found = rates(variants)
    for what, rate in found.items():
        peer = found[f"{what.partition(',')[0]}, torch"]
        line(
            f"products: {what}",
            round(rate * flops / 1e9, 1),
            "GFLOP/s",
            round(peer * flops / 1e9, 1),
            round(rate / peer, 2),
        )


NETWORKS = {
    "plain MLP": {},
    "frames": {"policy": "frames"},
    "transformer 32/2/1/64": {"policy": "transformer"},
    "transformer 256/8/4/512": {
        "policy": "transformer",
        "d_model": 256,
        "heads": 8,
        "layers": 4,
        "features": 512,
    },
}


def bench_networks(mesh):
    """Updates a second of every network that is shipped, from the ring."""
    ring = mesh.ring("experience-networks", EXPERIENCE_DTYPE, capacity=8192, create=True)
    ring.publish(steps(128, 64))
    for name, kwargs in NETWORKS.items():
        updates = from_ring(None, ring, **kwargs)
        count = 2 if "256" in name else 40
        updates(2)
        began = time.process_time()
        updates(count)
        line(f"networks: {name}", round(count / (time.process_time() - began), 2), "1/s")
    ring.close()


def bench_compiled(mesh):
    """Networks with features extractors, compiled by torch and as they are, taking turns."""
    ring = mesh.ring("experience-compiled", EXPERIENCE_DTYPE, capacity=8192, create=True)
    ring.publish(steps(128, 64))
    for name, kwargs in NETWORKS.items():
        if kwargs.get("policy", "mlp") == "mlp":
            continue
        compiled = from_ring(None, ring, compile_networks=True, **kwargs)
        began = time.monotonic()
        compiled(2)  # both steps: the actor's is every second one
        line(f"compiled: {name}, first two updates", round(time.monotonic() - began, 1), "s")
        plain = from_ring(None, ring, **kwargs)
        found = rates({"plain": plain, "compiled": compiled}, least=2 if "256" in name else 20)
        ratio = round(found["compiled"] / found["plain"], 2)
        plain = round(found["plain"], 2)
        line(f"compiled: {name}", round(found["compiled"], 2), "1/s", plain, ratio)
    ring.close()


def milliseconds(function, count=30):
    """Median time of a call, ms."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return round(median(times) * 1e3, 2)


def bench_state(mesh):
    """The learner to shared memory and back, beside save and load of stable-baselines3."""
    ring = mesh.ring("experience-state", EXPERIENCE_DTYPE, capacity=8192, create=True)
    ring.publish(steps(128, 64))
    replay = RingReplay(ring)
    model, update = make_learner(TrainerConfig(device="cpu"))
    update.update(replay.sample(BATCH), model.hyperparameters())
    like = learner_state.capture(update, replay)
    segment = mesh.tensors("learner/bench", like=like, create=True)
    stock = StockTD3(
        "MlpPolicy",
        Spaces((16, 100), 10),
        buffer_size=1,
        device="cpu",
        policy_kwargs={"net_arch": [256, 256]},
    )
    stock.set_logger(Logger(None, []))
    path = Path(tempfile.mkdtemp()) / "model.zip"
    saving = milliseconds(lambda: stock.save(path), 5)
    loading = milliseconds(lambda: StockTD3.load(path, device="cpu"), 5)
    shutil.rmtree(path.parent)

    def restore():
        arrays = learner_state.capture(update, replay)
        segment.read(out=arrays)
        learner_state.restore(update, replay, arrays)

    size = round(sum(array.nbytes for array in like.values()) / 2**20, 1)
    line("state size", size, "MiB")
    value = milliseconds(lambda: segment.publish(learner_state.capture(update, replay)))
    line("state write to shared memory", value, "ms", saving, round(value / saving, 3))
    value = milliseconds(restore)
    line("state restore", value, "ms", loading, round(value / loading, 3))
    sampling = milliseconds(lambda: replay.sample(BATCH), 200)
    buffer = filled(
        StockTD3("MlpPolicy", Spaces((16, 100), 10), buffer_size=STORED, device="cpu")
    ).replay_buffer
    peer = milliseconds(lambda: buffer.sample(BATCH), 200)
    line("sample a batch of 256", sampling, "ms", peer, round(sampling / peer, 2))
    each = EXPERIENCE_DTYPE.itemsize
    stored = sum(
        getattr(buffer, part).nbytes
        for part in ("observations", "next_observations", "actions", "rewards", "dones")
    )
    peer = stored // STORED
    line("memory of a transition", each, "B", peer, round(each / peer, 4))
    transitions = replay.sample(BATCH)
    hyperparameters = model.hyperparameters()
    whole = milliseconds(lambda: update.update(transitions, hyperparameters), 60)

    def guard():
        for network in (update.critics, update.critics, update.actor):  # two to one, as it runs
            torch.isfinite(network.gradient.sum() + update.losses[0])

    share = milliseconds(guard, 60) / 2 / whole
    line("detection of lost numbers", round(100 * share, 2), "% of an update", 3.0)
    ring.close()


def bench_action(mesh):
    """One action from a window, without torch, beside predict."""
    del mesh
    model, _ = make_learner(TrainerConfig(device="cpu"))
    layers = layers_of(policy_arrays(model.policy))
    observation = np.random.default_rng(0).standard_normal((1, 16, 100)).astype(np.float32)
    mine = milliseconds(lambda: [act(layers, observation) for _ in range(100)]) * 10
    peer = milliseconds(lambda: [model.predict(observation) for _ in range(100)]) * 10
    line("action from (16, 100)", round(mine, 1), "us", round(peer, 1), round(mine / peer, 3))


def bench_publish(mesh):
    """From the call that publishes to the moment at which another process could act with it."""
    model, _ = make_learner(TrainerConfig(device="cpu"))
    segment = mesh.tensors(policy_segment("bench"), like=policy_arrays(model.policy), create=True)
    publisher = Publisher(segment, model.policy)
    publisher.publish(0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        policies = Policies(Mesh(mesh.path), ["bench"], 60.0)
        seen = 0
        while seen < 201:
            policy = policies.best()
            if policy is not None and policy.version != seen:
                seen = policy.version
                os.write(write, time.monotonic_ns().to_bytes(8, "little"))
        os._exit(0)
    os.read(read, 8)
    latencies, calls = [], []
    for update in range(200):
        began = time.monotonic_ns()
        publisher.publish(update)
        calls.append((time.monotonic_ns() - began) / 1e6)
        latencies.append((int.from_bytes(os.read(read, 8), "little") - began) / 1e6)
    os.waitpid(child, 0)
    line("publish a policy (looked at first)", round(median(calls), 2), "ms")
    line("publish to adopted, p50", round(median(latencies), 2), "ms")
    line("publish to adopted, p99", round(float(np.percentile(latencies, 99)), 2), "ms")
    line("adoption alone, p50", round(median(latencies) - median(calls), 2), "ms", 1.0)


def bench_tracking(mesh):
    """What a logged point costs the training thread."""
    del mesh
    directory = Path(tempfile.mkdtemp())
    spool = Spool(directory, "bench", "run", 1 << 28)
    times = []
    for step in range(5000):
        began = time.perf_counter()
        spool.point(step, {"critic_loss": 0.1, "actor_loss": -0.2, "updates_per_s": 70.0})
        times.append((time.perf_counter() - began) * 1e3)
    spool.close()
    shutil.rmtree(directory)
    p99 = round(float(np.percentile(times, 99)), 3)
    line("a tracked point, p99", p99, "ms", 1.0, p99)


KILLED = """
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
restart = { base_delay_s = 0.001, max_delay_s = 0.001, intensity = 1000 }
"""


def bench_kill(mesh):
    """From kill -9 of a trainer under the daemon to the first update of its successor."""
    del mesh
    directory = Path(tempfile.mkdtemp())
    extra = "[trainer]\nlearning_starts = 2000\nevaluate_every = 0\nstate_every = 1\n"
    one = Daemon(directory, KILLED, extra)
    try:
        one.start()
        pid = one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=8192, create=True)
        ring.publish(steps(128, 64))
        learner = until("state", lambda: one.mesh.attach("learner/td3-0"))
        times = []
        for _ in range(10):
            version = learner.version
            until("working", lambda version=version: learner.version > version + 20)
            os.kill(pid, signal.SIGKILL)
            began = time.perf_counter()
            while one.worker("td3-0")["pid"] == pid:
                time.sleep(0.0005)
            version = learner.version  # the next one is of the successor's first update
            while learner.version <= version:
                time.sleep(0.0005)
            times.append((time.perf_counter() - began) * 1e3)
            pid = one.running("td3-0")
        line("kill -9 to the first new update, p50", round(median(times), 1), "ms", 100.0)
        line("kill -9 to the first new update, worst of 10", round(max(times), 1), "ms")
        memory = pss(pid)
        line("memory of a trainer (PSS)", round(memory["Pss"] / 1024, 1), "MiB")
        line("memory of a trainer, private", round(memory["Private"] / 1024, 1), "MiB")
        ring.close()
    finally:
        one.clean()
        shutil.rmtree(directory)


def pss(pid):
    """Proportional and private memory of a process, KiB."""
    found = {"Pss": 0, "Private": 0}
    for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = row.partition(":")
        if name == "Pss":
            found["Pss"] = int(rest.split()[0])
        elif name in {"Private_Clean", "Private_Dirty"}:
            found["Private"] += int(rest.split()[0])
    return found


BENCHES = {
    "updates": bench_updates,
    "kernels": bench_kernels,
    "products": bench_products,
    "networks": bench_networks,
    "compiled": bench_compiled,
    "state": bench_state,
    "action": bench_action,
    "publish": bench_publish,
    "tracking": bench_tracking,
    "kill": bench_kill,
}


def main():
    """Run the benches that were named, or all."""
    path = Path(tempfile.mkdtemp(prefix="trainer-bench-", dir="/dev/shm"))
    try:
        for name in sys.argv[1:] or BENCHES:
            BENCHES[name](Mesh(path))
    except MeshError as error:
        sys.exit(f"the mesh refused: {error}")
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
