"""Conversations: what is asked, with which tools declared, and what the model should answer.

In:  a seeded `random.Random`.
Out: lists of (prompt text, answer text) pairs, one pair a turn; `<|audio|>` marks speech.
Invariant: training never sees a held-out sentence.
"""

import re

from synth import prompt
from synth import world

NAMES = list(prompt.DECLARATION)
END = "<turn|>"
ASK_WORDS = [
    "Transcribe.",
    "Transcribe.",
    "Transcribe this.",
    "Write down what you hear.",
    "What did I say?",
    "Transcribe the following speech segment in English into English text.",
    "Transcribe the following speech segment in its original language.",
]
ASK_FORMAT = [
    "",
    "",
    " Only output the transcription, with no newlines.",
    "\n\nFollow these specific instructions for formatting the answer:\n"
    "* Only output the transcription, with no newlines.",
]
# Share of typed commands whose tool is not declared.
REFUSED = 0.35
NUMBER = re.compile(
    r"\b(?:(%s)(?: (%s))?|(%s))\b"
    % ("|".join(world.TENS.values()), "|".join(world.ONES[1:10]), "|".join(world.ONES[::-1]))
)
TENS_VALUE = {w: n for n, w in world.TENS.items()}


def digits(words):
    """The typed form: twenty five -> 25."""

    def one(m):
        if m.group(3):
            return str(world.ONES.index(m.group(3)))
        return str(TENS_VALUE[m.group(1)] + (world.ONES.index(m.group(2)) if m.group(2) else 0))

    return NUMBER.sub(one, words)


def typed(r, words, kind=None):
    """The many ways to type one sentence."""
    if kind in ("set_alarm",) and r.random() < 0.5:
        pass
    elif r.random() < 0.4:
        words = digits(words)
    if r.random() < 0.5:
        words = words[0].upper() + words[1:]
        words += "?" if words.lower().startswith(("what", "who", "how", "will", "is", "are")) else r.choice(".. !")
        words = words.strip()
    return words


def answer_to(command, declared):
    """The call, or the plain sentence when its tool is not declared."""
    if command.tool in declared:
        return prompt.call(command.tool, command.args)
    return f"I have no tool for {world.SUBJECT[command.tool]}.{END}"


def declare(r, tool, most=6):
    """Which tools a conversation declares: mostly with `tool` among them."""
    kind = r.random()
    if kind < 0.12:
        return []
    if kind < 0.24 and most > 6:
        names = NAMES[:]
        if r.random() < 0.3:
            names.remove(tool)
        return names
    names = r.sample(NAMES, r.randint(1, min(most, 5)))
    if r.random() < 0.75 and tool not in names:
        names[r.randrange(len(names))] = tool
    return names


def after_call(r, command):
    """The tool's result and the sentence that follows it."""
    if command.tool == "get_time":
        text = f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}"
        return prompt.response(command.tool, {"value": text}), f"It is {text}.{END}"
    if command.tool == "get_weather":
        text = f"{r.randint(0, 30)} degrees"
        return prompt.response(command.tool, {"value": text}), f"It is {text}.{END}"
    if command.tool == "calculate":
        text = str(r.randint(0, 9999))
        return prompt.response(command.tool, {"value": text}), f"The answer is {text}.{END}"
    return prompt.response(command.tool, {"value": r.choice(["ok", "done"])}), f"Done.{END}"


def commands(r, turns=None, most=14):
    """One system turn and several typed commands."""
    names = declare(r, r.choice(NAMES), most)
    turns = turns or r.randint(1, 4)
    out, opening = [], "<bos>" + prompt.system(names)
    for i in range(turns):
        declared = bool(names) and r.random() > REFUSED
        c = world.command(r)
        while (c.tool in names) != declared and len(names) < len(NAMES):
            c = world.command(r)
        answer = answer_to(c, names)
        out.append((opening + prompt.user(typed(r, c.words, c.tool)), answer))
        opening = "\n"
        if answer.endswith("<|tool_response>") and (i + 1 < turns or r.random() < 0.2):
            text, said = after_call(r, c)
            out.append((text, said))
    return out


def spoken(r, words, command=None, most=6):
    """One turn of speech: write it down, or act on it. Returns the same pairs."""
    if command is None or r.random() < 0.5:
        ask = r.choice(ASK_WORDS) + r.choice(ASK_FORMAT)
        first = r.random() < 0.7
        text = "<|audio|>" + ask if first else ask + "<|audio|>"
        return [("<bos>" + prompt.user(text), words + END)]
    names = declare(r, command.tool, most)
    return [(prompt.full(names, "<|audio|>"), answer_to(command, names))]


def fact(r, questions=world.FACTS):
    """One question of the small world, or one outside it."""
    if r.random() < 0.3:
        question = r.choice(world.UNKNOWN_QUESTIONS).format(x=r.choice(world.unknown_things()))
        return typed(r, question), world.UNKNOWN
    question, answer = r.choice(questions)
    return typed(r, question), answer


def chat(r):
    """Small talk of several turns; the name given is remembered."""
    out, opening = [], "<bos>"
    if r.random() < 0.25:
        opening += prompt.system(r.sample(NAMES, r.randint(1, 2)))
    elif r.random() < 0.15:
        opening += prompt.system([], r.choice(["You are helpful.", "Be brief.", "You run a house."]))
    name = r.choice(world.NAMES).title() if r.random() < 0.6 else None
    asks = ["tell"] * bool(name) + ["fact"] * r.randint(0, 3) + ["name"]
    known = None
    for ask in asks[: r.randint(1, len(asks))] if r.random() < 0.2 else asks:
        if ask == "tell":
            question = typed(r, r.choice(["my name is {n}", "i am {n}", "call me {n}"]))
            question, answer, known = question.format(n=name), f"Nice to meet you, {name}.", name
        elif ask == "name":
            question = typed(r, r.choice(["what is my name", "who am i", "do you know my name"]))
            answer = f"Your name is {known}." if known else "You did not tell me your name."
        else:
            question, answer = fact(r)
        out.append((opening + prompt.user(question), answer + END))
        opening = "\n"
    return out


def words_and_numbers(r):
    """Copying and spelling numbers: it ties the pieces to each other."""
    kind = r.random()
    if kind < 0.4:
        words = world.command(r).words
        return [("<bos>" + prompt.user(f"Repeat: {words}"), words + END)]
    n = r.randint(0, 99)
    if kind < 0.7:
        return [("<bos>" + prompt.user(f"Write {world.number_words(n)} as a number."), f"{n}{END}")]
    return [("<bos>" + prompt.user(f"Write {n} in words."), world.number_words(n) + END)]


def conversation(r):
    """Any typed conversation."""
    kind = r.random()
    if kind < 0.68:
        return commands(r)
    return chat(r) if kind < 0.92 else words_and_numbers(r)
