"""What an environment's interpreter is asked: run there by ``python -c`` and never imported. Prints one line of JSON.

It has no function and no annotation, so that interpreters that are too old can still say how old they are.
"""

import json
import sys

facts = {
    "version": list(sys.version_info[:3]),
    "build": " ".join(sys.version.split()),
    "missing": [],
    "pointsman": "",
    "wire": 0,
    "problem": "",
}
if sys.version_info >= (3, 10):  # noqa: UP036 - older ones are asked too
    import importlib.util

    facts["missing"] = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("pointsman") is not None:
        try:
            from pointsman.version import VERSION
            from pointsman.wire.frames import PROTOCOL_VERSION

            facts["pointsman"], facts["wire"] = VERSION, PROTOCOL_VERSION
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            facts["problem"] = "importing pointsman failed: " + repr(error)
sys.stdout.write("\n" + json.dumps(facts) + "\n")
