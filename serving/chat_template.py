"""A chat as the text that its model was trained on: the template that came with the model, or a plain one.

Templates are Jinja programs from outside. They run as transformers runs them: sandboxed, with `raise_exception`,
`strftime_now`, `tojson` and the `generation` block.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import ArtifactRefused, InvalidInput

# For base models, which know no turns: a transcript that ends where the answer begins.
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
# For encoder-decoders, whose prompt is not continued but answered: what was said, a message a line.
SOURCE = "{{ messages | map(attribute='content') | join('\n') }}"


class GenerationBlock(Extension):
    """`{% generation %}` marks answers for training; here it is only what it holds."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        """The nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Renders chats. `plain`: the model brought no template, so its prompts are ordinary text."""

    def __init__(self, source: str | None, tokens: Mapping[str, str], *, plain: str = PLAIN) -> None:
        """`tokens`: the special tokens that templates may name (bos_token, eos_token). `plain`: what stands in for a
        template that there is not. Raises ArtifactRefused."""
        self.plain = source is None
        self._tokens = tokens
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(plain if source is None else source)
        except TemplateError as error:
            raise ArtifactRefused(
                f"The chat template cannot be read: {error}. Publish the model with another."
            ) from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the next answer continues. Raises InvalidInput for what the template does not take."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, tools=None, **self._tokens)
        except Exception as error:  # whatever a program from outside makes of messages from outside
            raise InvalidInput(
                f"The model's chat template refuses these messages: {error}.", param="messages"
            ) from None


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own escapes for HTML, which prompts are not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
