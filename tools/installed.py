"""Uses a package that was installed into a clean environment, as its users do. Used by ``dist``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

LIMIT_MB = 45.0
"""What an installation may bring, in files of wheels: bytecode, which pip writes and Python would, comes on top."""

MODEL = """
def greet(request):
    return f"Hello, {request.query_params['name']}!"
"""

TYPED = """
import pointsman as serve


def greet(request: serve.Request) -> str:
    return "Hello"


client = serve.start()
client.deploy("greet", greet, route="/greet")
number: int = client.http_address
"""

IMPORTED = """
import importlib, pkgutil, sys
import pointsman
for name in pointsman.__all__:
    getattr(pointsman, name)
for module in pkgutil.walk_packages(pointsman.__path__, "pointsman."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print("missing", error.name.partition(".")[0], module.name)
"""

OPTIONAL = {"fastapi", "joblib", "matplotlib", "numpy", "opentelemetry", "ray", "sklearn", "watchfiles"}
"""What modules import that are loaded where these are installed: by an extra, or since user code has them."""
SIZES = """
import importlib.metadata, os
for package in importlib.metadata.distributions():
    name = package.metadata["Name"]
    if name not in ("pip", "setuptools"):
        paths = [str(package.locate_file(file)) for file in package.files or [] if file.suffix != ".pyc"]
        print(name, sum(os.stat(path).st_size for path in paths if os.path.exists(path)))
"""


def try_out(environment: Path, file: Path, folder: Path) -> float:
    """Use what was installed.

    Args:
        environment: where it was installed.
        file: what was installed, a wheel or a source distribution.
        folder: for files of this try.

    Returns:
        What the installation has brought, in MB.

    Raises:
        SystemExit: something is not as it should be, and this is what.
    """
    python = environment / "bin" / "python"
    version = file.name.split("-")[1].removesuffix(".tar.gz")
    expect(
        said(environment / "bin" / "pointsman", "--version") == f"pointsman {version}\n", "--version says another one"
    )
    expect(
        said(python, "-m", "pip", "check") == "No broken requirements found.\n", "pip check finds broken requirements"
    )
    missing = [line.split()[1:] for line in said(python, "-c", IMPORTED).splitlines() if line.startswith("missing ")]
    expect(all(name in OPTIONAL for name, _ in missing), f"modules need more than the package requires: {missing}")
    core = said(python, "-c", "from pointsman.routing import router; print(router.__file__)").strip()
    expect(core.endswith(".so") == ("-cp" in file.name), f"{file.name} gives {core}")
    serves(environment, folder)
    is_typed(python, folder)
    sizes = sizes_of(python)
    megabytes = sum(sizes.values()) / 1e6
    expect(megabytes <= LIMIT_MB, f"it brings {megabytes:.1f} MB, more than {LIMIT_MB:.0f}:\n{table(sizes)}")
    return megabytes


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(otherwise)


def said(*command: str | Path) -> str:
    """What a command prints on stdout; without this checkout on its import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd="/", env=environment, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{' '.join(map(str, command))[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout


def serves(environment: Path, folder: Path) -> None:
    """``pointsman run`` serves a file over HTTP, and ends when it is told to."""
    (folder / "greet.py").write_text(MODEL)
    command = [str(environment / "bin" / "pointsman"), "run", "greet.py", "--port", "0", "--console-port", "-1"]
    homes = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
    with open(folder / "run.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **homes}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (address := re.search(r"http://\S+", (folder / "run.log").read_text())):
            text = (folder / "run.log").read_text()
            expect(process.poll() is None and time.monotonic() < deadline, f"pointsman run does not serve:\n{text}")
            time.sleep(0.05)
        with urllib.request.urlopen(f"{address[0]}?name=Ada", timeout=30) as answer:
            expect(answer.read() == b"Hello, Ada!", "the model gives another answer")
        process.send_signal(signal.SIGTERM)
        expect(process.wait(60) == 0, f"pointsman run ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def is_typed(python: Path, folder: Path) -> None:
    """Mypy, which runs elsewhere, reads the types of the installed package."""
    (folder / "typed.py").write_text(TYPED)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--python-executable",
        str(python),
        "typed.py",
    ]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    expect("Found 1 error in 1 file" in found and "[assignment]" in found, f"mypy sees other types:\n{found}")


def sizes_of(python: Path) -> Counter[str]:
    """Bytes by package, of all files but bytecode."""
    lines = (line.split() for line in said(python, "-c", SIZES).splitlines())
    return Counter({name: int(size) for name, size in lines})


def table(sizes: Counter[str]) -> str:
    rows = [f"  {name:<20} {size / 1e6:>6.2f} MB" for name, size in sizes.most_common()]
    return "\n".join([*rows, f"  {'together':<20} {sum(sizes.values()) / 1e6:>6.2f} MB"])
