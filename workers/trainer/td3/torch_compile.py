"""Networks compiled by torch, where there is what that needs.

Compiled are the features extractors, which are most of the work of a policy that is no plain MLP.
On CUDA torch's mode "reduce-overhead" captures them as CUDA graphs and falls back by itself where
that is not possible. A plain MLP's backward pass is written out: there is nothing to compile.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from torch._inductor import config as inductor

if TYPE_CHECKING:
    import torch
    from stable_baselines3.td3.policies import TD3Policy

COMPILERS = ("g++", "c++", "clang++")


def not_compilable(device: torch.device) -> str:
    """Return what is missing for compiling on this device; empty: nothing."""
    if not any(shutil.which(name) for name in COMPILERS):
        return f"no C++ compiler ({', '.join(COMPILERS)}) on PATH"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "no triton, which makes the kernels of a GPU"
    return ""


def compile_extractors(policy: TD3Policy) -> str:
    """Let the features extractors be compiled at their first use; give what was done, in words."""
    if why := not_compilable(policy.device):
        return f"not compiled: {why}"
    inductor.compile_threads = 1  # no pool of processes that would outlive a killed trainer
    mode = "reduce-overhead" if policy.device.type == "cuda" else "default"
    for network in (policy.actor, policy.critic, policy.actor_target, policy.critic_target):
        network.features_extractor.compile(mode=mode)
    return "compiled"
