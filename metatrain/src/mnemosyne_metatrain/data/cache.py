"""The cache of datasets: one npz file each, and a manifest with their SHA-256.

Programs read arrays from here and from nowhere else, so that a cache that is carried to another
machine gives the same data there, whatever versions of Python and of packages that machine has. A
cache that is absent is made on the spot from packages; nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.sources import SOURCES, Absent

Arrays = dict[str, NDArray[Any]]
Manifest = dict[str, Any]

FORMAT = 1
_MANIFEST = "manifest.json"


def data_folder() -> Path:
    """The cache's folder: MNEMOSYNE_DATA, or one in the user's cache."""
    default = Path.home() / ".cache" / "mnemosyne" / "data"
    return Path(os.environ.get("MNEMOSYNE_DATA", default))


def prepare(folder: Path) -> Manifest:
    """Makes every dataset and writes the manifest last, so that a torn cache is made again.

    Args:
        folder: Where to; made if it is not there.

    Returns:
        The manifest: for each dataset its file, SHA-256, bytes, and the package it comes from; or
        why it is absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    datasets: dict[str, Any] = {}
    for name, source in SOURCES.items():
        try:
            arrays = source.make()
        except Absent as reason:
            datasets[name] = {"absent": str(reason)}
            continue
        path = folder / f"{name}.npz"
        draft = folder / f"{name}.{os.getpid()}.draft"
        with draft.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        draft.replace(path)
        datasets[name] = {
            "file": path.name,
            "sha256": _digest(path),
            "bytes": path.stat().st_size,
            "from": source.package_and_version(),
            "used_for": source.used_for,
        }
    manifest = {"format": FORMAT, "datasets": datasets}
    draft = folder / f"{_MANIFEST}.{os.getpid()}.draft"
    draft.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    draft.replace(folder / _MANIFEST)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache, which is made first if it is absent or of another format."""
    path = folder / _MANIFEST
    if path.exists():
        manifest: Manifest = json.loads(path.read_text())
        known = manifest.get("datasets", {})
        if manifest.get("format") == FORMAT and set(SOURCES) <= set(known):
            return manifest
    return prepare(folder)


def dataset_digest(name: str) -> str:
    """SHA-256 of a dataset's file, as the manifest has it; "" if the dataset is absent."""
    entry = read_manifest(data_folder())["datasets"][name]
    return str(entry.get("sha256", ""))


def load_arrays(name: str) -> Arrays:
    """Reads a dataset, checked against the manifest once in a process.

    Raises:
        FileNotFoundError: If the package that the dataset comes from was not installed.
        ValueError: If the file is not the one that the manifest describes.
    """
    return _load(name, data_folder())


@cache
def _load(name: str, folder: Path) -> Arrays:
    entry = read_manifest(folder)["datasets"][name]
    if "absent" in entry:
        raise FileNotFoundError(f"dataset {name} is not in {folder}: {entry['absent']}")
    path = folder / entry["file"]
    if not path.exists() or _digest(path) != entry["sha256"]:
        raise ValueError(f"{path} is not the file of the manifest: prepare the data again")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
