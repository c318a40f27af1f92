"""What starts, stops and watches processes and gives them resources. It never touches a request.

base        the seams: what the controller asks of any engine, and what a driver gets that raises an instance
orders      what the controller orders, and what an engine tells it
instances   chooses between the engines
process     both ends of the start of a process
folder, lognames, listening, relay   what both engines use
local, ray  the engines, with the same names in the same files
"""
