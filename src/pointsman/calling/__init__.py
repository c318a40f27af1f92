"""The caller's side of handles, in drivers and in replicas that hold a handle.

session    this process's connection to an instance: control link, routing table, routers
dispatch   hands a call to the right event loop, and its outcome back
future     what a handle returns
"""
