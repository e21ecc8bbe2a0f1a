"""Renders every chat template as Hugging Face's `apply_chat_template` does, for `tests/templates.rs`.

    python render.py FOLDER_OF_TEMPLATES

It needs the `jinja2` package, and writes `expected.json.gz` beside itself.
"""

import datetime
import gzip
import json
import pathlib
import sys

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 2, 3, 4, 5, 6)


class Generation(Extension):
    """`{% generation %}`, which marks what the model says."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(sandbox=ImmutableSandboxedEnvironment):
    env = sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def adapted(message, arguments_as_text, empty_content, joined_parts):
    """The message in another form that templates may want."""
    message = json.loads(json.dumps(message))
    for call in message.get("tool_calls", []) if arguments_as_text else []:
        call["function"]["arguments"] = tojson(call["function"]["arguments"])
    if empty_content and message["content"] is None:
        message["content"] = ""
    if joined_parts and isinstance(message["content"], list):
        message["content"] = "\n".join(part["text"] for part in message["content"])
    return message


def takes_parts(template):
    probe = {"messages": [], "tools": None, "add_generation_prompt": False, "extra": {}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
    text = render_messages(template, messages, probe, {}).get("text", "")
    return "probe" in text and "'probe'" not in text and '"probe"' not in text


def render(template, conversation, tools):
    joined = not takes_parts(template)
    results = []
    for empty in False, True:
        for as_text in False, True:
            messages = [adapted(message, as_text, empty, joined) for message in conversation["messages"]]
            result = render_messages(template, messages, conversation, tools)
            if "failed" not in result:
                return result
            results.append(result)
    return results[0]


def render_messages(template, messages, conversation, tools):
    try:
        text = template.render(
            messages=messages,
            tools=tools.get(conversation["tools"]),
            documents=None,
            add_generation_prompt=conversation["add_generation_prompt"],
            bos_token="<s>",
            eos_token="</s>",
            **conversation["extra"],
        )
        return {"text": text}
    except Raised as raised:
        return {"raised": str(raised)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main():
    conversations = json.loads((HERE / "conversations.json").read_text())
    tools = json.loads((HERE / "tools.json").read_text())
    expected = {}
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        template = environment().from_string(file.read_text())
        results = {
            name: render(template, conversation, tools) for name, conversation in conversations.items()
        }
        if any("SecurityError" in result.get("failed", "") for result in results.values()):
            # Changes lists, which Hugging Face's sandbox forbids.
            template = environment(SandboxedEnvironment).from_string(file.read_text())
            results = {
                name: render(template, conversation, tools)
                for name, conversation in conversations.items()
            }
        expected[file.stem] = results
    out = json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    (HERE / "expected.json.gz").write_bytes(gzip.compress(out.encode(), 9, mtime=0))
    kinds = [kind for results in expected.values() for result in results.values() for kind in result]
    print({kind: kinds.count(kind) for kind in set(kinds)})


main()
