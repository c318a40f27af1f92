"""The command line. See ``main``."""
