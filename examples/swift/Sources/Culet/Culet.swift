/// Engines and sessions for Swift. One thread at a time uses a session; `cancel()` is the call made
/// for another thread.
import CCulet

/// What a call refused.
public struct CuletError: Error {
    public let status: Int32
    public let message: String

    /// Whether `cancel()` stopped the call, which can then be repeated.
    public var isCancelled: Bool { status == CULET_ERR_CANCELLED }
}

private func check(_ call: (UnsafeMutablePointer<culet_error>) -> culet_status) throws {
    var err = culet_error()
    let status = call(&err)
    guard status != CULET_OK else { return }
    let message = withUnsafeBytes(of: err.message) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    throw CuletError(status: status, message: message)
}

/// A model that is ready for any number of sessions, in any thread.
public final class Engine: @unchecked Sendable {
    fileprivate var raw: OpaquePointer?

    public init(model: String, mmproj: String? = nil, threads: Int = 0, gpu: String? = nil) throws {
        var options: OpaquePointer?
        try check { culet_engine_options_new(UInt32(CULET_ABI_VERSION), &options, $0) }
        defer { culet_engine_options_free(options) }
        try check { culet_engine_options_set_threads(options, threads, $0) }
        try check { culet_engine_options_set_gpu(options, gpu, $0) }
        try check { culet_engine_open(options, model, mmproj, &raw, $0) }
    }

    deinit { culet_engine_free(raw) }
}

/// What an answer consists of.
public enum Event {
    case answer(String), thought(String), toolCall(String), brokenCall(String)
}

/// One conversation.
public final class Session: @unchecked Sendable {
    private var raw: OpaquePointer?

    public init(_ engine: Engine, temperature: Float = 1, seed: UInt64 = 0) throws {
        var options: OpaquePointer?
        try check { culet_session_options_new(&options, $0) }
        defer { culet_session_options_free(options) }
        try check { culet_session_options_set_sampling(options, temperature, 64, 0.95, 0, $0) }
        try check { culet_session_options_set_seed(options, seed, $0) }
        try check { culet_session_new(engine.raw, options, &raw, $0) }
    }

    deinit { culet_session_free(raw) }

    public func append(text: String) throws {
        try check { culet_session_append_text(raw, text, $0) }
    }

    public func append(messages json: String) throws {
        try check { culet_session_append_messages(raw, json, $0) }
    }

    /// Appends a picture: 3 bytes a pixel (R, G, B), row after row from the top.
    public func append(rgb: [UInt8], width: Int, height: Int, budget: UInt32 = 280) throws {
        precondition(width > 0 && height > 0 && rgb.count == 3 * width * height)
        try check {
            culet_session_append_image(
                raw, rgb, UInt32(width), UInt32(height), 3 * width, budget, $0)
        }
    }

    /// Begins a sound that is heard while it is spoken.
    public func beginSound() throws {
        try check { culet_session_begin_sound(raw, nil, $0) }
    }

    /// Hears a packet of any size, one channel.
    public func hear(_ samples: UnsafeBufferPointer<Float>, rate: UInt32) throws {
        try check { culet_session_hear(raw, samples.baseAddress, samples.count, rate, $0) }
    }

    public func guessEnd() throws { try check { culet_session_guess_end(raw, $0) } }

    public func endSound() throws { try check { culet_session_end_sound(raw, $0) } }

    public func dropSound() throws { try check { culet_session_drop_sound(raw, $0) } }

    /// Closes the user's turn and feeds it.
    public func prompt() throws { try check { culet_session_prompt(raw, nil, $0) } }

    /// Gives what the answer brings next; nil at its end.
    public func next() throws -> Event? {
        while true {
            var event = culet_event()
            try check { culet_session_next(raw, &event, $0) }
            let bytes = UnsafeRawBufferPointer(start: event.data, count: event.len)
            let text = String(decoding: bytes, as: UTF8.self)
            switch event.kind {
            case CULET_EVENT_NONE: continue
            case CULET_EVENT_ANSWER: return .answer(text)
            case CULET_EVENT_THOUGHT: return .thought(text)
            case CULET_EVENT_TOOL_CALL: return .toolCall(text)
            case CULET_EVENT_BROKEN_CALL: return .brokenCall(text)
            default: return nil
            }
        }
    }

    public func cut() throws { try check { culet_session_cut(raw, $0) } }

    public func clear() throws { try check { culet_session_clear(raw, $0) } }

    /// Stops the call that computes, or the next one; any thread.
    public func cancel() { culet_session_cancel(raw) }
}
