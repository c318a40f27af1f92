"""The HTTP servers: one process, or several that share a listening socket. In the order of a request:

__main__     the process: connection to the controller, first table, shutdown
firsttable   picks the routing table that a new process starts with
server       accepts connections (uvicorn), with limits
framing, reading   split the incoming bytes into heads and bodies before they are parsed (framing: pure)
app          route, method, limits, body, call, answer
codec        HTTP request to call, reply to HTTP answer
bodylimits   deadlines of bodies, pauses after refusals
exchange     one request: counted, logged, traced
sending      writes answers
"""
