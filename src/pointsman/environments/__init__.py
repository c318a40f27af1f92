"""Python environments of backends: named by the user, found, made and tried before anything is registered.

kinds         what users name: a virtual environment, a conda environment, requirements
resolve       from that name to an interpreter and its variables
conda         what conda says, and what entering an environment does to a process
requirements  makes environments from requirements, keeps, lists and removes them
interpreter   asks an interpreter what it has (question: run by it)
rehearsal     loads a backend's code once in its environment
"""
