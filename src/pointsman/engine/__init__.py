"""Starts, stops and watches processes, and gives them resources. Must not handle requests, nor import what it starts.

base        the interfaces of an engine: for the controller, and for the driver that starts an instance
orders      the controller's orders to an engine, and the engine's events
instances   chooses between the engines
process     the start of a process, in the parent and in the child
folder, lognames, listening, relay   used by both engines
local, ray  the engines, with the same names in the same files
"""
