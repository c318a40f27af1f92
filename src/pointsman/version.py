"""The version of this package: the one place in its code that has it."""

VERSION = "0.1.0"
