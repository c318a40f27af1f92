"""The Ray engine: the same controller, ingresses and replicas, as actors of a Ray cluster. Only this folder knows ray.

Ray places, reserves, isolates and reports deaths; it carries no call. ``cluster`` joins or starts one; ``driver``
raises an instance and finds it again; ``hosts`` are the actors, thin shells around the processes of the local engine,
and ``guests`` those for Python environments without Ray;
``engine`` is what the controller asks, with ``actors``, ``ingresses`` and ``ending``; ``nodes`` turns Ray's view into
room (pure); ``locating`` finds the controller again after it has moved; ``folder`` is where the sockets of an instance
lie on each node; ``kv`` is the cluster's key-value store.
"""
