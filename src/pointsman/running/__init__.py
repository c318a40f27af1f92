"""Serves what a user names on the command line or in a dict: finds the code, tries it, serves it, and serves it anew
when its files change."""
