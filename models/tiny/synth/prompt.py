"""Gemma 4's chat format for the shapes of conversation that the tiny model is trained on.

In:  tool declarations, turns, answers.
Out: prompt text that equals what the published template renders.
Invariant: `<|image|>` and `<|audio|>` stand for all soft tokens of one medium.
"""

import json
from pathlib import Path

TOOLS = json.loads((Path(__file__).parent.parent / "tools.json").read_text())
Q = '<|"|>'


def value(v):
    """One argument in tool syntax."""
    if isinstance(v, bool):
        return "true" if v else "false"
    return f"{Q}{v}{Q}" if isinstance(v, str) else str(v)


def fields(args):
    return "{" + ",".join(f"{k}:{value(args[k])}" for k in sorted(args)) + "}"


def call(name, args):
    """A call as the model writes it, up to where it waits for the tool."""
    return f"<|tool_call>call:{name}{fields(args)}<tool_call|><|tool_response>"


def response(name, args):
    """What the program appends after `call`."""
    return f"response:{name}{fields(args)}<tool_response|>"


def declaration(tool):
    """One tool declaration (spec: keys sorted, types in capitals)."""
    f = tool["function"]
    p = f["parameters"]
    body = ""
    if p["properties"]:
        kinds = sorted(p["properties"].items())
        body = ",".join(f"{k}:{{type:{Q}{s['type'].upper()}{Q}}}" for k, s in kinds)
        body = f"properties:{{{body}}},"
    if p.get("required"):
        body += "required:[" + ",".join(Q + k + Q for k in p["required"]) + "],"
    return (
        f"<|tool>declaration:{f['name']}{{description:{Q}{f['description']}{Q},"
        f"parameters:{{{body}type:{Q}OBJECT{Q}}}}}<tool|>"
    )


DECLARATION = {t["function"]["name"]: declaration(t) for t in TOOLS}


def system(names, text=""):
    """The system turn, or nothing."""
    if not names and not text:
        return ""
    return f"<|turn>system\n{text}{''.join(DECLARATION[n] for n in names)}<turn|>\n"


def user(text):
    """A user's turn and the opening of the model's."""
    return f"<|turn>user\n{text}<turn|>\n<|turn>model\n"


def full(names, text, answer="", system_text=""):
    """One-turn conversation."""
    return "<bos>" + system(names, system_text) + user(text) + answer
