"""cli.recipe: the files by which an instance runs in a container, under systemd and on Kubernetes, held against what
they promise."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from pointsman.cli.main import app
from pointsman.cli.recipe import KINDS

OPTIONS = ["--name", "shop", "--target", "shop.yaml", "--image", "registry.example:5000/shop:1.2", "--port", "8123"]
PROBE = "http://127.0.0.1:8000/-/readyz"
UID = 10001
GRACE_S = 7 + 30 + 5
DELAYS = ["--drain-delay", "7", "--drain", "30"]


def printed(kind: str, *options: str) -> str:
    done = CliRunner().invoke(app, ["recipe", kind, *OPTIONS, *DELAYS, *options])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def check_command(words: list[str]) -> None:
    """What the file runs: the target, as JSON lines, with the delay, and by options that the command has."""
    verb, target, *rest = words
    assert (verb, target) == ("run", "shop.yaml")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    known = {name for param in commands.get("run", commands["start"]).params for name in param.opts}
    assert {word for word in rest if word.startswith("-")} <= known
    pairs = dict(zip(rest, [*rest[1:], ""], strict=True))
    assert (pairs["--name"], pairs["--log-format"], pairs["--drain-delay"]) == ("shop", "json", "7")


def test_the_dockerfile() -> None:
    """The image runs as user 10001, its first process is pointsman, and it asks itself whether it is ready (PK1)."""
    text = printed("docker")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    steps: dict[str, list[str]] = {}
    for line in lines:
        word, _, rest = line.partition(" ")
        steps.setdefault(word, []).append(rest.strip())
    assert set(steps) <= {
        *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    assert lines[0].startswith("FROM ")
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", image) for image in steps["FROM"]), "no :latest"
    assert steps["USER"] == [f"{UID}:{UID}"]
    last = lines.index(f"USER {UID}:{UID}")
    assert not [line for line in lines[last:] if line.startswith(("RUN", "COPY", "ADD"))], (
        "nothing it runs can be changed"
    )
    assert all("--no-cache-dir" in step for step in steps["RUN"] if "pip install" in step)
    assert not re.search(r"\b(sudo|curl|wget|chmod 777|--privileged)\b", text)
    assert PROBE in steps["HEALTHCHECK"][0]
    assert json.loads(steps["ENTRYPOINT"][0]) == ["pointsman"], "the exec form: signals reach it"
    check_command(json.loads(steps["CMD"][0]))
    run = " ".join(line.lstrip("# ").rstrip("\\") for line in text.splitlines()[:5])
    assert f"--stop-timeout {GRACE_S}" in run
    assert "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges" in run


def test_the_compose_file() -> None:
    """On one machine: read-only root, no privileges, a grace that leaves time to drain, a log that does not grow for
    ever (PK1)."""
    [(name, service)] = yaml.safe_load(printed("compose"))["services"].items()
    assert (name, service["image"]) == ("shop", "registry.example:5000/shop:1.2")
    check_command(service["command"])
    assert service["user"] == f"{UID}:{UID}"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:mode=1777"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["ports"] == ["127.0.0.1:8123:8000"], "not open to others by itself"
    assert PROBE in service["healthcheck"]["test"][-1]
    assert service["stop_grace_period"] == f"{GRACE_S}s"
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def sections(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = section = {}
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name not in section, f"{name} twice"
            section[name] = value
    return found


def test_the_units(tmp_path: Path) -> None:
    """Under systemd: the socket outlives a restart, readiness is told, only pointsman gets the signal, and the service
    can change nothing of the system (PK1, PK4)."""
    printed("systemd", "--into", str(tmp_path))
    socket = sections((tmp_path / "shop.socket").read_text())
    unit = sections((tmp_path / "shop.service").read_text())
    assert socket["Socket"] == {"ListenStream": "127.0.0.1:8123", "FileDescriptorName": "http"}
    assert "shop.socket" in unit["Unit"]["After"]
    assert unit["Unit"]["Requires"] == "shop.socket"
    service = unit["Service"]
    check_command(shlex.split(service["ExecStart"])[1:])
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
    assert service["TimeoutStopSec"] == str(GRACE_S)
    assert (service["User"], service["Group"]) == (str(UID), str(UID))
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["CapabilityBoundingSet"]) == (
        "strict",
        "yes",
        "",
    )
    assert service["RuntimeDirectory"] == "shop"
    assert "XDG_RUNTIME_DIR=/run/shop" in service["Environment"].split()


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """systemd itself finds nothing to complain of (PK1)."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    printed("systemd", "--into", str(tmp_path))
    service = tmp_path / "shop.service"
    # It looks for the program, too, which is not at its place here.
    service.write_text(service.read_text().replace("/opt/shop/.venv/bin/pointsman", "/bin/true"))
    found = subprocess.run(
        [program, "verify", "--man=no", str(service), str(tmp_path / "shop.socket")],
        capture_output=True, text=True, check=False, env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/bin:/usr/bin"},
    )  # fmt: skip
    complaints = [line for line in found.stderr.splitlines() if "shop" in line]
    assert (found.returncode, complaints) == (0, []), found.stderr


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(printed("kubernetes", "--pods", "3")))


def test_the_manifests() -> None:
    """On a cluster: pods without rights, probes, a grace that leaves time to drain, rollouts without a gap, and no
    variables of services that could be taken for settings (PK1, PK3)."""
    deployment, service = kubernetes()
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    spec = pod["spec"]
    assert spec["terminationGracePeriodSeconds"] == GRACE_S
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert {key: spec["securityContext"][key] for key in ("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup")} == {
        "runAsNonRoot": True, "runAsUser": UID, "runAsGroup": UID, "fsGroup": UID,
    }  # fmt: skip
    [container] = spec["containers"]
    check_command(container["args"])
    assert container["image"] == "registry.example:5000/shop:1.2"
    assert container["securityContext"] == {
        "privileged": False, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    probes = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/-/healthz", "/-/healthz", "/-/readyz"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert service["spec"]["ports"] == [{"name": "http", "port": 8123, "targetPort": "http"}]
    [volume], [mount] = spec["volumes"], container["volumeMounts"]
    assert (mount["name"], mount["mountPath"], volume["name"]) == ("tmp", "/tmp", "tmp")
    assert ports == {"http": 8000, "metrics": 8080}
    assert container["resources"]["limits"]["memory"]


def test_where_traffic_of_pods_is_changed() -> None:
    """The manifest says that traffic is changed in the configuration file; where code alone is run, that it needs one
    (PK1)."""

    def words(target: str) -> str:
        return " ".join(printed("kubernetes", "--target", target).replace("\n# ", " ").split())

    assert "so change traffic in shop.yaml, not in one pod." in words("shop.yaml")
    for target in ("greet.py", "greet:Greeter"):
        assert f"traffic in a configuration file that is run in place of {target}, not in one pod." in words(target)


def test_kubernetes_takes_the_manifests() -> None:
    """Each manifest is what the schemas of Kubernetes allow, and has no field that they do not know (PK1)."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for manifest in kubernetes():
        validate(manifest, "1.30", strict=True)


def test_files_are_not_overwritten(tmp_path: Path) -> None:
    """`--into` writes the files where I want them, and never over mine (PK1)."""
    printed("compose", "--into", str(tmp_path))
    (tmp_path / "shop.socket").write_text("mine")
    done = CliRunner().invoke(app, ["recipe", "systemd", *OPTIONS, "--into", str(tmp_path)])
    assert done.exit_code == 1
    assert "shop.socket is there already; nothing was written" in str(done.exception)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["compose.yaml", "shop.socket"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--name", "Shop"),
        ("--name", "a" * 64),
        ("--name", "shop\nx"),
        ("--target", "a: b"),
        ("--target", "-x"),
        ("--target", 'x"'),
        ("--target", "$HOME"),
        ("--image", "a b"),
        ("--image", "a\n  privileged: true"),
        ("--port", "0"),
        ("--drain-delay", "-1"),
    ],
)
def test_nothing_can_be_smuggled_into_a_file(wrong: tuple[str, str]) -> None:
    """A name that would mean something to the file's language is refused: exit 2, and nothing is printed (PK1)."""
    done = CliRunner().invoke(app, ["recipe", "compose", *OPTIONS, *wrong])
    assert (done.exit_code, done.stdout) == (2, "")
    assert wrong[0] in done.stderr


def test_an_unknown_recipe() -> None:
    """I ask for one that there is not, and am told which there are."""
    done = CliRunner().invoke(app, ["recipe", "helm"])
    assert done.exit_code == 2
    assert all(kind in done.stderr for kind in KINDS)
