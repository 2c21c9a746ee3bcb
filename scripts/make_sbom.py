"""Writes a bill of materials of built programs, as SPDX 2.3 in JSON, to standard output.

It lists each program with its SHA-256, the Debian package of every shared library that the loader
takes for it, and the packages whose headers are compiled in.

usage: make_sbom.py PROGRAM ...
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Packages of headers that end in our object files.
HEADERS = ("libcli11-dev", "libeigen3-dev", "nlohmann-json3-dev")


def output(*command: str) -> str:
    """Returns what a command prints; empty if it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def packages_of(paths: list[str]) -> dict[str, str]:
    """Returns the Debian packages that installed files, by any of the files' names.

    Raises:
        LookupError: A file belongs to no package.
    """
    names = {}
    for path in paths:
        real = os.path.realpath(path)
        names[path] = (path, real, real.removeprefix("/usr"), "/usr" + path)
    found = {}
    for line in output("dpkg-query", "--search", *sum(names.values(), ())).splitlines():
        owner, _, file = line.partition(": ")
        if owner.startswith("diversion by"):
            continue
        found.setdefault(file, owner.split(",")[0])
    owners = {}
    for path, known in names.items():
        owners[path] = next((found[name] for name in known if name in found), "")
        if not owners[path]:
            raise LookupError(f"{path} belongs to no package")
    return owners


def libraries_of(program: pathlib.Path) -> list[str]:
    """Lists the shared libraries that the loader takes for a program."""
    return sorted(set(re.findall(r"(/\S+\.so\S*)", output("ldd", str(program)))))


def spdx_id(kind: str, name: str) -> str:
    """Returns a name as SPDX allows it."""
    return f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


def debian_package(name: str) -> dict[str, object]:
    """Returns the entry of a Debian package."""
    fields = "${Version} ${source:Package} ${Architecture}"
    version, source, architecture = output(
        "dpkg-query", "--show", "--showformat", fields, name
    ).split()
    plain = name.split(":")[0]
    purl = f"pkg:deb/debian/{plain}@{version}?arch={architecture}"
    return {
        "SPDXID": spdx_id("Package", plain),
        "name": plain,
        "versionInfo": version,
        "sourceInfo": f"built from the Debian source package {source}",
        "supplier": "Organization: Debian",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ],
    }


def program_package(program: pathlib.Path) -> dict[str, object]:
    """Returns the entry of a program of ours."""
    version = re.search(
        r"VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text().split("project(")[1]
    )
    return {
        "SPDXID": spdx_id("Program", program.name),
        "name": program.name,
        "versionInfo": version.group(1) if version else "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "checksums": [
            {
                "algorithm": "SHA256",
                "checksumValue": hashlib.sha256(program.read_bytes()).hexdigest(),
            }
        ],
    }


def bill(programs: list[pathlib.Path]) -> dict[str, object]:
    """Returns the document.

    Raises:
        LookupError: A library belongs to no package.
    """
    packages: dict[str, dict[str, object]] = {}
    relations = []
    for program in programs:
        entry = program_package(program)
        packages[program.name] = entry
        relations.append(("SPDXRef-DOCUMENT", "DESCRIBES", entry["SPDXID"]))
        needed = dict.fromkeys(packages_of(libraries_of(program)).values(), "DYNAMIC_LINK")
        needed |= {name: "STATIC_LINK" for name in HEADERS}
        for name, kind in sorted(needed.items()):
            if name not in packages:
                packages[name] = debian_package(name)
            relations.append((entry["SPDXID"], kind, packages[name]["SPDXID"]))
    # A build that sets SOURCE_DATE_EPOCH gets the same bytes again.
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", datetime.datetime.now().timestamp()))
    created = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    sums = "".join(str(packages[p.name]["checksums"]) for p in programs)
    name = hashlib.sha256(sums.encode()).hexdigest()[:32]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "mnemosyne",
        "documentNamespace": f"urn:mnemosyne:sbom:{name}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: make_sbom.py"],
        },
        "packages": list(packages.values()),
        "relationships": [
            {"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
            for a, kind, b in relations
        ],
    }


def main() -> int:
    """Writes the bill of the programs named on the command line."""
    programs = [pathlib.Path(name) for name in sys.argv[1:]]
    if not programs:
        print(__doc__, file=sys.stderr)
        return 2
    print(json.dumps(bill(programs), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
