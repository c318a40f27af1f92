"""The process beside a router that compares answers (decision 0080).

subject   one comparison: counts and examples
limits    how long a comparison may take; a user's function, in a process of its own
function  that process
"""
