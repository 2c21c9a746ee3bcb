"""What a cached baseline depends on: the code that a task runs, its data, and the search.

The code is the source of every function of this package that the task's loss, batches and initial
parameters reach, with the values that they close over; comments and docstrings do not count, nor
does the version of JAX.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from types import CodeType
from typing import Any

from mnemosyne_metatrain.data.cache import data_folder, read_manifest
from mnemosyne_metatrain.evaluation import rules
from mnemosyne_metatrain.evaluation.grid import Grid
from mnemosyne_metatrain.suite.nets import Declaration
from mnemosyne_metatrain.suite.task import SuiteTask

_PACKAGE = "mnemosyne_metatrain"


def task_fingerprint(task: SuiteTask, grid: Grid, seeds: int) -> str:
    """A hash of all that a baseline's losses depend on."""
    seen: dict[int, Any] = {}
    functions = (
        task.compute_loss,
        task.draw_batch,
        task.make_data,
        task.initial,
        task.fixed,
        type(task).held_out,
        type(task.declaration).init,
        rules.rule_step,
    )
    parts = sorted({part for function in functions for part in _parts(function, seen)})
    parts.append(repr([(s.name, s.shape) for s in task.specs]))
    parts.append(repr(task.declaration.scales))
    parts.append(repr((grid, seeds)))
    datasets = read_manifest(data_folder())["datasets"]
    parts.append(repr(sorted((name, d.get("sha256")) for name, d in datasets.items())))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Sources of a function and of what it reaches, and reprs of plain values."""
    if isinstance(value, functools.partial):
        yield from _parts(value.func, seen)
        for argument in (*value.args, *value.keywords.values()):
            yield from _parts(argument, seen)
        return
    if isinstance(value, bool | int | float | str | tuple | None):
        yield repr(value)
        return
    if isinstance(value, SuiteTask):
        for inner in (value.compute_loss, value.draw_batch, value.make_data, value.initial):
            yield from _parts(inner, seen)
        return
    if isinstance(value, Declaration) or id(value) in seen:
        return
    seen[id(value)] = value
    plain = inspect.unwrap(value) if callable(value) else value
    if not getattr(plain, "__module__", "").startswith(_PACKAGE):
        return
    if inspect.isclass(plain):
        yield _source(plain)
    elif inspect.isfunction(plain):
        yield _source(plain)
        for cell in plain.__closure__ or ():
            yield from _parts(cell.cell_contents, seen)
        for name in sorted(_names(plain.__code__)):
            if name in plain.__globals__:
                yield from _parts(plain.__globals__[name], seen)


def _names(code: CodeType) -> set[str]:
    """Global names that a function's code mentions, inner functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _source(value: Any) -> str:
    """Source without comments and docstrings, with every space and line end as one space.

    It is cut from the text, because what `ast` writes differs between versions of Python.
    """
    text = textwrap.dedent(inspect.getsource(value))
    lines = text.splitlines(keepends=True)
    try:
        tree = ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, tokenize.TokenError):
        return " ".join(text.split())
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            docstring = node.body[0]
            for row in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                lines[row] = "\n"
    return " ".join("".join(lines).split())
