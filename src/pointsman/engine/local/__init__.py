"""The local engine: processes on this machine.

driver       starts an instance: folders, ports, the supervisor
lookup       finds instances by their folders
folder, lasttable   the files of an instance
supervisor   the root process: owns the sockets; starts, reaps and restarts the others
output       copies the output of processes to log files and the terminal
engine       the controller's side: orders to the supervisor, events from it
"""
