"""Decisions as pure functions: which backend answers a call, which replica of it, which route a path is, which node a
replica is for.
"""
