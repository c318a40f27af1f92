"""What an environment's interpreter is asked: run there by ``python -c`` and never imported. Prints one line of JSON.

It has no function and no annotation, so that interpreters that are too old can still say how old they are.
"""

import json
import sys

missing = []  # type: list[str]
facts = {
    "version": list(sys.version_info[:3]),
    "build": " ".join(sys.version.split()),
    "missing": missing,
    "pointsman": "",
    "wire": 0,
    "problem": "",
}
if sys.version_info >= (3, 10):  # noqa: UP036 - older ones are asked too
    import importlib.metadata
    import importlib.util
    import re

    for requirement in sys.argv[1:]:  # such as msgspec>=0.18
        name, _, least = requirement.partition(">=")
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            there = "" if importlib.util.find_spec(name) is None else "9999"  # there, but who knows which
        numbers = [[int(part) for part in re.findall("[0-9]+", text)[:3]] for text in (there, least)]
        if not there or numbers[0] < numbers[1]:
            missing.append(name)
    if importlib.util.find_spec("pointsman") is not None:
        try:
            from pointsman.version import VERSION
            from pointsman.wire.frames import PROTOCOL_VERSION

            facts["pointsman"], facts["wire"] = VERSION, PROTOCOL_VERSION
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            facts["problem"] = "importing pointsman failed: " + repr(error)
sys.stdout.write("\n" + json.dumps(facts) + "\n")
