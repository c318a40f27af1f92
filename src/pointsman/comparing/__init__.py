"""Whether a shadow's answer is that of the primary: comparers, examples of mismatches, and the report. Users see this
package as ``serve.compare``; a process that compares pairs of answers does so by it. No loop and no clock; only
``examples`` touches the disk.

    from pointsman import compare

    client.shadow_traffic("rank", "rank-v2", 0.1, compare=compare.json(ignore=["$.took_ms"], rel=1e-4))

A comparer travels as plain data (:mod:`pointsman.model.comparison`) in the endpoint's traffic policy.

comparers  json, top_k, text, function: what users write, checked; the whole comparison of a shadow
paths      where something is in a JSON value: $, .name, [n], [*], ..name
answers    one answer, and what is in it
pairs      a pair of answers -> matched, or what differs and where
trees      JSON values
unordered  lists in these whose order is nothing
scores     the best labels, words of texts, what a user's function returned
redaction  what of a mismatch is stored
examples   the worst mismatches of a shadow, on disk
report     counts of pairs, and what they say
"""

from pointsman.comparing.comparers import function, json, text, top_k

__all__ = ["json", "top_k", "text", "function"]
