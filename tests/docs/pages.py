"""Goes through a page as its reader does: saves the files, types the commands, compares what is printed.

What stands on the page decides, block by block:

- Where the text above a block says "Save ... `name`", the block becomes that file. A ``diff`` block changes the file
  that the text above it names; lines with ``@@`` part what stands apart.
- In a ``console`` block each line behind ``$`` is typed, in one shell for the whole page; what follows is what it
  prints. Without any, what it prints is not looked at. ``...`` is any text within a line, and any lines where it stands
  alone. Each command succeeds, unless the line above the block is ``<!-- exits with N -->``: then the last one does so.
- Below ``<!-- figures vary -->`` every number may be another one, and every gap wider; below ``<!-- texts vary -->``
  every text in quotes, and every line without any.
- ``pointsman run`` goes on, in a terminal of its own, until the text says "Ctrl-C", and so does a script that calls
  ``serve.run``; only what it prints for programs to read is compared. ``pip install`` is not run: what it names must be
  there.
- Every other block says ``<!-- not run: reason -->`` on the line above it.

Only ports are changed: those that the page names stand for free ones. And ``pointsman load --concurrency`` takes
less time.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from tests.conftest import wait_until

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)
HERE = re.compile(r"<<'(\w+)'")
SAVED = re.compile(r"\b[Ss]aved?\b[^`]*`([\w./-]+)`")
NAMED = re.compile(r"`([\w./-]+\.\w+)`")
MARK = re.compile(r"<!-- (not run: [^>]+|figures vary|texts vary|exits with \d+) -->\s*\Z")
CTRL_C = re.compile(r"\bCtrl-C\b")
STARTS = re.compile(r"^(?:\w+=\S+ )*pointsman (?:run|serve|start)\b")
GOES_ON = re.compile(r"^(?:\w+=\S+ )*pointsman (?:run|serve)\b")
DURATION = re.compile(r"(?<=--concurrency )(\d+) --duration \d+s")
NUMBER = r"\d+(?:[.,]\d+)*"
CONSOLE_WITHOUT_TERMINAL = re.compile(r"(Console:  http://[\w.:]+)  \(for a link that signs in: pointsman console\)")
PORTS = ("8000", "8070", "6379")
"""Of HTTP, of the console, and of the head of a Ray cluster."""
SCRIPT = re.compile(r"^python ([\w.]+\.py)$")
RUN = re.compile(r"\bserve\.run\(")
OTHER_PORTS = ", metrics_export_port=0)"
COMMAND_TIMEOUT_S = 100.0
END_OF_COMMAND = "\x1e"


class Block(NamedTuple):
    line: int
    language: str
    above: str
    """The text between the block before and this one."""
    mark: str
    """What the comment above it says, or nothing."""
    text: str


class Typed(NamedTuple):
    command: str
    printed: str


def blocks(page: str) -> Iterator[Block]:
    end = 0
    for match in BLOCK.finditer(page):
        above = page[end : match.start()]
        mark = MARK.search(above)
        yield Block(page.count("\n", 0, match.start()) + 1, match[1], above, mark[1] if mark else "", match[2])
        end = match.end()


def typed(text: str) -> Iterator[Typed]:
    """The commands of a block; those of several lines end in backslashes, or have a document in quotes."""
    assert text.startswith("$ "), "a console block begins with a command behind a dollar"
    for first, rest in TYPED.findall(text):
        command, lines = first, rest.splitlines(keepends=True)
        while command.endswith("\\\n"):
            command += lines.pop(0)
        if here := HERE.search(first):
            while not command.endswith(f"\n{here[1]}\n"):
                command += lines.pop(0)
        yield Typed(command.rstrip("\n"), "".join(lines))


def pattern(printed: str, mark: str = "") -> re.Pattern[str]:
    """What is printed, where the page shows ``printed``."""
    parts = []
    for line in printed.rstrip("\n").splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
            continue
        quoted = re.escape(line.rstrip()).replace(r"\.\.\.", ".*?")
        if mark == "texts vary":
            quoted = re.sub(r'(: ?|:\\ )"[^"]*"', r'\1"[^"]*"', quoted) if '"' in line else ".*" if line.strip() else ""
        if mark == "figures vary":
            quoted = re.sub(r"\d+(?:(?:\\\.|,)\d+)*", lambda _: NUMBER, quoted)
            quoted = re.sub(r"(?:\\ )+", lambda _: " +", quoted)
        parts.append(f"{quoted}\n")
    return re.compile("".join(parts))


def with_ports(script: str) -> str:
    """A script that starts an instance with no port said, on port 8000 and no other that may be taken."""
    script = script.replace("serve.start()", 'serve.start(http_options={"port": 8000}' + OTHER_PORTS)
    called = RUN.search(script)
    if called is None:
        return script
    before, call = script[: called.start()], script[called.start() :]
    if "http_options={" in call:
        call = call.replace("http_options={", 'http_options={"port": 8000, ')
    else:
        call = re.sub(r",?\s*\)\s*\Z", ', http_options={"port": 8000})\n', call)
    return before + re.sub(r",?\s*\)\s*\Z", OTHER_PORTS + "\n", call)


class Reader:
    """Whoever reads the page, in an empty folder, with what was installed on the PATH."""

    def __init__(self, folder: Path, with_console: bool) -> None:
        self._folder = folder / "page"
        self._folder.mkdir()
        (folder / ".curlrc").write_text("silent\nshow-error\n")  # as curl is on a terminal
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CURL_HOME": str(folder),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            **{f"GIT_{who}_{what}": "reader" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the reader has none of these plugins
            "OPENBLAS_NUM_THREADS": "1",  # threads that wait for each other by spinning cost other tests their cores
        }
        # Bound and not listened on: nobody else is given such a port, and a server may still bind it.
        self._held = [socket.socket() for _ in PORTS]
        for held in self._held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
        self._ports = {port: str(held.getsockname()[1]) for port, held in zip(PORTS, self._held, strict=True)}
        console = self._ports[PORTS[1]] if with_console else "-1"
        self._started_with = f"--port {self._ports[PORTS[0]]} --metrics-export-port 0 --console-port {console}"
        self._logs = [folder / "shell.txt", folder / "running.txt", folder / "errors.txt"]
        self._running: subprocess.Popen[bytes] | None = None
        self._detached = False
        with self._logs[0].open("wb") as log:
            self._shell = subprocess.Popen(
                ["bash"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def take(self, block: Block) -> None:
        """Do what the page says with its next block."""
        if CTRL_C.search(block.above):
            self.press_ctrl_c()
        if block.mark.startswith("not run"):
            return
        if block.language == "console":
            self._type_all(block)
        elif block.language == "diff":
            self._change(NAMED.findall(block.above)[-1], block.text)
        else:
            name = SAVED.findall(block.above)
            assert name, 'the text above a block says "Save this as `name`", or why it is not run'
            self._save(name[-1], block.text)

    def _save(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._on_free_ports(with_ports(text)))

    def _change(self, name: str, difference: str) -> None:
        path = self._folder / name
        text = path.read_text()
        for part in filter(None, re.split(r"^@@.*\n", self._on_free_ports(difference), flags=re.MULTILINE)):
            lines = part.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert text.count(old) == 1, f"{name} does not have these lines once:\n{old}"
            text = text.replace(old, new)
        path.write_text(text)

    def _type_all(self, block: Block) -> None:
        commands = list(typed(block.text))
        for place, one in enumerate(commands):
            code = 0
            if block.mark.startswith("exits with") and place == len(commands) - 1:
                code = int(block.mark.split()[-1])
            printed = self._type(one.command, code)
            expected = pattern(one.printed, block.mark)
            assert not one.printed or expected.fullmatch(printed), (
                f"$ {one.command}\nprinted\n{printed}\nand not as on the page\n{one.printed}"
            )

    def _type(self, command: str, code: int) -> str:
        if command.startswith("pip install"):
            for name in shlex.split(command)[2:]:
                distribution(re.split(r"[<>=\[]", name)[0])
            return ""
        command = self._on_free_ports(DURATION.sub(r"\1 --duration 0.3s", command))
        if command.startswith(("pointsman shutdown", "pointsman stop")):
            self._detached = False
        if STARTS.match(command):
            command += f" {self._started_with}"
            self._detached = self._detached or "--detached" in command
        if GOES_ON.match(command) or self._runs_on(command):
            return self._type_what_goes_on(command)
        ended, printed = self._type_in_shell(command)
        assert ended == code, f"$ {command}\nended with {ended}\n{printed}"
        return self._as_on_page(printed)

    def _runs_on(self, command: str) -> bool:
        script = SCRIPT.match(command)
        return script is not None and RUN.search((self._folder / script[1]).read_text()) is not None

    def _type_in_shell(self, command: str) -> tuple[int, str]:
        """Type it, and return its exit code and what it prints. It reads nothing from the terminal."""
        assert self._shell.stdin is not None
        log = self._logs[0]
        before = log.stat().st_size
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '{END_OF_COMMAND}%s{END_OF_COMMAND}' $?\n")
        self._shell.stdin.flush()

        def ended() -> list[str] | None:
            with log.open("rb") as file:
                file.seek(before)
                said = file.read().decode(errors="replace").split(END_OF_COMMAND)
            return said if len(said) == 3 else None

        printed, code, _ = wait_until(ended, timeout_s=COMMAND_TIMEOUT_S, what=f"end of: {command}")
        return int(code), printed

    def _type_what_goes_on(self, command: str) -> str:
        assert self._running is None, "what runs in the first terminal has not been ended by Ctrl-C"
        _, folder = self._type_in_shell("pwd")
        log, errors = self._logs[1:]
        with log.open("wb") as file, errors.open("wb") as error_file:
            running = self._running = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=folder.strip(),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=error_file,
            )

        def up() -> bool:
            return "\nCtrl-C finishes" in log.read_text() or running.poll() is not None

        wait_until(up, timeout_s=COMMAND_TIMEOUT_S, what=f"start of: {command}")
        assert running.poll() is None, f"$ {command}\n{errors.read_text()}"
        return self._as_on_page(log.read_text())

    def press_ctrl_c(self) -> None:
        """End what runs, if anything does."""
        running, self._running = self._running, None
        if running is not None:
            running.send_signal(signal.SIGINT)
            assert running.wait(COMMAND_TIMEOUT_S) == 0, self._logs[2].read_text()

    def leave(self) -> None:
        """End what is still there, also when the page has failed."""
        try:
            self.press_ctrl_c()
            if self._detached:
                self._type_in_shell("pointsman stop || true")
        finally:
            os.killpg(self._shell.pid, signal.SIGKILL)  # and what it runs in the background
            self._shell.wait()
            assert self._shell.stdin is not None
            self._shell.stdin.close()
            for held in self._held:
                held.close()

    def _on_free_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: self._ports[match[1]], text)

    def _as_on_page(self, printed: str) -> str:
        for port, free in self._ports.items():
            printed = re.sub(rf"\b{free}\b", port, printed)
        printed = CONSOLE_WITHOUT_TERMINAL.sub(r"\1/#token=...", printed)
        return "".join(f"{line.rstrip()}\n" for line in printed.rstrip("\n").splitlines())


def go_through(page: Path, folder: Path) -> None:
    """Take all blocks of a page in their order; ``folder`` is empty.

    Raises:
        AssertionError: with the line of the block that does not do what the page says.
    """
    text = page.read_text()
    reader = Reader(folder, with_console=PORTS[1] in text)
    try:
        for block in blocks(text):
            try:
                reader.take(block)
            except Exception as error:
                raise AssertionError(f"{page.name}:{block.line}: {error}") from error
    finally:
        reader.leave()
