"""Keeps OpenBLAS, pyarrow's jemalloc and MLflow's telemetry from starting threads at import.

The daemon and its fork servers fork, which is unsafe with a second thread. The variables are set
here because every process of the system imports `config` first. A learner with `trainer.threads`
above 1 sets that number in torch after the fork.
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
