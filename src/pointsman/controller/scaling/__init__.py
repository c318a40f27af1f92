"""Replicas by demand: what routers report, what is decided of it, and how that becomes a change."""
