/**
 * Engines and sessions for Kotlin. One thread at a time uses a session; [Session.cancel] is the
 * call made for another thread. Close sessions and engines in any order.
 */
package org.culet

import android.content.res.AssetFileDescriptor

/** What an answer consists of. */
sealed interface Event {
    data class Answer(val text: String) : Event
    data class Thought(val text: String) : Event
    data class ToolCall(val json: String) : Event
    data class BrokenCall(val text: String) : Event
    /** The answer has ended; see CULET_STOP_ in culet.h. */
    data class End(val stop: Int) : Event
}

/** A model that is ready for any number of sessions. */
class Engine private constructor(internal var raw: Long) : AutoCloseable {
    /** Opens files by path. */
    constructor(model: String, mmproj: String? = null, threads: Int = 0) :
        this(Native.openEngine(model.toByteArray(), mmproj?.toByteArray(), threads))

    /** Opens assets, which must be stored uncompressed (`noCompress`). */
    constructor(model: AssetFileDescriptor, mmproj: AssetFileDescriptor?, threads: Int = 0) :
        this(
            Native.openEngineFile(
                model.parcelFileDescriptor.fd, model.startOffset, model.length,
                mmproj?.parcelFileDescriptor?.fd ?: -1, mmproj?.startOffset ?: 0,
                mmproj?.length ?: 0, threads,
            ),
        )

    override fun close() {
        Native.freeEngine(raw)
        raw = 0
    }

    companion object {
        init {
            System.loadLibrary("culet_jni")
        }
    }
}

/** One conversation. */
class Session(engine: Engine, contextTokens: Int = 4096, temperature: Float = 1f, seed: Long = 0) :
    AutoCloseable {
    private var raw = Native.newSession(engine.raw, contextTokens, temperature, seed)

    fun appendText(text: String) = Native.appendText(raw, text.toByteArray())

    fun appendMessages(json: String) = Native.appendMessages(raw, json.toByteArray())

    /** Appends a picture: 3 bytes a pixel (R, G, B), row after row from the top. */
    fun appendImage(rgb: ByteArray, width: Int, height: Int, budget: Int = 280) =
        Native.appendImage(raw, rgb, width, height, budget)

    fun appendAudio(samples: FloatArray, rateHz: Int) =
        Native.appendAudio(raw, samples, samples.size, rateHz)

    fun beginSound() = Native.beginSound(raw)

    /** Hears the first [n] samples, as AudioRecord.read() gives them. */
    fun hear(samples: FloatArray, n: Int, rateHz: Int) = Native.hear(raw, samples, n, rateHz)

    fun guessEnd() = Native.guessEnd(raw)

    fun endSound() = Native.endSound(raw)

    fun dropSound() = Native.dropSound(raw)

    fun prompt() = Native.prompt(raw)

    /** Gives what the answer brings, its end included; each step computes. */
    fun events(): Sequence<Event> = sequence {
        while (true) {
            val event = Native.next(raw)
            val text = String(event, 2, event.size - 2, Charsets.UTF_8)
            when (event[0].toInt()) {
                0 -> {}
                1 -> yield(Event.Answer(text))
                2 -> yield(Event.Thought(text))
                3 -> yield(Event.ToolCall(text))
                4 -> yield(Event.BrokenCall(text))
                else -> {
                    yield(Event.End(event[1].toInt()))
                    break
                }
            }
        }
    }

    fun cut() = Native.cut(raw)

    fun clear() = Native.clear(raw)

    /** Stops the call that computes, or the next one, from any thread before close(). */
    fun cancel() = Native.cancel(raw)

    override fun close() {
        Native.freeSession(raw)
        raw = 0
    }
}
