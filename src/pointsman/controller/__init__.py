"""The controller: the single writer of desired state. In the order of a change:

__main__, main_ray   the process on this machine, and on a Ray cluster
run            puts a controller together and lets everyone in
connections    who is there, and who may say what
commands       what each command does
controller     the shell: command -> desired -> store -> plan -> engine, orders and tables
state, desired, endpoints   what the operator wants (pure)
store          where that is kept
observed, failures   what is there, as reports and events tell (pure)
reconcile, allocation   what to do next, and on which node (pure)
orders         what replicas are launched with and told
views          what others see: routing table, status
health         which replicas are unhealthy
waiters        who waits until a change is in effect
"""
