"""A Jinja environment for templates of strangers: it reads the values it is given, and neither hangs nor fills memory.

Jinja's own sandbox keeps a template from attributes and calls that would leave it. What it does not bound is work: a
few nested loops run for days, and a few operators make gigabytes of a word. Here every turn of a loop, every call and
printed character and what operators and filters make is paid from one budget a rendering, and what makes much of little
is refused before it does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

LARGEST_RESULT = 1_000_000  # characters, items or bits that one operator, filter or method may make
BUDGET = 10_000_000  # of one rendering, in turns of loops, characters and items; a few seconds at most
PRICE_OF_CALL = 50
PRICE_OF_FILTER = 4  # for each character or item it is given or makes
SPENT = "spent in this rendering"  # no name that a template could write

_COUNTED, _JOINED = "counted turns", "joined texts"  # filters by names that a template cannot write
_BY_WIDTH = {"expandtabs", "indent", "tojson"}  # as large as a text times their width
_BY_TEXT = {"indent", "join", "wordwrap"}  # as large as a text times another one
_UNBOUNDED = ("lipsum", "cycler", "joiner")  # globals without a use here


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on the work of one rendering and on each result in it."""

    intercepted_binops = frozenset({"%", "*", "**", "+"})

    def __init__(self, *, allowance: int = 0, **options: Any) -> None:
        """Undefined names are errors, and text is not escaped.

        Args:
            allowance: what the budget grows by for each character and item of the values.
            options: of a Jinja environment.
        """
        super().__init__(**{"undefined": jinja2.StrictUndefined} | options, autoescape=False, finalize=_print)
        self._allowance = allowance
        for name in _UNBOUNDED:
            del self.globals[name]
        del self.filters["format"]  # the same as % on a text
        self.filters = {name: _bounded(self, name, each) for name, each in self.filters.items()}
        self.filters[_COUNTED] = _counted
        self.filters[_JOINED] = _joined

    def compile_turn(self, text: str) -> Callable[[Mapping[str, Any]], str]:
        """What renders `text` with values.

        Raises:
            jinja2.TemplateError: the text is no template; when it renders, also SecurityError: the budget is spent,
                or a result would be too large.
        """
        tree = self.parse(text)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None)
            loop.iter.set_environment(self)
        template = self.from_string(_with_joined_texts(tree, self))
        return lambda values: template.render({**values, SPENT: [-self._allowance * size_of(dict(values))]})

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Has templates call `function` as the filter `name`, bounded as all others."""
        self.filters[name] = _bounded(self, name, function)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`.

        Raises:
            jinja2.sandbox.SecurityError: the result may be too large for a prompt.
        """
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% formats a text to any width; join its parts with ~")
        if operator != "%":
            spend(context, checked_size(operator, _result_size(operator, left, right)))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function, macro or method of a template.

        Raises:
            jinja2.sandbox.SecurityError: the budget is spent, or the result would be too large.
        """
        spend(context, PRICE_OF_CALL)
        own = getattr(obj, "__self__", None)
        if isinstance(own, str | bytes | list | tuple):
            name = obj.__name__
            spend(context, checked_size(name, _growth(name, (own, *args, *kwargs.values()))))
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, range):
            spend(context, len(result))
        return result

    def wrap_str_format(self, value: Any) -> None:
        """Nothing for what is no method that formats a text.

        Raises:
            jinja2.sandbox.SecurityError: it is one, which formats to any width.
        """
        if super().wrap_str_format(value) is not None:
            raise SecurityError("format makes a text of any width; join its parts with ~")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The field of an object before the method of that name: rows name their fields as they like."""
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """True when the sandbox lets a template read an attribute; of numbers it lets none."""
        return not isinstance(obj, int | float) and super().is_safe_attribute(obj, attr, value)


def _with_joined_texts(tree: nodes.Template, environment: BoundedSandbox) -> nodes.Template:
    """The tree with every a ~ b as a filter that bounds its result."""
    for parent in [tree, *tree.find_all(nodes.Node)]:
        for field, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, field, _as_filter(value, environment))
            elif isinstance(value, list):
                value[:] = [_as_filter(each, environment) if isinstance(each, nodes.Concat) else each for each in value]
    return tree


def _as_filter(node: nodes.Concat, environment: BoundedSandbox) -> nodes.Filter:
    parts = [_as_filter(each, environment) if isinstance(each, nodes.Concat) else each for each in node.nodes]
    joined = nodes.Filter(nodes.List(parts), _JOINED, [], [], None, None)
    joined.set_environment(environment)
    return joined


def spend(context: Context, amount: int) -> None:
    """Pays from the budget of a rendering; raises `SecurityError` where that is spent."""
    spent = context[SPENT]
    spent[0] += amount
    if spent[0] > BUDGET:
        raise SecurityError(f"it takes more than {BUDGET:,} turns of loops, characters and the like")


@pass_context
def _print(context: Context, value: Any) -> str:
    """What is printed for a value, paid by the character."""
    checked_size("printing", size_of(value))
    text = str(value)
    spend(context, len(text))
    return text


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(context, 1)
        yield item


@pass_context
def _joined(context: Context, texts: list[Any]) -> str:
    spend(context, checked_size("~", size_of(texts)))
    return "".join(map(str, texts))


def _bounded(sandbox: BoundedSandbox, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at its values and is paid before it begins."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")  # what Jinja would put in front of them

    @pass_context
    def bounded(context: Context, *args: Any, **kwargs: Any) -> Any:
        args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
        spend(context, PRICE_OF_FILTER * checked_size(name, _growth(name, (*args, *kwargs.values()))))
        first = {"": (), "context": (context,), "eval_context": (context.eval_ctx,), "environment": (sandbox,)}[passed]
        return function(*first, *args, **kwargs)

    return bounded


def _growth(name: str, args: tuple[Any, ...]) -> int:
    """At most how many characters a method or filter called `name` makes of its values, the first its own."""
    own, rest = args[0], args[1:]
    width = max((abs(value) for value in rest if isinstance(value, int)), default=0)
    size, other = size_of(own), max(map(size_of, rest), default=0)
    if name in _BY_WIDTH or name in _BY_TEXT:
        return (size + 1) * max(width if name in _BY_WIDTH else 1, other if name in _BY_TEXT else 1, 1)
    if name == "replace":  # a text that is replaced by a longer one, at most everywhere
        old, new = ([len(value) for value in rest if isinstance(value, str)] + [0, 0])[:2]
        return size + max(0, new - old) * (size + 1) // max(1, old)
    return max(size, other, width)


def size_of(value: Any) -> int:
    """Characters and items in a value, nested ones as often as they would be printed; exact up to the bound."""
    if not isinstance(value, list | tuple | dict | set):
        return len(value) if hasattr(value, "__len__") else 0
    total = len(value)
    for each in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
        total += size_of(each)
        if total > LARGEST_RESULT:
            break
    return total


def checked_size(name: str, size: int) -> int:
    """The size, at least 1; raises `SecurityError` where it is beyond the bound."""
    if size > LARGEST_RESULT:
        raise SecurityError(f"{name} would make more than {LARGEST_RESULT:,} characters, items or bits")
    return max(1, size)


def _result_size(operator: str, left: Any, right: Any) -> int:
    """At most how many characters, items or bits `left operator right` has; 0 for other numbers."""
    if operator == "+":
        return size_of(left) + size_of(right)
    for value, number in ((left, right), (right, left)):
        if hasattr(value, "__len__") and isinstance(number, int):
            return size_of(value) * number
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
