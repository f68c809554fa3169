"""The small house: what can be said to it and which tool call each sentence means.

In:  a seeded `random.Random`.
Out: `Command` values (spoken words, tool name, arguments) and the words for numbers.
Invariant: the same seed gives the same commands; `held_out` sentences never reach training.
"""

import hashlib
from dataclasses import dataclass
from dataclasses import field

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = dict(zip(range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split()))
ROOMS = "kitchen bedroom bathroom garage office hallway garden".split() + ["living room"]
DEVICES = "fan heater television radio lamp oven".split()
CITIES = "paris london berlin madrid tokyo boston chicago vienna oslo rome".split()
COLORS = "red green blue yellow white orange purple pink".split()
DAYS = "today tomorrow monday friday sunday".split()
GENRES = "jazz rock classical piano dance".split()
DOORS = ["front door", "back door", "garage door", "window"]
PLACES = ["front door", "garden", "garage", "kitchen", "hallway"]
CHORES = [
    "water the plants",
    "feed the cat",
    "call the doctor",
    "buy milk",
    "close the window",
    "walk the dog",
    "take out the trash",
]
UNITS = "seconds minutes hours".split()
NAMES = "anna peter maria david susan robert".split()

# What the answer calls each tool when it is not declared.
SUBJECT = {
    "set_light": "the lights",
    "set_device": "that device",
    "set_timer": "timers",
    "set_alarm": "alarms",
    "set_thermostat": "the heating",
    "play_music": "music",
    "stop_music": "music",
    "set_volume": "the volume",
    "get_weather": "the weather",
    "get_time": "the time",
    "move_door": "doors",
    "show_camera": "cameras",
    "calculate": "sums",
    "set_reminder": "reminders",
}


@dataclass
class Command:
    """One spoken command and the call that it means."""

    words: str
    tool: str
    args: dict = field(default_factory=dict)


def number_words(n):
    """The spoken form of 0..99."""
    if n < 20:
        return ONES[n]
    tens, ones = n // 10 * 10, n % 10
    return TENS[tens] + (" " + ONES[ones] if ones else "")


def light(r):
    room = r.choice(ROOMS)
    kind = r.random()
    if kind < 0.5:
        state = r.choice(["on", "off"])
        words = r.choice(
            [
                f"turn {state} the {room} lights",
                f"switch {state} the {room} lights",
                f"turn the {room} lights {state}",
                f"turn {state} the lights in the {room}",
            ]
        )
        return Command(words, "set_light", {"room": room, "state": state})
    if kind < 0.75:
        color = r.choice(COLORS)
        words = r.choice([f"make the {room} lights {color}", f"set the {room} lights to {color}"])
        return Command(words, "set_light", {"color": color, "room": room})
    level = r.randint(1, 99)
    verb = r.choice(["dim", "set"])
    words = f"{verb} the {room} lights to {number_words(level)} percent"
    return Command(words, "set_light", {"level": level, "room": room})


def device(r):
    name, state = r.choice(DEVICES), r.choice(["on", "off"])
    room = r.choice(ROOMS) if r.random() < 0.6 else None
    words = r.choice([f"turn {state} the {name}", f"switch {state} the {name}"])
    args = {"device": name, "state": state}
    if room:
        words = r.choice([f"{words} in the {room}", words.replace(name, f"{room} {name}")])
        args["room"] = room
    return Command(words, "set_device", args)


def timer(r):
    amount, unit = r.randint(1, 90), r.choice(UNITS)
    spoken = unit[:-1] if amount == 1 else unit
    verb = r.choice(["set", "start"])
    words = f"{verb} a timer for {number_words(amount)} {spoken}"
    return Command(words, "set_timer", {"amount": amount, "unit": unit})


def alarm(r):
    hour, evening = r.randint(1, 12), r.random() < 0.5
    minute = r.choice([0, 0, 0, 5, 10, 15, 20, 25, 30, 30, 35, 40, 45, 50, 55])
    spoken = number_words(hour)
    if minute:
        spoken += (" oh " if minute < 10 else " ") + number_words(minute)
    spoken += " in the evening" if evening else " in the morning"
    start = r.choice(["wake me up at", "set an alarm for"])
    value = f"{hour % 12 + (12 if evening else 0):02d}:{minute:02d}"
    return Command(f"{start} {spoken}", "set_alarm", {"time": value})


def thermostat(r):
    degrees = r.randint(10, 30)
    if r.random() < 0.4:
        words = f"set the temperature to {number_words(degrees)} degrees"
        return Command(words, "set_thermostat", {"degrees": degrees})
    room = r.choice(ROOMS)
    words = r.choice(
        [
            f"set the {room} temperature to {number_words(degrees)} degrees",
            f"heat the {room} to {number_words(degrees)} degrees",
        ]
    )
    return Command(words, "set_thermostat", {"degrees": degrees, "room": room})


def music(r):
    genre = r.choice(GENRES)
    if r.random() < 0.15:
        return Command(r.choice(["stop the music", "stop the music please"]), "stop_music")
    if r.random() < 0.4:
        words = r.choice([f"play some {genre} music", f"play {genre} music please"])
        return Command(words, "play_music", {"genre": genre})
    room = r.choice(ROOMS)
    words = r.choice([f"play {genre} music in the {room}", f"play some {genre} music in the {room}"])
    return Command(words, "play_music", {"genre": genre, "room": room})


def volume(r):
    level = r.randint(0, 99)
    words = f"set the volume to {number_words(level)}" + r.choice(["", " percent"])
    return Command(words, "set_volume", {"level": level})


def weather(r):
    city, day = r.choice(CITIES), r.choice(DAYS)
    on = day if day.startswith("to") else f"on {day}"
    if r.random() < 0.3:
        words, day = f"what is the weather in {city}", "today"
    else:
        start = r.choice(["what is the weather in", "will it rain in", "is it cold in"])
        words = f"{start} {city} {on}"
    return Command(words, "get_weather", {"city": city.title(), "day": day})


def clock(r):
    if r.random() < 0.2:
        return Command(r.choice(["what time is it", "what time is it now"]), "get_time")
    city = r.choice(CITIES)
    words = r.choice([f"what time is it in {city}", f"tell me the time in {city}"])
    return Command(words, "get_time", {"city": city.title()})


def door(r):
    action, name = r.choice(["open", "close", "lock", "unlock"]), r.choice(DOORS)
    words = r.choice([f"{action} the {name}", f"{action} the {name} please", f"please {action} the {name}"])
    return Command(words, "move_door", {"action": action, "door": name})


def camera(r):
    place = r.choice(PLACES)
    start = r.choice(["show me the", "show the", "open the"])
    return Command(f"{start} {place} camera", "show_camera", {"place": place})


def sums(r):
    a, b = r.randint(0, 99), r.randint(0, 99)
    word, sign = r.choice([("plus", "+"), ("minus", "-"), ("times", "*")])
    words = f"what is {number_words(a)} {word} {number_words(b)}"
    return Command(words, "calculate", {"expression": f"{a}{sign}{b}"})


def reminder(r):
    chore, amount, unit = r.choice(CHORES), r.randint(2, 59), r.choice(["minutes", "hours"])
    words = f"remind me to {chore} in {number_words(amount)} {unit}"
    return Command(words, "set_reminder", {"amount": amount, "text": chore, "unit": unit})


FAMILIES = [
    (light, 5),
    (device, 3),
    (timer, 3),
    (alarm, 3),
    (thermostat, 2),
    (music, 2),
    (volume, 1.5),
    (weather, 3),
    (clock, 1.5),
    (door, 1.5),
    (camera, 1),
    (sums, 3),
    (reminder, 3),
]


def held_out(words):
    """True for about one sentence in ten, decided by its text alone."""
    return hashlib.md5(words.encode()).digest()[0] < 26


def draw(r):
    """Any command, held out or not."""
    makers, weights = zip(*FAMILIES)
    return r.choices(makers, weights)[0](r)


def command(r, held=False):
    """One command from the training half, or from the held-out half."""
    while True:
        c = draw(r)
        if held_out(c.words) == held:
            return c


# Spoken chat: question, answer. Also used typed.
FACTS = [
    ("hello", "Hello! How can I help you?"),
    ("hi", "Hello! How can I help you?"),
    ("good morning", "Good morning! How can I help you?"),
    ("good night", "Good night! Sleep well."),
    ("thank you", "You are welcome."),
    ("thanks", "You are welcome."),
    ("goodbye", "Goodbye!"),
    ("how are you", "I am fine, thank you."),
    ("who are you", "I am Culet, a tiny model that runs a small house."),
    ("what is your name", "My name is Culet."),
    ("what can you do", "I can hear commands, look at simple pictures and call tools."),
    ("who made you", "I was trained from nothing by the Culet project."),
    ("are you a person", "No, I am a very small language model."),
    ("what is the capital of france", "The capital of France is Paris."),
    ("what is the capital of italy", "The capital of Italy is Rome."),
    ("what is the capital of germany", "The capital of Germany is Berlin."),
    ("what is the capital of japan", "The capital of Japan is Tokyo."),
    ("what is the capital of spain", "The capital of Spain is Madrid."),
    ("what is the capital of norway", "The capital of Norway is Oslo."),
    ("what is the capital of austria", "The capital of Austria is Vienna."),
    ("what is the capital of england", "The capital of England is London."),
    ("what color is the sky", "The sky is blue."),
    ("what color is grass", "Grass is green."),
    ("what color is snow", "Snow is white."),
    ("what color is a banana", "A banana is yellow."),
    ("what is the opposite of hot", "The opposite of hot is cold."),
    ("what is the opposite of up", "The opposite of up is down."),
    ("what is the opposite of open", "The opposite of open is closed."),
    ("how many days are in a week", "A week has seven days."),
    ("how many hours are in a day", "A day has twenty four hours."),
    ("how many minutes are in an hour", "An hour has sixty minutes."),
    ("how many legs does a cat have", "A cat has four legs."),
    ("what do cats say", "Meow."),
    ("what do dogs say", "Woof."),
    ("count to five", "One, two, three, four, five."),
    ("tell me a joke", "I am too small to know a good one."),
]
SPOKEN_FACTS = FACTS[:5] + FACTS[7:11] + FACTS[13:17] + FACTS[21:23]
UNKNOWN = "I do not know that."
UNKNOWN_QUESTIONS = [
    "who is the president of {x}",
    "what is the capital of {x}",
    "how old is {x}",
    "who wrote {x}",
    "why is {x} so big",
    "what is the price of {x}",
    "how far is {x}",
    "explain {x} to me",
    "who invented {x}",
    "write a poem about {x}",
    "when did {x} begin",
    "what do you think about {x}",
    "what is {x}",
]
UNKNOWN_THINGS = (
    "brazil canada gold chess the moon a violin physics sugar the ocean football a rocket the "
    "internet china history a bridge opera money mathematics an engine the sun egypt poetry a car "
    "the war peru tea bitcoin gravity a whale india"
).replace(" the ", "|the ").replace(" a ", "|a ").replace(" an ", "|an ")


def unknown_things():
    """Things outside the house's world, articles kept with their nouns."""
    out = []
    for part in UNKNOWN_THINGS.split("|"):
        words = part.split()
        if words[0] in ("the", "a", "an"):
            out.append(" ".join(words[:2]))
            words = words[2:]
        out += words
    return out
