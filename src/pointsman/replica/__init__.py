"""A replica: one process running one copy of one backend's user code.

Read in this order: ``__main__`` (the process), ``runtime`` (admission, the life of an item), ``batcher`` (pure: which
items go together and when), ``executor`` (the one thread of sync code), ``target`` (user code), ``answers`` (values to
bytes).
"""
