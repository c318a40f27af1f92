"""What hatchling does for this package beyond its own: compiled modules, and a README for package registries.

It compiles the modules that every call passes into a wheel (decision 0057). ``make dist`` turns this hook on; without
it, and where ``POINTSMAN_PURE`` is set, a wheel holds the sources alone and builds without a compiler.

The sources are in a compiled wheel, too: tracebacks show their lines, other Pythons import them, and
``POINTSMAN_PURE=1`` makes this one do so.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

THROWS = """
/* mypyc 2.4 forgets where an exception came from that is thrown into a coroutine alone, as by a task. */
static void pointsman_throw(PyObject *type, PyObject *value, PyObject *traceback) {
    PyObject *error = Py_IsNone(value) ? type : value, *own = NULL;
    if (Py_IsNone(traceback) && PyExceptionInstance_Check(error))
        own = PyException_GetTraceback(error);
    CPyErr_SetObjectAndTraceback(type, value, own != NULL ? own : traceback);
    Py_XDECREF(own);
}
#define CPyErr_SetObjectAndTraceback pointsman_throw
"""
HEADER = '#include "__native_internal_pointsman.h"\n'
RELATIVE = r"\((?![a-z]+:|#)[^)\s]+\)"
"""Where a link leads that holds in the repository alone."""


class ReadmeOfRegistry(MetadataHookInterface):
    """The README as a package registry shows it (decision 0108)."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_relative_links(text)}


def without_relative_links(text: str) -> str:
    """Markdown without pictures and links that lead to files of the repository: of a link its words stay. What is in
    fenced blocks stays as it is."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for index in range(0, len(parts), 2):
        prose = re.sub(r"!\[[^\]]*\]" + RELATIVE + r"\n*", "", parts[index])
        parts[index] = re.sub(r"\[([^\]]*)\]" + RELATIVE, r"\1", prose)
    return "".join(parts)


class CompiledModules(BuildHookInterface):  # type: ignore[type-arg]
    """See the module. Its configuration has ``modules``: paths below ``src/pointsman``, without ``.py``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get("POINTSMAN_PURE"):
            return
        self._folder = tempfile.TemporaryDirectory()
        source, built = Path(self.root) / "src", Path(self._folder.name)
        compile_extensions(to_c(source, self.config["modules"], built / "c"), built)
        for file in (built / "lib").rglob("*.so"):
            build_data["force_include"][str(file)] = str(file.relative_to(built / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def to_c(source: Path, modules: list[str], target: Path) -> list[Any]:
    """Check modules by mypyc, and write their C code.

    Args:
        source: the folder with the package.
        modules: paths below the package, without ``.py``.
        target: folder for the C code.

    Returns:
        Extensions, for :func:`compile_extensions`.

    Raises:
        SystemExit: mypyc does not take them, and has said why.
    """
    from mypyc.build import mypycify

    # Types of optional libraries, which are not installed here, do not matter.
    config = source.parent / "pyproject.toml"
    options = [
        f"--config-file={config}",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "--no-warn-unused-ignores",
        f"--cache-dir={target}/mypy",
    ]
    paths = [f"pointsman/{module}.py" for module in modules]
    with inside(source):  # so that tracebacks name files as they lie below an import path
        extensions = mypycify(
            [*options, *paths], opt_level="2", debug_level="0", group_name="pointsman", target_dir=str(target)
        )
    keep_tracebacks(target / "__native_pointsman.c")
    return extensions


def keep_tracebacks(code: Path) -> None:
    """Put :data:`THROWS` into C code that mypyc has written, in front of what calls it.

    Raises:
        SystemExit: the code is not as that of mypyc 2.4.
    """
    text = code.read_text()
    if text.count(HEADER) != 1 or "CPyErr_SetObjectAndTraceback(" not in text:
        raise SystemExit("mypyc has written other code than version 2.4 does; see THROWS in hatch_build.py")
    code.write_text(text.replace(HEADER, HEADER + THROWS))


def compile_extensions(extensions: list[Any], folder: Path) -> None:
    """Compile what :func:`to_c` has made, into ``lib`` of a folder. On Linux the modules have no symbols and no padding
    between segments, which would be a fifth of them."""
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    if sys.platform == "linux":
        for extension in extensions:
            extension.extra_link_args += ["-Wl,--strip-all", "-Wl,-z,noseparate-code"]
    command = build_ext(Distribution({"ext_modules": extensions, "packages": []}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.ensure_finalized()
    command.run()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
