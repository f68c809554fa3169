"""Speech engines driven in process through their C libraries, with the time of every phone and word.

In:  lower-case words, a voice, pitch and speed.
Out: `Speech` (samples, rate, phone starts, word ends).
Source: espeak-ng and flite, both plain Debian packages (espeak-ng, libflite1).
Invariant: one label set of 41 phones for both engines.
"""

import ctypes as c
from dataclasses import dataclass

import numpy as np

PHONES = (
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th "
    "uh uw v w y z zh"
).split()
PHONE_ID = {p: i for i, p in enumerate(PHONES)}

# espeak-ng mnemonics folded into the set above; anything else counts as silence.
ESPEAK_PHONES = {
    "aa": "A: A A@ aa a@ A# A:#",
    "ae": "a aI3 a2 &",
    "ah": "V V2",
    "ao": "O: O O2 O@ o@ O3 0 0# o",
    "aw": "aU aU@",
    "ax": "@ a# @2 @L 3# @5 @-",
    "ay": "aI aI@ aI2",
    "b": "b",
    "ch": "tS",
    "d": "d d#",
    "dh": "D",
    "eh": "E e e@ E#",
    "er": "3 3: 3:r",
    "ey": "eI",
    "f": "f",
    "g": "g",
    "hh": "h x",
    "ih": "I I2 I#",
    "iy": "i i: i@ i@3 i2",
    "jh": "dZ",
    "k": "k",
    "l": "l l# L",
    "m": "m m-",
    "n": "n n- n#",
    "ng": "N",
    "ow": "oU o: oU#",
    "oy": "OI",
    "p": "p",
    "r": "r r- R *",
    "s": "s",
    "sh": "S",
    "t": "t t# t2 ?",
    "th": "T",
    "uh": "U U@ U2",
    "uw": "u: u uw",
    "v": "v",
    "w": "w w#",
    "y": "j",
    "z": "z",
    "zh": "Z",
}
ESPEAK_ID = {m: PHONE_ID[p] for p, names in ESPEAK_PHONES.items() for m in names.split()}


@dataclass
class Speech:
    """One utterance: mono samples, their rate, (start second, phone) and the end of each word."""

    samples: np.ndarray
    rate: int
    phones: list
    word_ends: list


class EventId(c.Union):
    _fields_ = [("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8)]


class Event(c.Structure):
    _fields_ = [
        ("type", c.c_int),
        ("unique", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_ms", c.c_int),
        ("sample", c.c_int),
        ("user", c.c_void_p),
        ("id", EventId),
    ]


EVENT_END, EVENT_WORD, EVENT_PHONE = 0, 1, 7


class Espeak:
    """espeak-ng; one instance per process."""

    def __init__(self):
        self.lib = c.CDLL("libespeak-ng.so.1")
        self.rate = self.lib.espeak_Initialize(2, 0, None, 1)
        self.waves, self.events = [], []
        kind = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(Event))
        self.callback = kind(self.collect)
        self.lib.espeak_SetSynthCallback(self.callback)

    def collect(self, wave, count, events):
        if wave and count > 0:
            self.waves.append(c.string_at(wave, count * 2))
        i = 0
        while events[i].type != EVENT_END:
            e = events[i]
            if e.type == EVENT_PHONE:
                self.events.append((e.sample, e.type, e.id.string.decode("latin1")))
            elif e.type == EVENT_WORD:
                self.events.append((e.sample, e.type, e.text_position))
            i += 1
        return 0

    def say(self, words, voice, pitch=50, speed=160, gap=0):
        self.waves.clear()
        self.events.clear()
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        for parameter, value in ((1, speed), (3, pitch), (7, gap)):
            self.lib.espeak_SetParameter(parameter, value, 0)
        text = words.encode()
        self.lib.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)
        self.lib.espeak_Synchronize()
        samples = np.frombuffer(b"".join(self.waves), np.int16).astype(np.float32) / 32768
        phones, starts = [], {}
        for sample, kind, value in self.events:
            if kind == EVENT_PHONE:
                name = value.strip("'`,%=_:|; ") if value.strip("'`,%=_|; ") not in ESPEAK_ID else value
                label = ESPEAK_ID.get(value.strip("'`,%=_|; "), ESPEAK_ID.get(name, 0))
                phones.append((sample / self.rate, label))
            else:
                starts.setdefault(len(words[: value - 1].split()), sample / self.rate)
        return Speech(samples, self.rate, phones, self.ends(words, starts, phones, samples))

    def ends(self, words, starts, phones, samples):
        """A word ends where the next one starts; the last one at the last voiced phone's end."""
        count = len(words.split())
        last = len(samples) / self.rate
        for start, label in reversed(phones):
            if label:
                break
            last = start
        return [starts.get(i + 1) if i + 1 < count else last for i in range(count)]


class FliteWave(c.Structure):
    _fields_ = [
        ("type", c.c_char_p),
        ("rate", c.c_int),
        ("count", c.c_int),
        ("channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    ]


class FliteVoice(c.Structure):
    _fields_ = [("name", c.c_char_p), ("features", c.c_void_p)]


class Flite:
    """flite with its CMU voices."""

    SIGNATURES = {
        "flite_synth_text": (c.c_void_p, [c.c_char_p, c.c_void_p]),
        "utt_wave": (c.POINTER(FliteWave), [c.c_void_p]),
        "utt_relation": (c.c_void_p, [c.c_void_p, c.c_char_p]),
        "relation_head": (c.c_void_p, [c.c_void_p]),
        "item_next": (c.c_void_p, [c.c_void_p]),
        "item_as": (c.c_void_p, [c.c_void_p, c.c_char_p]),
        "item_parent": (c.c_void_p, [c.c_void_p]),
        "item_feat_string": (c.c_char_p, [c.c_void_p, c.c_char_p]),
        "item_feat_float": (c.c_float, [c.c_void_p, c.c_char_p]),
        "delete_utterance": (None, [c.c_void_p]),
        "flite_feat_set_float": (None, [c.c_void_p, c.c_char_p, c.c_float]),
    }

    def __init__(self):
        everywhere = c.RTLD_GLOBAL
        self.lib = c.CDLL("libflite.so.1", mode=everywhere)
        for name in ("usenglish", "cmulex"):
            c.CDLL(f"libflite_{name}.so.1", mode=everywhere)
        self.lib.flite_init()
        for name, (result, arguments) in self.SIGNATURES.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        self.voices = {}

    def voice(self, name):
        if name not in self.voices:
            library = c.CDLL(f"libflite_cmu_us_{name}.so.1", mode=c.RTLD_GLOBAL)
            register = getattr(library, f"register_cmu_us_{name}")
            register.restype, register.argtypes = c.c_void_p, [c.c_char_p]
            self.voices[name] = register(None)
        return self.voices[name]

    def say(self, words, voice, stretch=1.0, pitch=None):
        handle = self.voice(voice)
        features = c.cast(handle, c.POINTER(FliteVoice)).contents.features
        self.lib.flite_feat_set_float(features, b"duration_stretch", stretch)
        if pitch:
            self.lib.flite_feat_set_float(features, b"int_f0_target_mean", pitch)
        utterance = self.lib.flite_synth_text(words.encode(), handle)
        wave = self.lib.utt_wave(utterance).contents
        samples = np.ctypeslib.as_array(wave.samples, (wave.count,)).astype(np.float32) / 32768
        rate, phones, ends, start, word = wave.rate, [], [], 0.0, None
        item = self.lib.relation_head(self.lib.utt_relation(utterance, b"Segment"))
        while item:
            label = PHONE_ID.get(self.lib.item_feat_string(item, b"name").decode(), 0)
            end = self.lib.item_feat_float(item, b"end")
            phones.append((start, label))
            if label:
                owner = self.lib.item_parent(
                    self.lib.item_parent(self.lib.item_as(item, b"SylStructure"))
                )
                if owner != word:
                    ends.append(end)
                    word = owner
                ends[-1] = end
            start = end
            item = self.lib.item_next(item)
        self.lib.delete_utterance(utterance)
        count = len(words.split())
        return Speech(samples, rate, phones, ends if len(ends) == count else [None] * count)
