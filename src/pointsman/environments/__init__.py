"""Python environments of backends: found or made, and checked before a backend is registered.

kinds         the types of ``env=``: a virtual environment, a conda environment, requirements
resolve       turns one of these into an interpreter and its variables
conda         finds conda environments, and computes the variables of an activated one
requirements  makes environments from requirements; stores, lists and removes them
interpreter   runs an interpreter to find out what it has
question      the script that it runs for that
rehearsal     imports a backend's code once in its environment, on trial
"""
