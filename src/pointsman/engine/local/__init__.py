"""The local engine: processes of this machine.

driver       raises an instance: folders, ports, the supervisor
lookup       finds instances by their folders
folder, lasttable   what an instance keeps on this machine
supervisor   the root process: owns the sockets; starts, reaps and restarts the others (outbox, output: what they say)
engine       the controller's side: orders to the supervisor, events from it
"""
