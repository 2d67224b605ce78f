"""Chat templates for models whose own template does not support tools.

Both write ChatML turns, tool calls as Hermes JSON in `<tool_call>` tags and tool outputs in `<tool_response>` tags, as
Qwen's templates do. They differ in the format of the tools. A model's own template with tool support takes precedence.
"""

from __future__ import annotations


def _messages(before_content: str, opened: str) -> str:
    """The part after the tools. `before_content`: start of an assistant's turn; `opened`: text after its opening."""
    return (
        """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '<|im_start|>user\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' -%}
{{ '<|im_start|>assistant\\n' }}"""
        + before_content
        + """\
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{{ '\\n' if message.content or not loop.first }}{{ '<tool_call>\\n{"name": ' ~ (function.name | tojson) ~ \
', "arguments": ' ~ (function.arguments if function.arguments is string else function.arguments | tojson) ~ \
'}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' -%}
{{ '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
{{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt }}"""
        + opened
    )


EMPTY_THINKING = "<think>\n\n</think>\n\n"
_EMPTY = r"<think>\n\n</think>\n\n"
# Turns since the last question keep their thinking, or the empty block if thinking is off. A longer conversation
# therefore only appends text.
_THINKING_OF_A_TURN = (
    "{%- if loop.index0 > asked.last and message.reasoning_content -%}"
    r"{{ '<think>\n' ~ message.reasoning_content.strip() ~ '\n</think>\n\n' }}"
    "{%- elif loop.index0 > asked.last and plain -%}"
    "{{ '" + _EMPTY + "' }}"
    "{%- endif -%}\n"
)

TINY_TEMPLATE = """\
{%- set plain = enable_thinking is defined and not enable_thinking -%}
{%- set asked = namespace(last=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set asked.last = loop.index0 -%}\
{%- endif -%}{%- endfor -%}
{%- macro signature(function) -%}
{%- set parameters = function.parameters or {} -%}
{%- set required = parameters.required or [] -%}
{"name": {{ function.name | tojson }}, "parameters": {
{%- for name, schema in (parameters.properties or {}).items() -%}
{{ (name if name in required else name ~ '?') | tojson }}: \
{{ (schema.enum if schema.enum else schema.type or 'any') | tojson }}{{ ', ' if not loop.last }}
{%- endfor -%}
}, "description": {{ function.description | tojson }}}
{%- endmacro -%}
{%- if tools -%}
{{ '<|im_start|>system\\n' }}{%- if messages and messages[0].role == 'system' -%}\
{{ messages[0].content ~ '\\n' }}{%- endif -%}
{{ '<tools>\\n' }}{%- for tool in tools -%}\
{{ signature(tool.function if tool.function is defined else tool) ~ '\\n' }}{%- endfor -%}
{{ '</tools><|im_end|>\\n' }}
{%- elif messages and messages[0].role == 'system' -%}
{{ '<|im_start|>system\\n' ~ messages[0].content ~ '<|im_end|>\\n' }}
{%- endif -%}
""" + _messages(_THINKING_OF_A_TURN, "{{ '" + _EMPTY + "' if add_generation_prompt and plain }}")
"""For our own policies: a tool is one short JSON line (name, parameter names with type or enum, description).

The thinking switch is Qwen3's with one exception: Qwen3 drops the empty block from earlier turns. Here it stays, as it
was when the turn was sampled."""

CHATML_TEMPLATE = """\
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{{ '<|im_start|>system\\n' ~ (system or ('' if tools else 'You are a helpful assistant.')) }}
{%- if tools -%}
{{ ('\\n\\n' if system) ~ \
'You can call these tools; each line describes one, with its parameters as JSON Schema.\\n<tools>\\n' }}
{%- for tool in tools -%}{{ (tool | tojson) ~ '\\n' }}{%- endfor -%}
{{ '</tools>\\nCall a tool by writing:\\n<tool_call>\\n{"name": <tool>, "arguments": <object>}\\n</tool_call>\\n' }}
{{- 'Several calls may stand in one turn. When you know the answer, say it without a call.' }}
{%- endif -%}
{{ '<|im_end|>\\n' }}
""" + _messages("", "")
"""For instruction-tuned ChatML models whose own template does not support tools, such as SmolLM2-Instruct."""
