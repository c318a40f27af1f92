"""The caller's side: what drivers, and replicas that hold a handle, need to send calls.

session    one attachment of this process to an instance: control link, routing table, routers
dispatch   hands a call to the right loop, and its outcome back
future     what a handle returns
"""
