"""Autoscaling without replicas: a trace of calls, a rule, and what became of the calls."""
