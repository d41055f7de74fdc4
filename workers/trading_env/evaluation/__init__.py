"""How good a policy is: episodes, baselines, measures with confidence intervals, a picture.

    from workers.trading_env.evaluation import evaluate, report
    runs = evaluate(provider, {"mine": act, **baselines(config)}, config, episodes=16, seed=1)
    document = report(runs)      # plain JSON; picture(runs, "report.png") draws it

`python -m workers.trading_env.evaluation --help` does the same from a shell.
"""

from workers.trading_env.evaluation.baselines import baselines
from workers.trading_env.evaluation.measures import report
from workers.trading_env.evaluation.run import Policy, Run, evaluate, rollout

__all__ = ["Policy", "Run", "baselines", "evaluate", "report", "rollout"]
