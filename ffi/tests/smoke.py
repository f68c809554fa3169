"""The Python example's module, used: texts, sounds, pictures, refusals, cancelling.

In: the library, a model, its encoders. Out: one line for each part; a failed check is an error.
"""

import array
import math
import sys
import threading

import culet

RATE_HZ = 16000


def say(session):
    """Closes the turn and returns the answer's words."""
    session.prompt()
    return heard(session)


def heard(session):
    """Returns an answer's words, of which at most 24 are made."""
    words, last = [], None
    for event in session.events():
        last = event
        if event.kind == culet.ANSWER:
            words.append(event.text)
            if len(words) == 24:
                session.cut()
    assert last.kind == culet.END and last.stop != culet.STOP_NONE
    return "".join(words)


def texts(session):
    session.append_text("What is the capital of France?")
    first = say(session)
    assert first and session.n_past() > 0
    session.clear()
    assert session.n_past() == 0
    session.append_messages('{"role": "user", "content": "What is the capital of France?"}')
    assert say(session) == first
    print("text:", first)


def sounds(session):
    tone = array.array("f", (0.3 * math.sin(i * 0.05) for i in range(RATE_HZ)))
    session.clear()
    session.append_audio(tone, RATE_HZ)
    whole = say(session)
    session.clear()
    session.begin_sound()
    for start in range(0, len(tone), 777):
        session.hear(tone[start:start + 777], RATE_HZ)
    session.guess_end()
    session.hear([], RATE_HZ)
    session.end_sound()
    assert heard(session) == whole
    print("sound:", whole)


def pictures(session):
    width, height = 96, 64
    rgb = bytes((x * 2, y * 3, 200)[c] for y in range(height) for x in range(width)
                for c in range(3))
    session.clear()
    session.append_image(rgb, width, height, budget=70)
    session.append_text("What do you see?")
    print("picture:", say(session))
    refused(lambda: session.append_image(rgb, width, height, budget=71), culet.Error)
    refused(lambda: session.append_image(rgb[:-1], width, height), ValueError)


def refused(call, kind):
    """Makes a call that must be refused, and returns what it said."""
    try:
        call()
    except kind as error:
        assert str(error)
        return error
    raise AssertionError("a call that is wrong was accepted")


def cancels(session):
    session.clear()
    session.append_text("Count to ten.")
    expected = say(session)
    session.clear()
    session.append_text("Count to ten.")
    # A request that comes before the call stops it as well, so no clock is needed.
    other = threading.Thread(target=session.cancel)
    other.start()
    other.join()
    assert refused(session.prompt, culet.Cancelled).status == culet.ERR_CANCELLED
    assert say(session) == expected
    print("cancelled and repeated:", expected)


def main():
    path, model, mmproj = sys.argv[1:]
    library = culet.Library(path)
    assert library.version()
    refused(lambda: culet.Engine(library, "no-such-model.gguf"), culet.Error)
    with culet.Engine(library, model, mmproj, threads=1) as engine:
        assert engine.sees() and engine.hears()
        refused(lambda: culet.Session(engine, temperature=-1), culet.Error)
        session = culet.Session(engine, temperature=0)
    # The session outlives its engine.
    for part in (texts, sounds, pictures, cancels):
        part(session)
    session.close()
    session.close()


main()
