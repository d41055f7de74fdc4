"""One thread a process, decided before any library is imported that would start more.

The daemon forks, and so do its nurseries: a thread that a library starts at import (OpenBLAS,
pyarrow's jemalloc, MLflow's telemetry) makes that unsafe. Set here, for `config` is what every
process of the system imports first; a learner that wants more threads says so to torch.
"""

from __future__ import annotations

import os

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
