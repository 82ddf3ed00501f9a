"""A tokenizer's chat template: what it reads, what it shows of a conversation, and the text it makes of one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sdft_ray.config.given_template import template_name
from sdft_ray.conversation import Message, ToolCall
from sdft_ray.data.chat_sandbox import EXTENSIONS, compiled_chat, plain_jinja
from sdft_ray.errors import ConfigError, ModelError, first_line

# What a Jinja template can raise while it renders: its own faults, and those of the expressions in it.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    MemoryError,
    SyntaxError,  # of the Python that Jinja makes of it, as for a break outside of any loop
)

_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
_KEY, _VALUE = "qzkey", "qzvalue"  # of the arguments of a call that is made up to see how it is shown


class ChatTemplate:
    """Renders conversations with one tokenizer's chat template and its switches."""

    def __init__(self, tokenizer: Any, switches: Mapping[str, Any], key: str):
        """Refuses a switch that the template never reads.

        Args:
            tokenizer: a transformers tokenizer with a chat template.
            switches: values of variables of the template, besides those that every rendering gives it.
            key: the setting that they come from.

        Raises:
            ConfigError: names the switch.
            ModelError: the tokenizer has no chat template.
        """
        self._tokenizer = tokenizer
        self.name = template_name(tokenizer)
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; set model.chat_template, "
                "or take the instruct version of the model."
            )
        self._switches = dict(switches)
        self._left_out: dict[tuple[Any, ...], str] = {}
        for name in self._switches:
            if name not in self.variables:
                known = ", ".join(sorted(self.variables - _GIVEN - set(tokenizer.special_tokens_map))) or "none"
                problem = f"the chat template of {self.name} reads no variable of that name"
                raise ConfigError(f"{key}.{name}", switches[name], problem, f"remove it; the template reads {known}")

    @cached_property
    def variables(self) -> frozenset[str]:
        """What the template reads from outside, set by a rendering or not.

        Raises:
            ModelError: it is no Jinja template.
        """
        template = self._tokenizer.chat_template
        sources = template.values() if isinstance(template, Mapping) else [template]
        environment = ImmutableSandboxedEnvironment(extensions=EXTENSIONS)
        try:
            trees = [environment.parse(plain_jinja(source)) for source in sources]
        except TEMPLATE_FAULTS as error:
            problem = f"the chat template of {self.name} is no Jinja template ({first_line(error)})"
            raise ModelError(f"{problem}; replace it by model.chat_template.") from error
        return frozenset(name for tree in trees for name in _free_variables(tree))

    def render(self, messages: Sequence[Message], tools: str = "", *, add_generation_prompt: bool) -> str:
        """The text of a conversation, without tokens that an encoder would add.

        Raises:
            ModelError: the template fails on it.
        """
        try:
            return self._apply(messages, tools, add_generation_prompt, as_text=self._takes_text(messages))
        except TEMPLATE_FAULTS as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"the chat template of {self.name} cannot render turns of {roles} ({first_line(error)}); "
                "change data.system or teacher.template, or replace it by model.chat_template."
            ) from error

    def left_out(self, messages: Sequence[Message], tools: str = "") -> str:
        """What the template leaves out of a conversation of such turns; "" where it shows all.

        Every turn, call and tool is replaced by a mark to look for, so it does not matter what a real one says.

        Raises:
            ModelError: as `render`.
        """
        shape = (bool(tools), *((turn.role, bool(turn.content), len(turn.tool_calls)) for turn in messages))
        if shape not in self._left_out:
            self._left_out[shape] = self._find_left_out(messages, bool(tools))
        return self._left_out[shape]

    def _find_left_out(self, messages: Sequence[Message], has_tools: bool) -> str:
        marked = list(_marked(messages))
        schema = {"name": "qztoolzq", "description": "A tool.", "parameters": {"type": "object", "properties": {}}}
        tools = json.dumps([{"type": "function", "function": schema}]) if has_tools else ""
        rendered = self.render(marked, tools, add_generation_prompt=True)
        if has_tools and "qztoolzq" not in rendered:
            return "the tools of the row"
        for turn in marked:
            if turn.content not in rendered:
                return f"a turn of the {turn.role}" if not turn.tool_calls else "the text beside tool_calls"
            if not all(call.name in rendered and f"{call.name}{_VALUE}" in rendered for call in turn.tool_calls):
                return f"the tool_calls of a turn of the {turn.role}"
        return ""

    def _takes_text(self, messages: Sequence[Message]) -> bool:
        return any(message.tool_calls for message in messages) and self._prints_arguments

    @cached_property
    def _prints_arguments(self) -> bool:
        """True when the template prints arguments as they are, so that it has to be given their JSON text.

        Such a template fails on an object, or prints it in Python's form.
        """
        call = ToolCall(name="f", arguments=json.dumps({_KEY: _VALUE}), call_id="qz0000000")
        probe = (Message(role="user", content="A."), Message(role="assistant", content="", tool_calls=(call,)))
        try:
            shown = self._apply(probe, "", False, as_text=False)
        except TEMPLATE_FAULTS:
            return True
        return f"'{_KEY}'" in shown

    def _apply(self, messages: Sequence[Message], tools: str, add_generation_prompt: bool, *, as_text: bool) -> str:
        # The template writes BOS where the model wants one, so encoding adds none.
        parsed = _parsed(tools) if tools else None
        values = {
            "messages": [_as_turn(message, as_text=as_text) for message in messages],
            "tools": parsed,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        template = compiled_chat(self._tokenizer.get_chat_template(None, parsed))
        return template(self._tokenizer.special_tokens_map | self._switches | values)


def _free_variables(tree: nodes.Template) -> set[str]:
    """What a template reads from outside. Jinja counts names that it sets in a branch before it reads them as well.

    Those that it also asks about, whether they are defined, have a default and can be set from outside.
    """
    its_own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    tests = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    defaults = (each.node for each in tree.find_all(nodes.Filter) if each.name in ("default", "d"))
    asked_about = {node.name for node in (*tests, *defaults) if isinstance(node, nodes.Name)}
    return find_undeclared_variables(tree) - (its_own - asked_about)


@lru_cache(maxsize=64)
def _parsed(tools: str) -> Any:
    """The value of a JSON text; many rows have the same tools."""
    return json.loads(tools)


def _as_turn(message: Message, *, as_text: bool) -> dict[str, Any]:
    """A turn as chat templates read it: a key that says nothing is absent, since templates ask whether it is there."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": _arguments(call, as_text)}}
            | ({"id": call.call_id} if call.call_id else {})
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn


def _arguments(call: ToolCall, as_text: bool) -> Any:
    return call.arguments if as_text else json.loads(call.arguments)


def _marked(messages: Iterable[Message]) -> Iterable[Message]:
    """The turns with marks for their texts and calls; ids have nine characters, as one family asks for."""
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        names = [f"qz{index}n{number}zq" for number, _ in enumerate(message.tool_calls)]
        ids = [f"qz{index:04d}{number:03d}" for number, _ in enumerate(names)]
        open_ids = [*ids, *(open_ids if message.role == "tool" else [])]
        yield Message(
            role=message.role,
            content=f"qz{index}zq" if message.content else "",
            tool_calls=tuple(
                ToolCall(name=name, arguments=json.dumps({_KEY: f"{name}{_VALUE}"}), call_id=call_id)
                for name, call_id in zip(names, ids, strict=True)
            ),
            tool_call_id=open_ids.pop(0) if message.role == "tool" and open_ids else "",
            name=message.name,
        )
