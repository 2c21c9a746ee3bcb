"""What deploy/ shows is what it says: pinned images, sandboxes, and options that are there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from e2e_daemon import binary

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ("compose.yaml", "compose-tls.yaml")
KUBERNETES = ("kubernetes.yaml", "kubernetes-tls.yaml")
# systemd's measure of what a service may do: 0 is nothing, 10 is everything.
EXPOSURE_MAX = 2.0


def options() -> set[str]:
    """Returns the names of the daemon's options."""
    text = subprocess.run([binary(), "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  (?:-\w,)?(--[a-z][a-z-]+)", text, re.MULTILINE))


def flags_of(texts: list[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"--[a-z][a-z-]+", text)}


def images() -> list[str]:
    """Returns every image that the files name."""
    found = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    found += re.findall(r"^ARG BUILD_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in (*COMPOSE, *KUBERNETES):
        found += re.findall(r"image: *(\S+)", (DEPLOY / name).read_text())
    return [image for image in found if image not in ("scratch", "${BUILD_IMAGE}")]


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_images_are_named_by_a_version():
    assert len(images()) >= 5
    for image in images():
        tag = image.partition("@")[0].partition(":")[2]
        assert tag and tag != "latest" and any(c.isdigit() for c in tag), image


def test_the_image_has_no_shell_and_no_root():
    text = (ROOT / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert final.startswith("\nFROM scratch")
    assert re.search(r"^USER 65532:65532$", final, re.MULTILINE)
    assert not re.search(r"^(RUN|ADD) ", final, re.MULTILINE)
    assert "sbom.spdx.json" in text


def package_lines() -> list[str]:
    lines = (DEPLOY / "packages.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith(("#", "archive="))]


def test_packages_have_versions_and_a_time():
    text = (DEPLOY / "packages.txt").read_text()
    assert re.search(r"^archive=20\d{6}T\d{6}Z$", text, re.MULTILINE)
    assert len(package_lines()) > 10
    for line in package_lines():
        assert re.fullmatch(r"[a-z0-9.+-]+=[0-9][0-9A-Za-z.:+~-]*", line), line


SOURCES = """\
Types: deb
# http://former.example/archive/debian/20250520T000000Z
URIs: http://now.example/debian
Suites: bookworm bookworm-updates

Types: deb
# http://former.example/archive/debian-security/20250520T000000Z
URIs: http://now.example/debian-security
Suites: bookworm-security
"""


def install(root: Path, pinned: str) -> tuple[list[str], str]:
    """Lets the script install into a folder; returns the calls of apt-get, and the sources."""
    script = (DEPLOY / "install_packages.sh").read_text()
    for folder in ("/etc/apt", "/var/lib"):
        script = script.replace(folder, f"{root}{folder}")
    for folder in ("etc/apt/sources.list.d", "etc/apt/apt.conf.d", "var/lib/apt/lists", "bin"):
        (root / folder).mkdir(parents=True)
    sources = root / "etc/apt/sources.list.d/debian.sources"
    sources.write_text(SOURCES)
    (root / "install_packages.sh").write_text(script)
    shutil.copy(DEPLOY / "packages.txt", root)
    (root / "bin/apt-get").write_text(f'#!/bin/sh\necho "$@" >>{root}/calls\n')
    (root / "bin/apt-get").chmod(0o755)
    path = f"{root}/bin:/usr/bin:/bin"
    subprocess.run(
        ["sh", root / "install_packages.sh", pinned], check=True, env={"PATH": path}, timeout=60
    )
    return (root / "calls").read_text().splitlines(), sources.read_text()


def test_pinned_packages_come_from_the_archive_of_their_time(tmp_path):
    (_, call), sources = install(tmp_path, "1")
    time = re.search(r"archive=(\w+)", (DEPLOY / "packages.txt").read_text())[1]
    assert re.findall(r"^URIs: (.*)$", sources, re.MULTILINE) == [
        f"http://former.example/archive/debian/{time}",
        f"http://former.example/archive/debian-security/{time}",
    ]
    assert [word for word in call.split() if "=" in word] == package_lines()


def test_packages_that_are_not_pinned_are_the_newest(tmp_path):
    (_, call), sources = install(tmp_path, "0")
    assert sources == SOURCES
    assert {line.partition("=")[0] for line in package_lines()} <= set(call.split())
    assert "=" not in call


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="it names Debian's packages")
def test_the_bill_of_materials_lists_the_program_and_its_libraries():
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_sbom.py", binary()],
        capture_output=True,
        check=True,
    )
    bill = json.loads(made.stdout)
    assert bill["spdxVersion"] == "SPDX-2.3"
    packages = {package["SPDXID"]: package for package in bill["packages"]}
    names = {package["name"]: package for package in packages.values()}
    sums = names[binary().name]["checksums"]
    assert sums[0]["checksumValue"] == hashlib.sha256(binary().read_bytes()).hexdigest()
    for library in ("libssl3", "libc6", "libprotobuf32", "nlohmann-json3-dev"):
        installed = subprocess.run(
            ["dpkg-query", "--show", "--showformat", "${Version}", library],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert names[library]["versionInfo"] == installed
    known = {bill["SPDXID"], *packages}
    related = bill["relationships"]
    assert {r["spdxElementId"] for r in related} | {
        r["relatedSpdxElement"] for r in related
    } <= known


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_the_check_of_hardening_misses_no_defence(tmp_path):
    source = tmp_path / "soft.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("soft"); }\n')
    soft = ["-no-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-z", "execstack"]
    soft += ["-z", "norelro", "-z", "lazy", "-Wl,-rpath,/tmp"]
    subprocess.run(["gcc", source, *soft, "-o", tmp_path / "soft"], check=True)

    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_hardening.py", tmp_path / "soft"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 1
    words = ["position-independent", "stack that can be executed", "RELRO", "-z now"]
    words += ["stack protector", "FORTIFY", "outside its own folder", "CET"]
    for word in words:
        assert word in checked.stdout, checked.stdout


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_gives_no_more_than_is_needed(name):
    (service,) = documents(name)[0]["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service and not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] and service["pids_limit"]
    open_to_all = [port for port in service["ports"] if not port.startswith("127.0.0.1:")]
    assert "--allow-plaintext" in service["command"] or "tls" in name
    assert not open_to_all or any("--tls-certificate" in word for word in service["command"])
    assert flags_of(service["command"]) <= options()


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_gives_no_more_than_is_needed(name):
    deployment, _, policy = documents(name)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["egress"] == []
    assert ("--allow-plaintext" in container["args"]) != ("tls" in name)
    assert flags_of(container["args"]) <= options()


@pytest.mark.parametrize("name", ["mnemosyned.service", "mnemosyned-tls.conf"])
def test_the_unit_names_options_that_are_there(name):
    lines = (DEPLOY / name).read_text().replace("\\\n", " ").splitlines()
    commands = [line for line in lines if re.match(r"ExecStart=\S*mnemosyned ", line)]
    assert len(commands) == 1
    assert flags_of(commands) <= options()


def test_the_configuration_file_has_every_option():
    text = (DEPLOY / "mnemosyned.toml").read_text()
    named = {f"--{name}" for name in re.findall(r"^(?:# )?([a-z-]+) = ", text, re.MULTILINE)}
    assert named == options() - {"--help", "--version", "--config"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_unit_is_sandboxed():
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", DEPLOY / "mnemosyned.service"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert level, said.stderr
    assert float(level.group(1)) <= EXPOSURE_MAX
