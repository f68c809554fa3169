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


def snapshots(session):
    session.clear()
    session.append_text("Count to ten.")
    session.prompt()
    first = session.next()
    saved = session.snapshot()
    expected = heard(session)
    session.rewind(1)
    assert session.n_messages() == 1
    refused(lambda: session.restore(saved[:-1]), culet.Error)
    session.restore(saved)
    assert heard(session) == expected and session.n_messages() == 2
    print("saved and restored:", first.text + expected)


def conversations(assistant):
    tone = array.array("f", (0.3 * math.sin(i * 0.05) for i in range(2 * RATE_HZ)))
    kinds, now_ns = [], 0
    for start in range(0, len(tone), 1000):
        assistant.push(tone[start:start + 1000], RATE_HZ, n_channels=2)
        now_ns += 500 * 10**9 // RATE_HZ
        kinds += [event.kind for event in assistant.events(now_ns)]
    assistant.show(bytes(3 * 48 * 48), 48, 48)
    assistant.tell(now_ns, culet.TELL_SLEEP)
    states = [event.state for event in assistant.events(now_ns)]
    assert states[-1] == culet.ASLEEP
    refused(lambda: assistant.results(now_ns, "[1]"), culet.Error)
    assert assistant.conversation().startswith("{")
    print("spoken:", len(kinds))


def main():
    path, model, mmproj = sys.argv[1:]
    library = culet.Library(path)
    assert library.version()
    refused(lambda: culet.Engine(library, "no-such-model.gguf"), culet.Error)
    with culet.Engine(library, model, mmproj, threads=1) as engine:
        assert engine.sees() and engine.hears()
        refused(lambda: culet.Session(engine, temperature=-1), culet.Error)
        session = culet.Session(engine, temperature=0)
        assistant = culet.Assistant(engine, n_ctx=1024, temperature=0)
        guarded = culet.Assistant(engine, n_ctx=1024, temperature=0, wake="Hello!", listener=engine)
        refused(lambda: culet.Assistant(engine, wake="?"), culet.Error)
    assert [event.state for event in guarded.events(0)] == [culet.UNCALLED]
    guarded.close()
    # The session outlives its engine.
    for part in (texts, sounds, pictures, cancels, snapshots):
        part(session)
    conversations(assistant)
    session.close()
    session.close()


main()
