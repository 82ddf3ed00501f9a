"""Small copies of how chat templates of families behave, in words of their own, for a tokenizer of tests.

Each keeps what decides whether a row can be trained on: where tools and their answers stand, what becomes of system
messages and of reasoning, how a prompt ends, and what raises.
"""

from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tiny_tokenizer

# Tools stand in the system turn, calls in marks, answers in turns of the user, one turn for all that stand together.
_TOOLS_AND_ANSWERS = (
    "{% macro calls(m) %}{% for c in m.tool_calls or [] %}{% set f = c.function %}{{ '\n' }}<tool_call>\n"
    '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}{% endmacro %}'
    "{% macro answer(i) %}{% if i == 0 or messages[i - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n' }}<tool_response>\n{{ messages[i].content }}\n</tool_response>"
    "{% if i + 1 == messages | length or messages[i + 1].role != 'tool' %}<|im_end|>\n{% endif %}{% endmacro %}"
)
QWEN_2_5 = (
    _TOOLS_AND_ANSWERS + "<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% else %}You help.{% endif %}{% if tools %}{{ '\n' }}\n<tools>{% for t in tools %}{{ '\n' }}{{ t | tojson }}"
    "{% endfor %}{{ '\n' }}</tools>"
    "{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{{ calls(m) }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}{{ answer(loop.index0) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning is kept behind the last question only, and the last turn has a block in any case. A switch ends prompts with
# an empty block.
QWEN_3 = (
    _TOOLS_AND_ANSWERS + "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% if tools or messages[0].role == 'system' %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% if tools %}{{ '\n' }}\n<tools>{% for t in tools %}{{ '\n' }}{{ t | tojson }}{% endfor %}{{ '\n' }}</tools>"
    "{% endif %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' "
    "in m.content else '' %}"
    "<|im_start|>assistant\n{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "<think>\n{{ thought }}\n</think>\n\n"
    "{% endif %}{{ said }}{{ calls(m) if said else calls(m).lstrip('\n') }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}{{ answer(loop.index0) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# Dates the prompt, shows tools in the first turn of the user, one call a turn without text beside it.
LLAMA_3 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "<|head|>system<|/head|>\n\nToday: {{ date_string }}\n\n{{ system }}<|eot|>"
    "{% for m in rest %}{% if m.role == 'tool' %}<|head|>ipython<|/head|>\n\n{{ m.content | tojson }}<|eot|>"
    "{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}{{ raise_exception('One call only') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}<|head|>assistant<|/head|>\n\n"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|eot|>'
    "{% else %}<|head|>{{ m.role }}<|/head|>\n\n{% if tools and loop.first %}Functions:\n{% for t in tools %}"
    "{{ t | tojson(indent=4) }}\n\n{% endfor %}{% endif %}{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
# Has no system turn: its text goes before the first question. Roles alternate, and no tool is known.
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "<|turn|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}{{"
    " m.content | trim }}"
    "<|eot|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)
# A system turn in any case, with the mode of thinking, which a flag in the system message sets as well.
SMOLLM_3 = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set mode = namespace(think=enable_thinking, system='') %}"
    "{% if messages[0].role == 'system' %}{% set mode.system = messages[0].content.replace('/no_think', '').rstrip() %}"
    "{% if '/no_think' in messages[0].content %}{% set mode.think = false %}{% endif %}{% endif %}"
    "<|im_start|>system\nReasoning: {{ 'on' if mode.think else 'off' }}\n\n{{ mode.system }}"
    "{% if xml_tools or tools %}{{ '\n' }}\n{% for t in xml_tools or tools %}{{ t | string }}\n{% endfor %}"
    "{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{% if not mode.think %}<think>\n\n</think>\n{% endif %}"
    "{{ m.content.lstrip('\n') }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not mode.think %}<think>\n\n</think>\n{% endif %}"
    "{% endif %}"
)
# Names functions in the system turn, writes calls like code, and opens the reasoning at the end of a prompt.
OLMO_3_THINK = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.{% if tools %}<functions>{{ tools | tojson }}"
    "</functions>{% endif %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system\n{{ m.content }}{% if tools %}<functions>"
    "{{ tools | tojson }}</functions>{% endif %}<|im_end|>\n{% elif m.role == 'tool' %}<|im_start|>environment\n"
    "{{ m.content }}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}<function_calls>"
    "{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}="
    "{{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}</function_calls>"
    "{% endif %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
# Calls begin with a special token; their ids have nine letters and digits; the sampler stops at end of sequence.
MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.role == 'tool' %}"
    '[TOOL_RESULTS]{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
    "{{ raise_exception('Ids have 9 letters or digits') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}{% else %} {{ m.content }}{{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
)
# Concatenates the arguments, which therefore have to be text.
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}"
    "<|Assistant|>{{ m.content.split('</think>')[-1] }}{% for c in m.tool_calls or [] %}"
    "{{ '<call>' + c['function']['name'] + '\n' + c['function']['arguments'] + '</call>' }}{% endfor %}<|im_end|>"
    "{% elif m.role == 'tool' %}<result>{{ m.content }}</result>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
# A call has an end of its own, at which the sampler stops as well.
GPT_OSS = (
    "<|start|>system<|message|>{% if tools %}{{ tools | tojson }}{% endif %}<|end|>"
    "{% for m in messages %}{% if m.tool_calls %}<|start|>assistant to={{ m.tool_calls[0].function.name }}<|message|>"
    "{{ m.tool_calls[0].function.arguments | tojson }}<|call|>{% elif m.role == 'assistant' %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

SPECIAL = ["<|head|>", "<|/head|>", "<|eot|>", "<|turn|>", "<|start|>", "<|channel|>", "<|message|>"]
SPECIAL += ["<|return|>", "<|end|>", "<|call|>", "<|User|>", "<|Assistant|>", "[TOOL_CALLS]"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # tokens of their own, but not special
STOPS = ["<|eot|>", "<|return|>", "<|call|>"]


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(MARKS)
    tokenizer.chat_template = template
    return tokenizer
