"""A replica: one process that runs one instance of one backend's user code. In the order of a call:

__main__    the process: connections, orders of the controller, shutdown
runtime     admission, cancellation, configuration, drain
ledger      the calls in this replica, from admission until their answers are sent
item        one call
batching    which items form a batch, and when (pure)
thread, tasks   sync user code on its one thread, async user code on the loop
usercontext the contextvars that user code runs with
target      the user's object and its methods
answers, responses, streams, jsonform   encode what user code returned
mistakes, failurelog   what user code raised: whose fault it is, and the log lines
health      answers the controller's health checks
metrics     metrics and spans
"""
