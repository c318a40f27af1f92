"""The controller: the single writer of desired state. In the order of a change:

__main__, main_ray   main of the process on the local engine, and in a Ray actor
run            creates the parts of a controller, connects them and accepts connections
connections    the connections of all processes, and what each role may send
commands       carries out each command
controller     the shell: command -> desired -> store -> plan -> engine, orders and tables
state, desired, endpoints   the desired state, and how commands change it (pure)
store          keeps desired state on disk or in the cluster
observed, failures   the replicas that exist and their failures, from reports and events (pure)
reconcile, allocation   the next actions, and the node of each new replica (pure)
orders         what replicas are launched with, and the messages sent to them
views          derived from both states: routing table, status
moves          what moves in the status, and whether more has changed (pure)
health         finds unhealthy replicas
waiters        callers that wait until a change is in effect
"""
