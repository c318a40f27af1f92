"""The Ray engine: the same controller, ingresses and replicas, as actors of a Ray cluster. Only this folder knows ray.

Ray places, reserves, isolates and reports deaths; it carries no call.

cluster     joins a cluster or starts one; its key-value store
driver      raises an instance
lookup      finds instances, and their controllers again
folder      an instance's names, and its folder on each node (without Ray)
hosts       the actors: thin shells around the processes of the local engine
child       the actor of a replica in an environment that need not have Ray
actors      orders to the cluster, one by one; what came of each actor
supervised  the actors that should always be there: ingresses, servers of metrics
engine      what the controller asks (ending: in which order an instance ends)
nodes, options   what Ray says of nodes, and what replicas ask for (pure)
"""
