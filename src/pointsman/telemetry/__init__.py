"""Metrics, logs and spans: how each process records them, and how they are exported.

    every process: families -> writer (a file in shared memory, one per process)
    one process per node: collector (all metrics files, merged) -> reports (text, statistics) -> exporter (HTTP)

    each router: tallies (a file of its own) -> counted (all of a node, added up) -> windows (percentiles)

    logs      the format of log lines, and how lines of log files are recognised
    tracing   OpenTelemetry spans

A value is written to shared memory the moment it changes, so a SIGKILL loses none, and a scrape needs no answer of any
process (decision 0020). Must not import backends, calls or the controller.
"""
