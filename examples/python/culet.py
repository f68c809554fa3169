"""Culet for Python: engines and sessions over libculet_c, through ctypes alone.

    engine = culet.Engine(culet.Library("libculet_c.so"), "model.gguf", "mmproj.gguf")
    session = culet.Session(engine, temperature=0)
    session.append_image(rgb, width, height)
    session.append_text("What do you see?")
    session.prompt()
    for event in session.events():
        if event.kind == culet.ANSWER:
            print(event.text, end="", flush=True)

One thread at a time uses a session; Session.cancel() is the call made for another thread.
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
    c_float,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

ABI_VERSION = 1000
NONE, ANSWER, THOUGHT, TOOL_CALL, BROKEN_CALL, END = range(6)
STOP_NONE, STOP_TURN, STOP_TOOL, STOP_SEQUENCE, STOP_CUT = range(5)
ERR_CANCELLED = 108

Event = collections.namedtuple("Event", "kind stop text")
Stats = collections.namedtuple("Stats", "n_prompt n_reused")


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
}


class Library:
    """The shared library, each function with its types."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        for name, arguments in _CALLS.items():
            self._declare(name, arguments + [POINTER(_Error)], c_int32)
        for name in ("engine_options_free", "engine_free", "session_options_free",
                     "session_free", "session_cancel"):
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


class Session(_Object):
    """One conversation."""

    def __init__(self, engine, n_ctx=4096, n_batch=512, temperature=1.0, top_k=64, top_p=0.95,
                 min_p=0.0, seed=0):
        library = engine._library
        new = lambda place: library.call("session_options_new", place)
        with _Object(library, "session_options", new) as options:
            options._call("set_size", n_ctx, n_batch)
            options._call("set_sampling", temperature, top_k, top_p, min_p)
            options._call("set_seed", seed)
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

    def cancel(self):
        """Stops the call that computes now, or else the next one; any thread."""
        self._library.plain("session_cancel", self._raw)

    def n_past(self):
        """Returns how many tokens the session holds."""
        return self._library.plain("session_n_past", self._raw)


def _pcm(samples):
    floats = samples if isinstance(samples, array.array) else array.array("f", samples)
    if floats.typecode != "f":
        raise TypeError("samples are 32-bit floats: array('f')")
    if not floats:
        return None, 0
    return (c_float * len(floats)).from_buffer(floats), len(floats)
