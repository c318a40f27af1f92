"""A replica: one process running one copy of one backend's user code. In the order of a call:

__main__    the process: connections, health, its end
runtime     admission
ledger      the calls that are here, until their callers have been told
item        one call
batching    which items go together, and when (pure)
thread, tasks   sync user code on its one thread, async user code on the loop
usercontext, target   where user code runs; the user's object and its methods
answers, responses, streams, jsonform   what it returned, as what travels
mistakes, failurelog   what it raised: whose mistake it is, and its log lines
health      whether it still works
metrics     counts and spans
"""
