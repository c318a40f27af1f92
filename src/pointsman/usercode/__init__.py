"""User code: checked, packed for its replicas, and unpacked by them.

packing      the entry point: checks a function or class, pickles it, and loads it again
byvalue      pickles that hold what other processes cannot import by its name
classids     what makes such pickles the same in every process that has the same code
content      whether the modules of the user's own are as they were
findable     which modules other processes can import by name
picklenames  the names in a pickle, read without loading it
culprit      which part of an object cannot be pickled, for error texts
callables    whether a decorated callable is async, takes an argument, carries the batch marker
signatures   which values a typed callable gets, by its annotations
models       how values of an annotation are read, written and described
kinds        which kinds of classes an annotation is made of
annotations  annotations that are text, and classes of msgspec, made ready to travel
misfits      what does not fit, as clients are told
arrays       arrays of numpy in bodies
describing   what a typed callable takes and gives, for the API document
paths        import paths and working folders of this process and of its children
"""
