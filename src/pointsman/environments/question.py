"""Script that reports what an interpreter has, as one line of JSON. Run by ``python -c``, never imported.

It has no annotations and no new syntax, so that an interpreter that is too old can still report its version.
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
if sys.version_info >= (3, 10):  # noqa: UP036 - older ones run this script too
    import importlib.metadata
    import importlib.util
    import re

    for requirement in sys.argv[1:]:  # such as msgspec>=0.18
        name, _, least = requirement.partition(">=")
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            there = "" if importlib.util.find_spec(name) is None else "9999"  # importable, of unknown version
        numbers = [[int(part) for part in re.findall("[0-9]+", text)[:3]] for text in (there, least)]
        if not there or numbers[0] < numbers[1]:
            missing.append(name)
    if importlib.util.find_spec("pointsman") is not None:
        try:
            from pointsman.version import VERSION
            from pointsman.wire.frames import PROTOCOL_VERSION

            facts["pointsman"], facts["wire"] = VERSION, PROTOCOL_VERSION
        except Exception as error:  # noqa: BLE001 - any failure is what is reported
            facts["problem"] = "importing pointsman failed: " + repr(error)
sys.stdout.write("\n" + json.dumps(facts) + "\n")
