"""Chat templates of our own, for models that come without one that has room for tools.

Both write ChatML turns, tool calls as Hermes JSON in `<tool_call>` tags and tool outputs in `<tool_response>` tags, as Qwen's
templates do; they differ in how they lay out the tools. A template that a model brings along is always preferred.
"""

from __future__ import annotations

_MESSAGES = """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '<|im_start|>user\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' -%}
{{ '<|im_start|>assistant\\n' ~ (message.content or '') }}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{{ '\\n' if message.content or not loop.first }}{{ '<tool_call>\\n{"name": ' ~ (function.name | tojson) ~ ', "arguments": ' ~ (function.arguments if function.arguments is string else function.arguments | tojson) ~ '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' -%}
{{ '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
{{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt }}"""

TINY_TEMPLATE = (
    """\
{%- macro signature(function) -%}
{%- set parameters = function.parameters or {} -%}
{%- set required = parameters.required or [] -%}
{"name": {{ function.name | tojson }}, "parameters": {
{%- for name, schema in (parameters.properties or {}).items() -%}
{{ (name if name in required else name ~ '?') | tojson }}: {{ (schema.enum if schema.enum else schema.type or 'any') | tojson }}{{ ', ' if not loop.last }}
{%- endfor -%}
}, "description": {{ function.description | tojson }}}
{%- endmacro -%}
{%- if tools -%}
{{ '<|im_start|>system\\n' }}{%- if messages and messages[0].role == 'system' -%}{{ messages[0].content ~ '\\n' }}{%- endif -%}
{{ '<tools>\\n' }}{%- for tool in tools -%}{{ signature(tool.function if tool.function is defined else tool) ~ '\\n' }}{%- endfor -%}
{{ '</tools><|im_end|>\\n' }}
{%- elif messages and messages[0].role == 'system' -%}
{{ '<|im_start|>system\\n' ~ messages[0].content ~ '<|im_end|>\\n' }}
{%- endif -%}
"""
    + _MESSAGES
)
"""For the tiny policy: a tool is one short JSON line (name, parameter names with type or enum, description)."""

CHATML_TEMPLATE = (
    """\
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{{ '<|im_start|>system\\n' ~ (system or ('' if tools else 'You are a helpful assistant.')) }}
{%- if tools -%}
{{ ('\\n\\n' if system) ~ 'You can call these tools; each line describes one, with its parameters as JSON Schema.\\n<tools>\\n' }}
{%- for tool in tools -%}{{ (tool | tojson) ~ '\\n' }}{%- endfor -%}
{{ '</tools>\\nCall a tool by writing:\\n<tool_call>\\n{"name": <tool>, "arguments": <object>}\\n</tool_call>\\n' }}
{{- 'Several calls may stand in one turn. When you know the answer, say it without a call.' }}
{%- endif -%}
{{ '<|im_end|>\\n' }}
"""
    + _MESSAGES
)
"""For instruction-tuned ChatML models whose own template leaves tools out, such as SmolLM2-Instruct."""
