"""Chat templates render as transformers renders them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from runtime.errors import ArtifactRefused, InvalidInput
from serving.chat_template import ChatTemplate

pytestmark = pytest.mark.unit
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": 'Be <brief> & "kind".'},
    {"role": "user", "content": "Ünï\n"},
    {"role": "assistant", "content": " yes "},
    {"role": "user", "content": "Go"},
]
TEMPLATES = {
    "chatml": """{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{% endif %}""",
    "llama": """{{ bos_token }}{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
[{{ m.role | upper }}] {{ m.content | trim }}{{ eos_token if m.role == 'assistant' }}
{% endfor %}""",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "tools": "{% if tools %}tools{% else %}none{% endif %}{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_like_transformers(name: str) -> None:
    source = TEMPLATES[name]
    expected: Any = render_jinja_template(
        conversations=[CHAT], chat_template=source, add_generation_prompt=True, **TOKENS
    )[0][0]
    template = ChatTemplate(source, TOKENS)
    assert template.render(CHAT) == expected
    assert not template.plain


def test_a_base_model_gets_a_transcript() -> None:
    template = ChatTemplate(None, {})
    assert template.plain
    assert template.render(CHAT[1:2]) == "user: Ünï\n\nassistant:"


def test_what_a_template_refuses_is_the_callers_fault() -> None:
    source = "{{ raise_exception('roles must alternate') if messages|length > 1 }}{{ messages[0].content }}"
    template = ChatTemplate(source, {})
    assert template.render(CHAT[:1]) == CHAT[0]["content"]
    with pytest.raises(InvalidInput, match="roles must alternate") as refused:
        template.render(CHAT)
    assert refused.value.param == "messages"


def test_a_template_reaches_nothing_outside() -> None:
    for source in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% include '/etc/passwd' %}"):
        with pytest.raises(InvalidInput):
            ChatTemplate(source, {}).render(CHAT)


def test_a_template_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ArtifactRefused, match="chat template"):
        ChatTemplate("{% for %}", {})
