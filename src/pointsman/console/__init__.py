"""The console: a process that serves the page to look at an instance and steer it, and the API behind that.

It runs no user code, takes no calls of endpoints, and can only read: each change carries the token of a user, which the
controller checks.
"""
