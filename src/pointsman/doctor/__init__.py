"""``pointsman doctor``: what is wrong with a machine or an instance, and what to do about it.

judging    facts of a machine -> findings (pure)
condition  facts of an instance -> findings (pure)
machine    gathers the facts of this machine
instance   gathers the facts of an instance
redacting  takes secrets out of text (pure)
bundle     a file for whoever helps
"""
