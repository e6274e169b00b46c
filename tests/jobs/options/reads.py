"""Which options the code of a job reads, found in its source.

Starts at a function that is given the job's options, follows every function and class of the project that is named in
it, and resolves chains such as ``config.sampling.num_steps`` by the annotations of parameters. Unpacking a section into
a constructor (``Settings(**config.learner.model_dump())``) reads all of it, as constructors refuse unknown names.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from actors.options.schema import Options

Reads = set[tuple[type, str]]
"""Classes of options, or protocols of sections, each with the name of an attribute that is read."""


def option_reads(start: Any) -> Reads:
    """What ``start`` and all that it reaches reads."""
    reads: Reads = set()
    waiting, seen = [(start, None)], set[Any]()
    while waiting:
        thing, owner = waiting.pop()
        if thing in seen:
            continue
        seen.add(thing)
        if inspect.isclass(thing):
            members = [getattr(member, "fget", getattr(member, "__func__", member)) for member in vars(thing).values()]
            waiting += [(member, thing) for member in members if inspect.isfunction(member)]
            continue
        function = inspect.unwrap(thing)
        # Not the methods that dataclasses generate.
        if function.__code__.co_filename.endswith(".py"):
            tree = _source(function)
            reads |= _reads(tree, {**_hints(function), **({"self": owner} if owner else {})})
            waiting += [(named, None) for named in _named(tree, function.__globals__)]
    return reads


def _source(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _named(tree: ast.AST, names: Mapping[str, Any]) -> Iterator[Any]:
    """The project's functions and classes that a function names, imports inside of it included."""
    imported = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in ast.walk(tree):
        thing = {**names, **imported}.get(node.id) if isinstance(node, ast.Name) else None
        is_followed = inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, Options))
        if is_followed and thing.__module__.partition(".")[0] in ("actors", "jobs"):
            yield thing


def _reads(tree: ast.AST, types: dict[str, Any]) -> Reads:
    """What one function reads; ``types`` are the classes of its parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            types |= _assigned(node.targets[0], node.value, types)
    reads: Reads = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(kind := _type(node.value, types), type):
            reads.add((kind, node.attr))
            if issubclass(kind, Options) and isinstance(found := getattr(kind, node.attr, None), property):
                reads |= _reads(_source(found.fget), {"self": kind})
        if isinstance(node, ast.keyword) and node.arg is None and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr == "model_dump":
                kind = _type(called.value, types)
                reads |= {(kind, name) for name in getattr(kind, "model_fields", ())}
    return reads


def _assigned(target: ast.AST, value: ast.AST, types: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of the variables that an assignment sets."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = [_assigned(*pair, types) for pair in zip(target.elts, value.elts, strict=True)]
        return {name: kind for pair in pairs for name, kind in pair.items()}
    kind = _type(value, types)
    return {target.id: kind} if isinstance(target, ast.Name) and kind else {}


def _type(expression: ast.AST, types: Mapping[str, Any]) -> Any:
    """The class of a name or of a chain of attributes; None if it is unknown."""
    if isinstance(expression, ast.Name):
        return types.get(expression.id)
    if isinstance(expression, ast.Attribute) and (owner := _type(expression.value, types)):
        return _hints(owner).get(expression.attr) or _hints(owner.__init__).get(expression.attr)
    return None


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return get_type_hints(thing) if inspect.isclass(thing) or inspect.isfunction(thing) else {}
    except NameError:  # an annotation that is imported for type checkers only
        return {}
