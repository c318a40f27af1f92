"""How many replicas a backend needs. Pure: what was seen in, a number and the reason out."""
