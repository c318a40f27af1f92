"""Rollouts: a new version gets more of the traffic step by step, and goes back if it does harm (RO1-RO12).

evidence, once a second -> judge(rollout, evidence, elapsed_s) -> (rollout, verdict) -> changes -> one commit

options  the plan and the options of its gates, checked and filled in (pure)
gates    what is watched: each gives its evidence against the new version (pure)
judge    what the evidence of a second makes of a rollout (pure)
changes  rollouts in the desired state: started, moved, ended, superseded (pure)
words    rollouts as users see them: views and sentences (pure)
watch    the shell: each reading of the evidence is judged, and committed
metrics  rollouts, and compared answers, as Prometheus sees them
"""
