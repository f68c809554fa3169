"""Culet for Python: engines, sessions and assistants over libculet_c, through ctypes alone.

    engine = culet.Engine(culet.Library("libculet_c.so"), "model.gguf", "mmproj.gguf")
    session = culet.Session(engine, temperature=0)
    session.append_image(rgb, width, height)
    session.append_text("What do you see?")
    session.prompt()
    for event in session.events():
        if event.kind == culet.ANSWER:
            print(event.text, end="", flush=True)

One thread at a time uses a session; Session.cancel() is the call made for another thread. An
Assistant holds a spoken conversation: push() it the microphone's samples, and poll() it.

Needs Python 3 (3.11 here) and libculet_c, nothing to build. Run here: sessions and assistants, by
`ffi/tests/smoke.py` in `cargo test -p culet-ffi` on x86-64 Linux; elsewhere it was not.
"""

import array
import collections
import ctypes
from ctypes import (
    POINTER,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

ABI_VERSION = 1001
NONE, ANSWER, THOUGHT, TOOL_CALL, BROKEN_CALL, END = range(6)
STOP_NONE, STOP_TURN, STOP_TOOL, STOP_SEQUENCE, STOP_CUT = range(5)
ERR_CANCELLED = 108
(SPOKEN_NONE, SPOKEN_IDLE, SPOKEN_STATE, SPOKEN_SPEECH, SPOKEN_LOOKED, SPOKEN_GUESS,
 SPOKEN_TAKEN_BACK, SPOKEN_DISCARDED, SPOKEN_TURN, SPOKEN_FIRST_TOKEN, SPOKEN_SAY, SPOKEN_SILENCE,
 SPOKEN_CALLS, SPOKEN_END, SPOKEN_OPEN_MICROPHONE, SPOKEN_WOKEN) = range(16)
ASLEEP, DEAF, LISTENING, HEARING, GUESSING, ANSWERING, UNCALLED = range(7)
(TELL_TALK_DOWN, TELL_TALK_UP, TELL_END_TURN, TELL_INTERRUPT, TELL_SLEEP, TELL_WAKE,
 TELL_MICROPHONE_LOST, TELL_MICROPHONE_BACK, TELL_SPEAKER_LOST, TELL_SPEAKER_BACK) = range(10)
CONTINUOUS, ONE_SHOT, PUSH_TO_TALK = range(3)

Event = collections.namedtuple("Event", "kind stop text")
Stats = collections.namedtuple("Stats", "n_prompt n_reused")
Spoken = collections.namedtuple("Spoken", "kind state answer n_tokens end_bytes from_s to_s text")


class Error(Exception):
    """What a call refused, with the number of its status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Cancelled(Error):
    """The call was stopped by Session.cancel(); it can be repeated."""


class _Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("message", c_char * 256)]


class _Stats(ctypes.Structure):
    _fields_ = [("n_prompt", c_size_t), ("n_reused", c_size_t)]


class _Event(ctypes.Structure):
    # Data may hold zeros, so it is read by its length.
    _fields_ = [("kind", c_int32), ("stop", c_int32), ("data", c_void_p), ("len", c_size_t)]


class _Spoken(ctypes.Structure):
    _fields_ = [("kind", c_int32), ("state", c_int32), ("answer", c_uint32),
                ("n_tokens", c_size_t), ("end_bytes", c_size_t), ("from_s", c_double),
                ("to_s", c_double), ("data", c_void_p), ("len", c_size_t)]


# Each call without its last argument, the error; all of them return a status.
_CALLS = {
    "engine_options_new": [c_uint32, POINTER(c_void_p)],
    "engine_options_set_threads": [c_void_p, c_size_t],
    "engine_options_set_memory_max": [c_void_p, c_uint64],
    "engine_open": [c_void_p, c_char_p, c_char_p, POINTER(c_void_p)],
    "session_options_new": [POINTER(c_void_p)],
    "session_options_set_size": [c_void_p, c_size_t, c_size_t],
    "session_options_set_sampling": [c_void_p, c_float, c_size_t, c_float, c_float],
    "session_options_set_seed": [c_void_p, c_uint64],
    "session_new": [c_void_p, c_void_p, POINTER(c_void_p)],
    "session_clear": [c_void_p],
    "session_append_messages": [c_void_p, c_char_p],
    "session_append_text": [c_void_p, c_char_p],
    "session_append_image": [c_void_p, c_char_p, c_uint32, c_uint32, c_size_t, c_uint32],
    "session_append_audio": [c_void_p, POINTER(c_float), c_size_t, c_uint32],
    "session_prompt": [c_void_p, POINTER(_Stats)],
    "session_next": [c_void_p, POINTER(_Event)],
    "session_cut": [c_void_p],
    "session_begin_sound": [c_void_p, POINTER(_Stats)],
    "session_hear": [c_void_p, POINTER(c_float), c_size_t, c_uint32],
    "session_guess_end": [c_void_p],
    "session_end_sound": [c_void_p],
    "session_drop_sound": [c_void_p],
    "session_n_messages": [c_void_p, POINTER(c_size_t)],
    "session_rewind": [c_void_p, c_size_t],
    "session_snapshot": [c_void_p, POINTER(c_void_p), POINTER(c_size_t)],
    "session_restore": [c_void_p, c_char_p, c_size_t],
    "assistant_options_new": [POINTER(c_void_p)],
    "assistant_options_set_mode": [c_void_p, c_int32],
    "assistant_options_set_silence": [c_void_p, c_uint32, c_uint32],
    "assistant_options_set_aloud": [c_void_p, c_bool, c_bool],
    "assistant_options_set_tokens_max": [c_void_p, c_size_t, c_uint32],
    "assistant_options_set_wake": [c_void_p, c_char_p, c_void_p, c_uint32],
    "assistant_new": [c_void_p, c_void_p, c_void_p, c_char_p, c_uint64, POINTER(c_void_p)],
    "assistant_push": [c_void_p, POINTER(c_float), c_size_t, c_uint32, c_uint32],
    "assistant_show": [c_void_p, c_char_p, c_uint32, c_uint32, c_size_t],
    "assistant_tell": [c_void_p, c_uint64, c_int32],
    "assistant_played": [c_void_p, c_uint64, c_uint32, c_size_t],
    "assistant_results": [c_void_p, c_uint64, c_char_p],
    "assistant_leave_calls": [c_void_p, c_uint64],
    "assistant_poll": [c_void_p, c_uint64, POINTER(_Spoken)],
    "assistant_conversation": [c_void_p, POINTER(c_void_p), POINTER(c_size_t)],
}


class Library:
    """The shared library, each function with its types."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        for name, arguments in _CALLS.items():
            self._declare(name, arguments + [POINTER(_Error)], c_int32)
        for name in ("engine_options_free", "engine_free", "session_options_free",
                     "session_free", "session_cancel", "assistant_options_free",
                     "assistant_free", "assistant_cancel"):
            self._declare(name, [c_void_p], None)
        for name in ("engine_sees", "engine_hears"):
            self._declare(name, [c_void_p], c_bool)
        self._declare("session_n_past", [c_void_p], c_size_t)
        self._declare("version", [], c_char_p)

    def _declare(self, name, arguments, result):
        function = getattr(self._library, "culet_" + name)
        function.argtypes, function.restype = arguments, result

    def plain(self, name, *arguments):
        """Makes a call that cannot fail."""
        return getattr(self._library, "culet_" + name)(*arguments)

    def call(self, name, *arguments):
        """Makes a call that can fail, and raises what it says."""
        err = _Error()
        if self.plain(name, *arguments, byref(err)):
            kind = Cancelled if err.status == ERR_CANCELLED else Error
            raise kind(err.status, err.message.decode())

    def version(self):
        """Returns the library's version."""
        return self.plain("version").decode()


class _Object:
    """Something of the library that is freed with its owner, or by close()."""

    def __init__(self, library, kind, make):
        self._library, self._kind = library, kind
        self._raw = c_void_p()
        make(byref(self._raw))

    def close(self):
        """Gives the object back; calling it again does nothing."""
        raw, self._raw = self._raw, c_void_p()
        self._library.plain(self._kind + "_free", raw)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_raw", None):
            self.close()

    def _call(self, name, *arguments):
        self._library.call(f"{self._kind}_{name}", self._raw, *arguments)

    def _view(self, name):
        data, size = c_void_p(), c_size_t()
        self._call(name, byref(data), byref(size))
        return ctypes.string_at(data, size.value)


class Engine(_Object):
    """A model that is ready for any number of sessions, in any thread."""

    def __init__(self, library, model, mmproj=None, threads=0, memory_bytes_max=0):
        new = lambda place: library.call("engine_options_new", ABI_VERSION, place)
        with _Object(library, "engine_options", new) as options:
            options._call("set_threads", threads)
            options._call("set_memory_max", memory_bytes_max)
            paths = [None if path is None else str(path).encode() for path in (model, mmproj)]
            super().__init__(library, "engine", lambda place: library.call(
                "engine_open", options._raw, *paths, place))

    def sees(self):
        """Tells whether the model reads pictures."""
        return self._library.plain("engine_sees", self._raw)

    def hears(self):
        """Tells whether the model hears sounds."""
        return self._library.plain("engine_hears", self._raw)


def _session_options(library, n_ctx=4096, n_batch=512, temperature=1.0, top_k=64, top_p=0.95,
                     min_p=0.0, seed=0):
    options = _Object(library, "session_options",
                      lambda place: library.call("session_options_new", place))
    options._call("set_size", n_ctx, n_batch)
    options._call("set_sampling", temperature, top_k, top_p, min_p)
    options._call("set_seed", seed)
    return options


class Session(_Object):
    """One conversation. Its options are n_ctx, n_batch, temperature, top_k, top_p, min_p, seed."""

    def __init__(self, engine, **options):
        library = engine._library
        with _session_options(library, **options) as options:
            super().__init__(library, "session", lambda place: library.call(
                "session_new", engine._raw, options._raw, place))

    def append_text(self, text):
        """Appends words to the user's turn."""
        self._call("append_text", text.encode())

    def append_messages(self, json):
        """Appends messages, tools and switches, as JSON text."""
        self._call("append_messages", json.encode())

    def append_image(self, rgb, width, height, budget=280):
        """Appends a picture: rows of 3 bytes a pixel, from the top."""
        if len(rgb) != 3 * width * height:
            raise ValueError(f"{len(rgb)} bytes are not {width} x {height} pixels of 3")
        self._call("append_image", bytes(rgb), width, height, 3 * width, budget)

    def append_audio(self, samples, rate_hz):
        """Appends a whole sound: floats of one channel."""
        self._call("append_audio", *_pcm(samples), rate_hz)

    def begin_sound(self):
        """Begins a sound that is heard while it is spoken."""
        self._call("begin_sound", None)

    def hear(self, samples, rate_hz):
        """Hears a packet of any size."""
        self._call("hear", *_pcm(samples), rate_hz)

    def guess_end(self):
        """Guesses that the speaker has ended: events() answers, hear() takes it back."""
        self._call("guess_end")

    def end_sound(self):
        """Ends the sound; events() answers."""
        self._call("end_sound")

    def drop_sound(self):
        """Forgets the sound that is being heard."""
        self._call("drop_sound")

    def prompt(self):
        """Closes the user's turn and feeds it."""
        stats = _Stats()
        self._call("prompt", byref(stats))
        return Stats(stats.n_prompt, stats.n_reused)

    def next(self):
        """Computes at most one token; END ends the answer."""
        event = _Event()
        self._call("next", byref(event))
        text = ctypes.string_at(event.data, event.len).decode()
        return Event(event.kind, event.stop, text)

    def events(self):
        """Yields what the answer brings, its end included."""
        event = None
        while event is None or event.kind != END:
            event = self.next()
            if event.kind != NONE:
                yield event

    def cut(self):
        """Ends the answer here."""
        self._call("cut")

    def clear(self):
        """Forgets the conversation."""
        self._call("clear")

    def n_messages(self):
        """Returns how many messages the conversation has."""
        n = c_size_t()
        self._call("n_messages", byref(n))
        return n.value

    def rewind(self, n_messages):
        """Keeps the first messages and forgets the others."""
        self._call("rewind", n_messages)

    def snapshot(self):
        """Returns the session as bytes, which hold what was said."""
        return self._view("snapshot")

    def restore(self, snapshot):
        """Goes on where a session was of which snapshot() was taken."""
        self._call("restore", bytes(snapshot), len(snapshot))

    def cancel(self):
        """Stops the call that computes now, or else the next one; any thread."""
        self._library.plain("session_cancel", self._raw)

    def n_past(self):
        """Returns how many tokens the session holds."""
        return self._library.plain("session_n_past", self._raw)


class Assistant(_Object):
    """A spoken conversation; each now_ns is a time on the caller's own clock.

    `messages` is what was said before, as JSON text; other options are those of a Session. With
    `wake`, only what begins with that phrase is answered, or what follows an answer within
    `follow_up_ms`; the engine `listener` hears it, or else the one that answers.
    """

    def __init__(self, engine, messages=None, now_ns=0, mode=CONTINUOUS, end_ms=700, guess_ms=250,
                 aloud=False, barge_in=False, answer_max=512, picture_max=70, wake=None,
                 listener=None, follow_up_ms=5000, **options):
        library = engine._library
        new = lambda place: library.call("assistant_options_new", place)
        messages = None if messages is None else messages.encode()
        with _session_options(library, **options) as session_options, \
                _Object(library, "assistant_options", new) as own:
            own._call("set_mode", mode)
            own._call("set_silence", end_ms, guess_ms)
            own._call("set_aloud", aloud, barge_in)
            own._call("set_tokens_max", answer_max, picture_max)
            if wake is not None:
                own._call("set_wake", wake.encode(), listener and listener._raw, follow_up_ms)
            super().__init__(library, "assistant", lambda place: library.call(
                "assistant_new", engine._raw, session_options._raw, own._raw, messages, now_ns,
                place))

    def push(self, samples, rate_hz, n_channels=1):
        """Hands over floats, channels side by side; poll() hears them."""
        data, n = _pcm(samples)
        self._call("push", data, n // n_channels, n_channels, rate_hz)

    def show(self, rgb, width, height):
        """Hands over the newest picture: rows of 3 bytes a pixel, from the top."""
        if len(rgb) != 3 * width * height:
            raise ValueError(f"{len(rgb)} bytes are not {width} x {height} pixels of 3")
        self._call("show", bytes(rgb), width, height, 3 * width)

    def tell(self, now_ns, what):
        """Tells what happened: one of TELL_."""
        self._call("tell", now_ns, what)

    def played(self, now_ns, answer, to_bytes):
        """Tells how far the voice has said an answer."""
        self._call("played", now_ns, answer, to_bytes)

    def results(self, now_ns, json):
        """Hands over the results of the calls, as a JSON array."""
        self._call("results", now_ns, json.encode())

    def leave_calls(self, now_ns):
        """Ends the answer at calls that nobody carries out."""
        self._call("leave_calls", now_ns)

    def poll(self, now_ns):
        """Hears a block of sound or makes a token, and returns what came of it."""
        event = _Spoken()
        self._call("poll", now_ns, byref(event))
        fields = [getattr(event, name) for name in Spoken._fields[:-1]]
        return Spoken(*fields, ctypes.string_at(event.data, event.len).decode())

    def events(self, now_ns):
        """Yields what happens until there is nothing to do."""
        event = None
        while event is None or event.kind != SPOKEN_IDLE:
            event = self.poll(now_ns)
            if event.kind not in (SPOKEN_NONE, SPOKEN_IDLE):
                yield event

    def conversation(self):
        """Returns what was said, as JSON text."""
        return self._view("conversation").decode()

    def cancel(self):
        """Stops the call that computes now, or else the next one; any thread."""
        self._library.plain("assistant_cancel", self._raw)


def _pcm(samples):
    floats = samples if isinstance(samples, array.array) else array.array("f", samples)
    if floats.typecode != "f":
        raise TypeError("samples are 32-bit floats: array('f')")
    if not floats:
        return None, 0
    return (c_float * len(floats)).from_buffer(floats), len(floats)
