"""Decisions as pure functions. Must not use a loop, a socket, the clock, random numbers or the environment; what they
need of these is an argument.

traffic, rendezvous, shardkey   which backend answers a call: by weight, or by shard key
balance      which replica of the backend, and how fast a queue moves
routes       which endpoint a path belongs to
placement    what a placement means in Ray's resources and labels
backoff      how long to wait before a failed process is started again
"""
