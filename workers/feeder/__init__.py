"""Quotes to market states to experience: the live trading environment."""

from config.declaration import PLAIN, StatusSummary, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("feeder", "trading"),
    fork_server=PLAIN,
    status=StatusSummary(
        "FeederStatus",
        totals={"market_states": "market_steps", "policies_refused": "policies_refused"},
        maxima={"data_age_s": "data_age_s"},
    ),
)
