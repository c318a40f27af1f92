"""The demonstration that ``make demo`` and ``pointsman demo`` run."""
