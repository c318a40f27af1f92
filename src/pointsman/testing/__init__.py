"""Tools for testing code that is written against Pointsman."""
