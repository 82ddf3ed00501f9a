"""The errors that the package raises, as their messages stand in the code: `...` where a value comes in."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdft_ray"
VALUE = "…"
OWN_WORDS = re.compile(r"[\w']{4,}(?!\w*=)|\w+ \w+")  # more than a key with its sign
SHAPED = {"ConfigError", "DataError"}  # whose message is key or row, problem, and remedy
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | Function


class Raised(NamedTuple):
    """One place that makes an error."""

    kind: str  # the error's class
    place: str  # FILE:LINE
    arguments: tuple[tuple[str, ...], ...]  # of each argument what it may be, values as `…`

    @property
    def messages(self) -> set[str]:
        """What is wrong, as the code says it; a message that only passes on another's words is none."""
        problem = {"ConfigError": -2, "DataError": -2}.get(self.kind, 0)
        return {text for text in self.arguments[problem] if any(map(OWN_WORDS.search, text.split(VALUE)))}


@cache
def modules() -> dict[str, ast.Module]:
    """The package's modules that say anything of errors, by path from the root."""
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: ast.parse(source) for name, source in sources.items() if "Error" in source or "raise " in source}


def errors() -> set[str]:
    """The names of all classes of errors that a user can mend."""
    classes = [node for module in modules().values() for node in module.body if isinstance(node, ast.ClassDef)]
    found: set[str] = set()
    more = {"SdftError"}
    while more:
        found |= more
        more = {node.name for node in classes if {ast.unparse(base) for base in node.bases} & found} - found
    return found


def raised() -> Iterator[Raised]:
    """Every place of the package that makes such an error."""
    kinds = errors()
    for name, module in modules().items():
        shared = _assigned(module)
        for scope in [module, *(node for node in ast.walk(module) if isinstance(node, Function))]:
            calls = [node for node in _own(scope) if isinstance(node, ast.Call) and node.args]
            if made := [call for call in calls if ast.unparse(call.func) in kinds]:
                known = shared | _assigned(scope)
                for call in made:
                    arguments = tuple(_texts(argument, known) for argument in call.args)
                    yield Raised(ast.unparse(call.func), f"{name}:{call.lineno}", arguments)
        for node in module.body:
            if isinstance(node, ast.ClassDef) and node.name in kinds - SHAPED:
                yield from _by_their_class(node, f"{name}:{node.lineno}")


def _by_their_class(own: ast.ClassDef, place: str) -> Iterator[Raised]:
    """What a class of errors that writes its message itself writes."""
    for call in ast.walk(own):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__" and call.args:
            yield Raised(own.name, place, tuple(_texts(argument, {}) for argument in call.args))


def _own(scope: Scope) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions in it."""
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting += ast.iter_child_nodes(node)


def _assigned(scope: Scope) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in _own(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for name, value in zip(target.elts, node.value.elts, strict=False):
                        found.setdefault(ast.unparse(name), []).append(value)
    return found


def _texts(node: ast.expr, known: dict[str, list[ast.expr]], depth: int = 0) -> tuple[str, ...]:
    """What an expression may be as a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.IfExp):
        return _texts(node.body, known, depth) + _texts(node.orelse, known, depth)
    if isinstance(node, ast.Name) and node.id in known and depth < 3:
        return tuple(text for value in known[node.id] for text in _texts(value, known, depth + 1))
    if isinstance(node, ast.JoinedStr):
        parts = [
            _texts(part.value, known, depth)
            if isinstance(part, ast.FormattedValue)
            else (str(getattr(part, "value", "")),)
            for part in node.values
        ]
        return tuple("".join(pieces) for pieces in product(*parts))
    return (VALUE,)
