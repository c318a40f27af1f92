"""The Ray engine: the same controller, ingresses and replicas, as actors of a Ray cluster (decision 0024). Only this
folder imports ray.

Ray reserves resources, starts and isolates processes, and reports their exits; it carries no calls.

cluster     joins or starts a cluster; its key-value store
driver      starts an instance
lookup      finds instances and their controllers
folder      an instance's names in the cluster, and its folder on each node (without Ray)
hosts       the actor classes: thin shells around the processes that the local engine runs
child       the actor of a replica in an environment that need not have Ray
actors      creates and kills actors, on a thread; reports their exits
supervised  the actors that are always restarted: ingresses, exporters of metrics
engine      the controller's interface
ending      the order in which the processes of an instance end
nodes, options   Ray's view of nodes; ``ray_actor_options`` of replicas (pure)
"""
