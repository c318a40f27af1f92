"""Fetches the JavaScript libraries of the console's page, pinned by version and hash: ``make vendor``.

It needs the npm registry and no Node. A file that is not what this module pins is refused. Imports by name become
relative paths, since the page has no build step; licences are kept beside the page, and the hash of each file that is
written in ``vendored.json``, by which a test sees that nobody has edited one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CONSOLE = Path(__file__).parents[1] / "src" / "pointsman" / "console"
FOLDER = CONSOLE / "page" / "vendor"
LICENSES = CONSOLE / "LICENSES"
RECORD = CONSOLE / "vendored.json"
REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True)
class Package:
    """A package of the npm registry.

    Args:
        name, version: in the registry.
        sha512: of its tarball, in base64, as the registry's ``integrity`` has it.
        files: path in the package -> name in the page's folder.
    """

    name: str
    version: str
    sha512: str
    files: dict[str, str]

    @property
    def url(self) -> str:
        return f"{REGISTRY}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


PACKAGES = (
    Package(
        "preact",
        "10.29.8",
        "ej2aVZ+vZ8WO7tvlQWRM9N63A0KzF9q4mWJfDUHgYaIofWY9hu74QdnQrjoPMmZi2/nZ5gN0bJCQF49xQqx09Q==",
        {"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "hooks.js"},
    ),
    Package(
        "htm",
        "3.1.1",
        "983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        {"dist/htm.mjs": "htm.js"},
    ),
    Package(
        "@preact/signals-core",
        "1.14.5",
        "vcRv7Ityz5JVmeiVqIluLFzT/PDS/AlhHUpw3/aUWqcVUs6bDGIPXE/6RSC4evBNWYvnniozg5Syfj33al3gkg==",
        {"dist/signals-core.mjs": "signals-core.js"},
    ),
    Package(
        "@preact/signals",
        "2.11.4",
        "Rb+5RPo9gWSaHtzJeauhHxiC8KP/IF2DEPkHPEOGOnuy2wnJzRqyeLRankUCYd6ADqtxS6GnWGv6Ie343d8aYw==",
        {"dist/signals.mjs": "signals.js"},
    ),
)
NAMES = {
    "preact": "./preact.js",
    "preact/hooks": "./hooks.js",
    "@preact/signals-core": "./signals-core.js",
}


def fetch(package: Package) -> bytes:
    """The package's tarball.

    Raises:
        SystemExit: it is not the one that is pinned.
    """
    with urllib.request.urlopen(package.url) as answer:
        tarball: bytes = answer.read()
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise SystemExit(f"{package.url} has the hash sha512-{found}; sha512-{package.sha512} is pinned")
    return tarball


def for_the_page(name: str, text: str) -> str:
    """A library's file as the page loads it: a module that imports by relative paths, without a source map.

    Raises:
        SystemExit: it imports a name that is not vendored.
    """
    text = re.sub(r"\n?//# sourceMappingURL=\S+\s*$", "\n", text)

    def relative(found: re.Match[str]) -> str:
        if found[2] not in NAMES:
            raise SystemExit(f"{name} imports {found[2]!r}, which is not vendored")
        return f'{found[1]}"{NAMES[found[2]]}"'

    return re.sub(r'(\bfrom)\s*"([^"]+)"', relative, text)


def main() -> None:
    """Write the libraries, their licences and the record of hashes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    licenses, record = [], {}
    for package in PACKAGES:
        with tarfile.open(fileobj=io.BytesIO(fetch(package))) as tarball:

            def read(path: str, tarball: tarfile.TarFile = tarball) -> str:
                member = tarball.extractfile(f"package/{path}")
                assert member is not None, path
                return member.read().decode()

            licenses.append(f"{package.name} {package.version}\n\n{read('LICENSE').strip()}\n")
            for path, name in package.files.items():
                written = for_the_page(name, read(path)).encode()
                (FOLDER / name).write_bytes(written)
                record[name] = hashlib.sha256(written).hexdigest()
        print(f"{package.name} {package.version}", file=sys.stderr)
    LICENSES.write_text(f"\n{'-' * 80}\n\n".join(licenses))
    RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
