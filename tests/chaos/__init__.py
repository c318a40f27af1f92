"""Faults as rows of a table: each breaks something under load, and says what the users saw.

    python -m tests.chaos              every row, two seeds, a table
    python -m tests.chaos --rows F1,F8 --seed 7
    python -m tests.chaos --soak 600   one process killed each second

    load      requests at their times, whatever the server does        -> history
    models    user code that writes down what it does, before and after -> truth
    checks    plain functions over history and truth                    -> violations
    arena     one instance, its processes, what it must look like again at the end
    soak      the row that goes on and on
    report    tables, for people and for the documents
    rows/     one module per family of faults

The short rows are part of the tests (tests/process/test_chaos.py).
"""
