"""User code: how it is looked at, packed for its replicas and found by them.

``packing`` is the way in. What another process does not find by its name (``findable``) travels by value (``byvalue``);
``culprit`` says which part of it cannot travel at all.
"""
