"""Python environments of backends: from what a user writes to an interpreter that is known to be able to run replicas.

kinds          what users write: VirtualEnv, CondaEnv, Requirements
resolve        from that to a :class:`pointsman.model.Environment`, checked
conda          where conda environments are, and what activating one sets
requirements   environments that are made here, and kept
interpreter    asks an environment's interpreter what it is and has; ``question`` is what it is asked
rehearsal      loads a backend's code in its environment once, before the backend is accepted

All of it runs in the client's process, before anything is registered; ``question`` and ``rehearsal`` run in processes
of the environment, each with a deadline. Locations come from the operator alone, never from a request.
"""
