"""Decisions about traffic as pure functions: which backend answers a call, and which replica of it."""
