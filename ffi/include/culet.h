/*
 * Culet: Gemma 4 E2B and E4B on this device. It hears, sees, answers and calls tools.
 *
 * Status     Calls that can fail return CULET_OK (0) or one of CULET_ERR_, and tell the reason in
 *            the caller's culet_error, which may be NULL.
 * Results    are written only on success. Views (data, len) stay valid until the next call on the
 *            same object. Only what a comment says may be NULL may be NULL.
 * Ownership  _new and _open give an object, _free takes it back; NULL is fine there. Objects can
 *            be freed in any order.
 * Threads    A `const T *` may be used by several threads at once, a `T *` by one at a time; any
 *            object may move between threads.
 *
 * This file is written from the library's sources by its tests; do not edit it.
 */

#ifndef CULET_H
#define CULET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Version of this header: 1000 for each major number, plus the minor number. The minor number
 * grows with each function that is added; a function that is there does not change.
 */
#define CULET_ABI_VERSION 1001

/**
 * Bytes of an error's text with its closing zero.
 */
#define CULET_ERROR_MESSAGE_BYTES 256

/**
 * A bug, to be reported.
 */
#define CULET_LOG_ERROR 1

/**
 * Something that a person should fix.
 */
#define CULET_LOG_WARN 2

/**
 * What is going on, coarsely.
 */
#define CULET_LOG_INFO 3

/**
 * What is going on, for developers of the library.
 */
#define CULET_LOG_DEBUG 4

/**
 * Everything.
 */
#define CULET_LOG_TRACE 5

/**
 * A token that completed nothing; call again.
 */
#define CULET_EVENT_NONE 0

/**
 * More of the answer: whole code points.
 */
#define CULET_EVENT_ANSWER 1

/**
 * More of what the model thinks before it answers; not meant for the user.
 */
#define CULET_EVENT_THOUGHT 2

/**
 * A whole call of a tool, as a JSON object of "name" and "arguments".
 */
#define CULET_EVENT_TOOL_CALL 3

/**
 * A call that could not be read and was left out.
 */
#define CULET_EVENT_BROKEN_CALL 4

/**
 * The end of the answer; `stop` says why. Nothing follows.
 */
#define CULET_EVENT_END 5

/**
 * The answer goes on.
 */
#define CULET_STOP_NONE 0

/**
 * The model ended its turn.
 */
#define CULET_STOP_TURN 1

/**
 * The model waits for the results of its calls: append them as messages of role "tool".
 */
#define CULET_STOP_TOOL 2

/**
 * The model ended the sequence.
 */
#define CULET_STOP_SEQUENCE 3

/**
 * It was cut: by culet_session_cut(), or because the context is full.
 */
#define CULET_STOP_CUT 4

/**
 * Cache of 32-bit floats.
 */
#define CULET_CACHE_F32 0

/**
 * Cache of 16-bit floats; the default.
 */
#define CULET_CACHE_F16 1

/**
 * Cache of 8-bit blocks.
 */
#define CULET_CACHE_Q8_0 2

/**
 * Cache of 4-bit blocks.
 */
#define CULET_CACHE_Q4_0 3

/**
 * Turn after turn until told to stop; the default.
 */
#define CULET_MODE_CONTINUOUS 0

/**
 * One question and its answer, then sleep.
 */
#define CULET_MODE_ONE_SHOT 1

/**
 * From CULET_TELL_TALK_DOWN to CULET_TELL_TALK_UP.
 */
#define CULET_MODE_PUSH_TO_TALK 2

/**
 * Something was computed; poll again at once.
 */
#define CULET_SPOKEN_NONE 0

/**
 * There is nothing to do until more sound, a word of the host or time comes.
 */
#define CULET_SPOKEN_IDLE 1

/**
 * `state` is another than before.
 */
#define CULET_SPOKEN_STATE 2

/**
 * The user begins to speak, at `from_s`.
 */
#define CULET_SPOKEN_SPEECH 3

/**
 * A picture of `n_tokens` was put before what the user says.
 */
#define CULET_SPOKEN_LOOKED 4

/**
 * The end of the turn is guessed, and an answer begun that nobody hears yet.
 */
#define CULET_SPOKEN_GUESS 5

/**
 * The user goes on; the guessed answer is dropped, `n_tokens` were computed in vain.
 */
#define CULET_SPOKEN_TAKEN_BACK 6

/**
 * What was heard was no turn, or it was forgotten.
 */
#define CULET_SPOKEN_DISCARDED 7

/**
 * The user's turn is over; its sound went from `from_s` to `to_s`.
 */
#define CULET_SPOKEN_TURN 8

/**
 * The first token of an answer is there.
 */
#define CULET_SPOKEN_FIRST_TOKEN 9

/**
 * Show this piece of the answer `answer`, which ends at its byte `end_bytes`, and say it if
 * answers are spoken.
 */
#define CULET_SPOKEN_SAY 10

/**
 * Be silent at once, and forget what was still to be said.
 */
#define CULET_SPOKEN_SILENCE 11

/**
 * The model calls tools: `data` is a JSON array of objects of "name" and "arguments". Answer with
 * culet_assistant_results() or culet_assistant_leave_calls().
 */
#define CULET_SPOKEN_CALLS 12

/**
 * The answer of `n_tokens` is complete or was interrupted.
 */
#define CULET_SPOKEN_END 13

/**
 * Try to open the microphone, if it is not open; then CULET_TELL_MICROPHONE_BACK.
 */
#define CULET_SPOKEN_OPEN_MICROPHONE 14

/**
 * The wake word was heard: what is said now, or was said behind it, is meant for the assistant.
 */
#define CULET_SPOKEN_WOKEN 15

/**
 * Not listening; CULET_TELL_WAKE wakes it.
 */
#define CULET_STATE_ASLEEP 0

/**
 * The microphone is gone and nothing is being said.
 */
#define CULET_STATE_DEAF 1

/**
 * Waiting for the user.
 */
#define CULET_STATE_LISTENING 2

/**
 * The user speaks.
 */
#define CULET_STATE_HEARING 3

/**
 * The user pauses, and an answer is made unheard.
 */
#define CULET_STATE_GUESSING 4

/**
 * The answer is made, spoken or both.
 */
#define CULET_STATE_ANSWERING 5

/**
 * Waiting for the wake word; CULET_TELL_WAKE makes it needless.
 */
#define CULET_STATE_UNCALLED 6

/**
 * The push-to-talk key goes down.
 */
#define CULET_TELL_TALK_DOWN 0

/**
 * The push-to-talk key comes up.
 */
#define CULET_TELL_TALK_UP 1

/**
 * My turn is over, do not wait for silence.
 */
#define CULET_TELL_END_TURN 2

/**
 * Stop what you are saying, or forget what I am saying.
 */
#define CULET_TELL_INTERRUPT 3

/**
 * Stop listening.
 */
#define CULET_TELL_SLEEP 4

/**
 * Listen again; what is said then needs no wake word.
 */
#define CULET_TELL_WAKE 5

/**
 * The microphone is gone; CULET_SPOKEN_OPEN_MICROPHONE tells when to try it again.
 */
#define CULET_TELL_MICROPHONE_LOST 6

/**
 * The microphone is open again.
 */
#define CULET_TELL_MICROPHONE_BACK 7

/**
 * The speaker is gone; answers are only shown.
 */
#define CULET_TELL_SPEAKER_LOST 8

/**
 * The speaker is open again.
 */
#define CULET_TELL_SPEAKER_BACK 9

/**
 * A conversation by voice. It finds out who speaks when; the host owns microphone, camera, voice
 * and clock. One thread at a time uses it, and it may move between threads;
 * culet_assistant_cancel() is the call made for another thread. Two threads inside it at once get
 * CULET_ERR_BUSY. Each `now_ns` is a time in nanoseconds on the host's own clock, which may begin
 * anywhere and does not run backwards.
 */
typedef struct culet_assistant culet_assistant;

/**
 * How a spoken conversation is held. One thread at a time uses it.
 */
typedef struct culet_assistant_options culet_assistant_options;

/**
 * A model that is ready for any number of sessions. Any thread may use it at any time.
 */
typedef struct culet_engine culet_engine;

/**
 * How an engine is opened. One thread at a time uses it.
 */
typedef struct culet_engine_options culet_engine_options;

/**
 * One conversation. One thread at a time uses it, and it may move between threads;
 * culet_session_cancel() is the call made for another thread. Two threads inside it at once get
 * CULET_ERR_BUSY.
 */
typedef struct culet_session culet_session;

/**
 * How a session is made. One thread at a time uses it.
 */
typedef struct culet_session_options culet_session_options;

/**
 * What a call answers: CULET_OK or one of CULET_ERR_.
 */
typedef int32_t culet_status;

/**
 * Takes one line of the log: UTF-8, with a zero behind its `len` bytes, valid during the call.
 * It is called on whichever thread logs, by several at once, and must not call Culet.
 */
typedef void (*culet_log_callback)(void *user, int32_t level, const char *text, size_t len);

/**
 * What went wrong. The caller owns it, on its stack for example; nothing in it is freed. A call
 * writes it only when it fails. Messages are UTF-8, cut at a whole code point, and hold nothing
 * that a user said, wrote or showed.
 */
typedef struct culet_error {
    /**
     * One of CULET_ERR_.
     */
    culet_status status;
    /**
     * What was found, what was expected, and often what helps; ends with a zero.
     */
    char message[CULET_ERROR_MESSAGE_BYTES];
} culet_error;

/**
 * An open file, or a part of it: a model inside an Android package, for example.
 */
typedef struct culet_file {
    /**
     * Open for reading. The call copies the descriptor; the caller closes its own when it likes.
     */
    int32_t descriptor;
    /**
     * First byte of the model, a multiple of 32.
     */
    uint64_t offset_bytes;
    /**
     * Bytes of the model; 0 means all from the first on.
     */
    uint64_t size_bytes;
} culet_file;

/**
 * What feeding a prompt took, in tokens.
 */
typedef struct culet_stats {
    /**
     * Of the whole prompt.
     */
    size_t n_prompt;
    /**
     * Of these, kept from before.
     */
    size_t n_reused;
} culet_stats;

/**
 * One step of an answer.
 */
typedef struct culet_event {
    /**
     * One of CULET_EVENT_.
     */
    int32_t kind;
    /**
     * One of CULET_STOP_; CULET_STOP_NONE but for CULET_EVENT_END.
     */
    int32_t stop;
    /**
     * UTF-8, with a zero behind it; never NULL. Valid until the next call on the same session.
     */
    const char *data;
    /**
     * Bytes, without the zero.
     */
    size_t len;
} culet_event;

/**
 * What a poll brings. Fields that its kind does not name are 0.
 */
typedef struct culet_assistant_event {
    /**
     * One of CULET_SPOKEN_.
     */
    int32_t kind;
    /**
     * One of CULET_STATE_: where the conversation was when this happened.
     */
    int32_t state;
    /**
     * Names an answer, for culet_assistant_played().
     */
    uint32_t answer;
    /**
     * A number of tokens.
     */
    size_t n_tokens;
    /**
     * A place in the answer's text.
     */
    size_t end_bytes;
    /**
     * Seconds from the start of the sound.
     */
    double from_s;
    /**
     * Seconds from the start of the sound.
     */
    double to_s;
    /**
     * UTF-8, with a zero behind it; never NULL. Valid until the next call on the same assistant.
     */
    const char *data;
    /**
     * Bytes, without the zero.
     */
    size_t len;
} culet_assistant_event;

/**
 * The call did what it says.
 */
#define CULET_OK 0

/**
 * A file or device could not be read or written. Check the path, retry.
 */
#define CULET_ERR_IO 101

/**
 * A file is damaged or is not what it claims to be. Fetch it again.
 */
#define CULET_ERR_FORMAT 102

/**
 * Well-formed, but not a model, type or codec that Culet runs. Use another file.
 */
#define CULET_ERR_UNSUPPORTED 103

/**
 * An argument is out of range, or the call does not fit what came before. Fix the call.
 */
#define CULET_ERR_INPUT 104

/**
 * It would not fit. The message holds what would; lower the limit named.
 */
#define CULET_ERR_MEMORY 105

/**
 * No permission, unplugged or failed device. Ask the user.
 */
#define CULET_ERR_DEVICE 106

/**
 * Another thread uses the object now. Retry when it is done.
 */
#define CULET_ERR_BUSY 107

/**
 * culet_session_cancel() asked to stop. Nothing to do.
 */
#define CULET_ERR_CANCELLED 108

/**
 * An invariant broke and was caught. Report it.
 */
#define CULET_ERR_INTERNAL 109

/**
 * A pointer is NULL that must not be.
 */
#define CULET_ERR_NULL 110

/**
 * The object broke in this or an earlier call. Free it, and report it.
 */
#define CULET_ERR_PANIC 111

/**
 * Header and library do not belong together. Rebuild with the library's header.
 */
#define CULET_ERR_ABI 112

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the interface version that the library was built with. Any thread.
 */
uint32_t culet_abi_version(void);

/**
 * Returns the library's version, such as "0.1.0", for messages. Valid for ever. Any thread.
 */
const char *culet_version(void);

/**
 * Returns a status's name, such as "memory", for messages. Valid for ever. Any thread.
 */
const char *culet_status_name(culet_status status);

/**
 * Sends the log, up to a level of CULET_LOG_, to a function of the host, for the whole process;
 * a NULL function ends it. The log holds nothing that a user said, wrote or showed. When the call
 * returns, an earlier function is not running any more and is not called again.
 * CULET_ERR_BUSY: a Rust program around the library logs in its own way. Any thread.
 */
culet_status culet_log_set(culet_log_callback callback,
                           void *user,
                           int32_t level_max,
                           struct culet_error *err);

/**
 * Gives options with default values. Pass CULET_ABI_VERSION. Free them with
 * culet_engine_options_free().
 */
culet_status culet_engine_options_new(uint32_t abi_version,
                                      struct culet_engine_options **options,
                                      struct culet_error *err);

/**
 * Takes options back. NULL is fine. Engines that were opened with them are not touched.
 */
void culet_engine_options_free(struct culet_engine_options *options);

/**
 * Sets the processor threads of each session; 0, the default, means one for each logical core that
 * is available, at most 8.
 */
culet_status culet_engine_options_set_threads(struct culet_engine_options *options,
                                              size_t n_threads,
                                              struct culet_error *err);

/**
 * Sets the GPU by its name or a part of it, by its number, or by "largest", the one with most
 * memory; an empty text means the one with most memory of its own. NULL, the default, means the
 * processor alone. A GPU that computes wrongly when a model is opened is left out, with a warning
 * in the log.
 */
culet_status culet_engine_options_set_gpu(struct culet_engine_options *options,
                                          const char *name,
                                          struct culet_error *err);

/**
 * Sets the most bytes of the GPU's memory that weights may take; what does not fit stays with the
 * processor. 0, the default, means three quarters of what is free. Caches come on top.
 */
culet_status culet_engine_options_set_gpu_memory_max(struct culet_engine_options *options,
                                                     uint64_t size_bytes,
                                                     struct culet_error *err);

/**
 * Sets the most bytes that weights in use, a session's cache and its intermediate values may
 * take; 0, the default, means no limit. A session that would not fit is refused.
 */
culet_status culet_engine_options_set_memory_max(struct culet_engine_options *options,
                                                 uint64_t size_bytes,
                                                 struct culet_error *err);

/**
 * Opens a model. `mmproj` holds its encoders for pictures and sounds; NULL goes without them.
 * Paths are UTF-8 (any bytes on Unix). Files stay mapped while an engine or session uses them:
 * replace them by renaming, do not write into them. Free it with culet_engine_free().
 */
culet_status culet_engine_open(const struct culet_engine_options *options,
                               const char *model,
                               const char *mmproj,
                               struct culet_engine **engine,
                               struct culet_error *err);

/**
 * Opens a model from open files; otherwise as culet_engine_open(). Not on Windows.
 */
culet_status culet_engine_open_file(const struct culet_engine_options *options,
                                    const struct culet_file *model,
                                    const struct culet_file *mmproj,
                                    struct culet_engine **engine,
                                    struct culet_error *err);

/**
 * Takes an engine back. NULL is fine. Sessions keep what they need of it, so the order of
 * freeing does not matter.
 */
void culet_engine_free(struct culet_engine *engine);

/**
 * Tells whether the engine reads pictures; false for NULL. Any thread.
 */
bool culet_engine_sees(const struct culet_engine *engine);

/**
 * Tells whether the engine hears sounds; false for NULL. Any thread.
 */
bool culet_engine_hears(const struct culet_engine *engine);

/**
 * Gives options with default values. Free them with culet_session_options_free().
 */
culet_status culet_session_options_new(struct culet_session_options **options,
                                       struct culet_error *err);

/**
 * Takes options back. NULL is fine. Sessions that were made with them are not touched.
 */
void culet_session_options_free(struct culet_session_options *options);

/**
 * Sets the most tokens that a conversation may have, and the most that are computed at once.
 * culet_session_new() checks them. The defaults are 4096 and 512.
 */
culet_status culet_session_options_set_size(struct culet_session_options *options,
                                            size_t n_ctx,
                                            size_t n_batch,
                                            struct culet_error *err);

/**
 * Sets the element type of the cache: one of CULET_CACHE_.
 */
culet_status culet_session_options_set_cache(struct culet_session_options *options,
                                             int32_t cache,
                                             struct culet_error *err);

/**
 * Sets how tokens are chosen: temperature (0 always takes the best token), top-k (0: all), top-p
 * (1: all), min-p (0: none). culet_session_new() checks them. The defaults are 1, 64, 0.95, 0.
 */
culet_status culet_session_options_set_sampling(struct culet_session_options *options,
                                                float temperature,
                                                size_t top_k,
                                                float top_p,
                                                float min_p,
                                                struct culet_error *err);

/**
 * Sets where the random numbers begin: equal seeds give equal answers. The default is 0.
 */
culet_status culet_session_options_set_seed(struct culet_session_options *options,
                                            uint64_t seed,
                                            struct culet_error *err);

/**
 * Sets how repetition is discouraged among the last `n_last` tokens: a factor (1: not), and what
 * is taken off for each time and once. The defaults are 64, 1, 0, 0.
 */
culet_status culet_session_options_set_penalties(struct culet_session_options *options,
                                                 size_t n_last,
                                                 float repetition,
                                                 float frequency,
                                                 float presence,
                                                 struct culet_error *err);

/**
 * Makes an empty session. NULL options mean the default values. Free it with
 * culet_session_free(); it keeps what it needs of the engine, which may be freed before.
 */
culet_status culet_session_new(const struct culet_engine *engine,
                               const struct culet_session_options *options,
                               struct culet_session **session,
                               struct culet_error *err);

/**
 * Takes a session back. NULL is fine. No other thread may be inside a call on it.
 */
void culet_session_free(struct culet_session *session);

/**
 * Stops the call that computes in this session now, or else the next one that computes, with
 * CULET_ERR_CANCELLED; the request is then spent. The stopped call can be repeated: an answer
 * goes on, a prompt keeps what was fed. Any thread, at any time before the session is freed.
 */
void culet_session_cancel(const struct culet_session *session);

/**
 * Returns how many tokens the session holds; 0 for NULL. Any thread.
 */
size_t culet_session_n_past(const struct culet_session *session);

/**
 * Returns how many tokens the session can hold; 0 for NULL. Any thread.
 */
size_t culet_session_n_ctx(const struct culet_session *session);

/**
 * Forgets the conversation, and a request to cancel that stopped nothing yet.
 */
culet_status culet_session_clear(struct culet_session *session, struct culet_error *err);

/**
 * Takes the conversation back to its first `n_messages`, as culet_session_n_messages() counts
 * them, and forgets what was appended behind. The next prompt keeps what it can of the cache.
 */
culet_status culet_session_rewind(struct culet_session *session,
                                  size_t n_messages,
                                  struct culet_error *err);

/**
 * Gives how many messages the conversation has: an answer is one as soon as it has begun, the
 * user's turn when it is closed.
 */
culet_status culet_session_n_messages(struct culet_session *session,
                                      size_t *n,
                                      struct culet_error *err);

/**
 * Gives the session as bytes, with which culet_session_restore() goes on exactly where it was,
 * also in the middle of an answer. They hold what was said, in the open: keep them as private as
 * that. Valid until the next call on the same session. Not while a sound is being heard.
 */
culet_status culet_session_snapshot(struct culet_session *session,
                                    const uint8_t **data,
                                    size_t *size_bytes,
                                    struct culet_error *err);

/**
 * Takes over what culet_session_snapshot() gave, in place of what the session holds. Model,
 * mmproj, size and cache type must be those of the session that gave it; its options of sampling
 * stay its own, but random numbers go on where they were. If it fails, the session is as it was.
 */
culet_status culet_session_restore(struct culet_session *session,
                                   const uint8_t *data,
                                   size_t size_bytes,
                                   struct culet_error *err);

/**
 * Appends messages in the chat form, as JSON: an array of messages, one message, or an object of
 * "messages", "tools" and "thinking", each of them optional. A part of type "image" or "audio" is
 * a place: the media that were appended or are appended next fill the places in order.
 */
culet_status culet_session_append_messages(struct culet_session *session,
                                           const char *json,
                                           struct culet_error *err);

/**
 * Appends words to the user's turn, which the next prompt closes.
 */
culet_status culet_session_append_text(struct culet_session *session,
                                       const char *text,
                                       struct culet_error *err);

/**
 * Appends a picture: `height` rows of `width` pixels of 3 bytes (R, G, B) from the top, row after
 * row `stride_bytes` apart. It is encoded at once, to at most `budget` tokens: 70, 140, 280, 560
 * or 1120. It fills the next place that a message names, or else joins the user's turn.
 */
culet_status culet_session_append_image(struct culet_session *session,
                                        const uint8_t *rgb,
                                        uint32_t width,
                                        uint32_t height,
                                        size_t stride_bytes,
                                        uint32_t budget,
                                        struct culet_error *err);

/**
 * Appends a whole sound of `n` samples, one channel, at any usual rate. It is encoded at once and
 * fills the next place that a message names, or else joins the user's turn.
 */
culet_status culet_session_append_audio(struct culet_session *session,
                                        const float *pcm,
                                        size_t n,
                                        uint32_t rate_hz,
                                        struct culet_error *err);

/**
 * Closes the user's turn and feeds what is new of the conversation; culet_session_next() answers.
 * An answer that was not pulled to its end counts as far as it came. `stats` may be NULL.
 */
culet_status culet_session_prompt(struct culet_session *session,
                                  struct culet_stats *stats,
                                  struct culet_error *err);

/**
 * Computes at most one token and gives what it completed, CULET_EVENT_NONE if nothing. Call it
 * until CULET_EVENT_END; the answer is then part of the conversation. The event's data is valid
 * until the next call on the same session.
 */
culet_status culet_session_next(struct culet_session *session,
                                struct culet_event *event,
                                struct culet_error *err);

/**
 * Ends the answer here, for example because it is long enough; culet_session_next() then gives
 * what is left and CULET_EVENT_END. Without an answer it does nothing.
 */
culet_status culet_session_cut(struct culet_session *session, struct culet_error *err);

/**
 * Gives the logits behind the last token, one for each word of the vocabulary; none after
 * culet_session_clear(). They are those of the prompt until culet_session_next() is called. Valid
 * until the next call on the same session.
 */
culet_status culet_session_logits(struct culet_session *session,
                                  const float **data,
                                  size_t *n,
                                  struct culet_error *err);

/**
 * Begins a sound that is heard while it is spoken. It fills the last place of the messages, or
 * else joins the user's turn. Until it ended or was dropped, nothing else can be appended.
 * `stats` may be NULL.
 */
culet_status culet_session_begin_sound(struct culet_session *session,
                                       struct culet_stats *stats,
                                       struct culet_error *err);

/**
 * Hears `n` more samples, one channel: they are encoded and fed at once. Packets may have any
 * size, and give the same as the whole sound at once; all have the same rate. A guess is taken
 * back. If the computation fails, the sound is dropped.
 */
culet_status culet_session_hear(struct culet_session *session,
                                const float *pcm,
                                size_t n,
                                uint32_t rate_hz,
                                struct culet_error *err);

/**
 * Guesses that the speaker has ended, so that the answer can be computed during the pause:
 * culet_session_next() answers. culet_session_end_sound() makes the guess true;
 * culet_session_hear() and culet_session_take_back() undo it without a trace.
 */
culet_status culet_session_guess_end(struct culet_session *session, struct culet_error *err);

/**
 * Takes a guess back, with the answer so far. Without a guess it does nothing. `n_wasted`, which
 * may be NULL, is how many tokens were computed in vain.
 */
culet_status culet_session_take_back(struct culet_session *session,
                                     size_t *n_wasted,
                                     struct culet_error *err);

/**
 * Ends the sound; culet_session_next() answers, or goes on with the answer that was guessed. If
 * it fails, the sound is dropped.
 */
culet_status culet_session_end_sound(struct culet_session *session, struct culet_error *err);

/**
 * Forgets the sound that is being heard, as if it had not begun; what was appended before stays.
 * Without one it does nothing.
 */
culet_status culet_session_drop_sound(struct culet_session *session, struct culet_error *err);

/**
 * Gives options with default values. Free them with culet_assistant_options_free().
 */
culet_status culet_assistant_options_new(struct culet_assistant_options **options,
                                         struct culet_error *err);

/**
 * Takes options back. NULL is fine. Assistants that were made with them are not touched.
 */
void culet_assistant_options_free(struct culet_assistant_options *options);

/**
 * Sets when the microphone counts: one of CULET_MODE_.
 */
culet_status culet_assistant_options_set_mode(struct culet_assistant_options *options,
                                              int32_t mode,
                                              struct culet_error *err);

/**
 * Sets the silence that ends a turn, and the silence after which an answer is begun unheard (0:
 * never), in milliseconds. The defaults are 700 and 250.
 */
culet_status culet_assistant_options_set_silence(struct culet_assistant_options *options,
                                                 uint32_t end_ms,
                                                 uint32_t guess_ms,
                                                 struct culet_error *err);

/**
 * Sets whether answers are spoken. If so, culet_assistant_played() must tell how far, and what is
 * heard meanwhile is ignored, unless `barge_in` lets the user's voice interrupt; that needs
 * headphones or echo cancellation. If not, which is the default, showing is speaking.
 */
culet_status culet_assistant_options_set_aloud(struct culet_assistant_options *options,
                                               bool is_aloud,
                                               bool barge_in,
                                               struct culet_error *err);

/**
 * Sets the most tokens of an answer, and of a picture: 70, 140, 280, 560 or 1120. The defaults
 * are 512 and 70.
 */
culet_status culet_assistant_options_set_tokens_max(struct culet_assistant_options *options,
                                                    size_t n_answer,
                                                    uint32_t n_picture,
                                                    struct culet_error *err);

/**
 * Sets the wake word, a phrase of one to eight words: nothing is answered but what begins with
 * it, or follows it within 8 s, or an answer within `follow_up_ms` (0: never). `listener` writes
 * down what is said until the phrase is heard, and needs an encoder for sounds; a small model
 * saves power, but must know the words. NULL means the assistant's own engine. The options keep
 * what they need of it. Before the phrase was heard the assistant's own model is given nothing.
 * Case and punctuation do not count. A NULL phrase, the default, means that none is needed.
 */
culet_status culet_assistant_options_set_wake(struct culet_assistant_options *options,
                                              const char *phrase,
                                              const struct culet_engine *listener,
                                              uint32_t follow_up_ms,
                                              struct culet_error *err);

/**
 * Makes an assistant with a session of its own; NULL options mean the default values. `messages`
 * is what was said before, as for culet_session_append_messages() but without media: instructions
 * and tools, for example; NULL if nothing. Free it with culet_assistant_free(); it keeps what it
 * needs of the engine, which may be freed before.
 */
culet_status culet_assistant_new(const struct culet_engine *engine,
                                 const struct culet_session_options *session_options,
                                 const struct culet_assistant_options *options,
                                 const char *messages,
                                 uint64_t now_ns,
                                 struct culet_assistant **assistant,
                                 struct culet_error *err);

/**
 * Takes an assistant back. NULL is fine. No other thread may be inside a call on it.
 */
void culet_assistant_free(struct culet_assistant *assistant);

/**
 * Stops the call that computes in this assistant now, or else the next one that computes, with
 * CULET_ERR_CANCELLED; the request is then spent. The turn or answer under way is forgotten, what
 * was said before stays. To interrupt an answer, CULET_TELL_INTERRUPT is the gentler way. Any
 * thread, at any time before the assistant is freed.
 */
void culet_assistant_cancel(const struct culet_assistant *assistant);

/**
 * Hands over `n_frames` samples of each of `n_channels` channels, side by side, nominally from -1
 * to 1, at any usual rate. Nothing is computed; culet_assistant_poll() hears them. At most a
 * minute may wait.
 */
culet_status culet_assistant_push(struct culet_assistant *assistant,
                                  const float *pcm,
                                  size_t n_frames,
                                  uint32_t n_channels,
                                  uint32_t rate_hz,
                                  struct culet_error *err);

/**
 * The same for samples of 16 bits.
 */
culet_status culet_assistant_push_i16(struct culet_assistant *assistant,
                                      const int16_t *pcm,
                                      size_t n_frames,
                                      uint32_t n_channels,
                                      uint32_t rate_hz,
                                      struct culet_error *err);

/**
 * Hands over the newest picture, as for culet_session_append_image(). Whenever the user begins to
 * speak, the newest one that differs from what was seen before goes in before the sound.
 */
culet_status culet_assistant_show(struct culet_assistant *assistant,
                                  const uint8_t *rgb,
                                  uint32_t width,
                                  uint32_t height,
                                  size_t stride_bytes,
                                  struct culet_error *err);

/**
 * Tells what happened after all the sound that was pushed, which is heard first: one of
 * CULET_TELL_.
 */
culet_status culet_assistant_tell(struct culet_assistant *assistant,
                                  uint64_t now_ns,
                                  int32_t what,
                                  struct culet_error *err);

/**
 * Tells how far the voice has said an answer: the `end_bytes` of a piece that is through, or a
 * place within. Only what was said stays in the conversation when the user interrupts.
 */
culet_status culet_assistant_played(struct culet_assistant *assistant,
                                    uint64_t now_ns,
                                    uint32_t answer,
                                    size_t to_bytes,
                                    struct culet_error *err);

/**
 * Hands over the results of the calls in order, as a JSON array: a text or an object each. The
 * answer goes on.
 */
culet_status culet_assistant_results(struct culet_assistant *assistant,
                                     uint64_t now_ns,
                                     const char *json,
                                     struct culet_error *err);

/**
 * Ends the answer at calls that nobody carries out. Without calls it does nothing.
 */
culet_status culet_assistant_leave_calls(struct culet_assistant *assistant,
                                         uint64_t now_ns,
                                         struct culet_error *err);

/**
 * Gives the oldest event. Without one it hears a block of sound that waits (16 ms) or makes a
 * token, and gives what came of it: CULET_SPOKEN_NONE if nothing yet, CULET_SPOKEN_IDLE if there
 * was nothing to do. After an error the turn or answer under way is forgotten, and the
 * conversation goes on. The event's data is valid until the next call on the same assistant.
 */
culet_status culet_assistant_poll(struct culet_assistant *assistant,
                                  uint64_t now_ns,
                                  struct culet_assistant_event *event,
                                  struct culet_error *err);

/**
 * Gives the conversation so far as JSON, as culet_session_append_messages() takes it; each sound
 * and picture is a place. Valid until the next call on the same assistant.
 */
culet_status culet_assistant_conversation(struct culet_assistant *assistant,
                                          const char **data,
                                          size_t *len,
                                          struct culet_error *err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CULET_H */
