"""``pointsman load``: requests at times of their own, and what became of them.

tally         what is counted, percentiles in bounded memory, and whether it can be trusted (pure)
expectations  what a user expects of the figures (pure)
series        figures over time (pure)
loops         when requests are due, and an open and a closed loop over any network (pure)
requests      the bytes of requests
target        what a URL leads to, and whether that is this machine
connection    one connection, and the answers on it
network       many connections, waited for in microseconds
running       a whole run
"""
