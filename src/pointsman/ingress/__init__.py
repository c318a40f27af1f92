"""The HTTP front: one process or several that share a listening socket. In the order of a request:

__main__     the process: connections to the controller, the first table, its end
firsttable   counts a server that begins, and finds the table that it begins with
server       accepts connections (uvicorn), with limits
framing, reading   cut what comes into requests, before it is parsed (framing: pure)
app          route, method, limits, body, call, answer
codec        HTTP in, call out; answer in, HTTP out
bodylimits   deadlines of bodies, pauses after refusals
exchange     one request: counted, logged, traced
sending      how an answer leaves
"""
