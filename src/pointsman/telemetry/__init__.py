"""What is counted and measured, and how it gets out.

    any process: families -> writer (a file in shared memory, one per process)
    one process of the node: collector (all metrics files, merged) -> reports (text, statistics) -> exporter (HTTP)

A number is written to shared memory the moment it changes, so a SIGKILL loses none, and nobody need be asked at a
scrape. Knows nothing of backends, calls or the controller.
"""
