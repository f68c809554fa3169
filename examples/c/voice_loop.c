/*
 * A voice assistant: sound in, words out. Standard input stands in for the microphone: 32-bit
 * floats, one channel, 16 kHz; the clock is the sound itself. The library finds out when somebody
 * speaks and when it is the assistant's turn. A third argument sets the number of threads, a
 * fourth is what was said before, as JSON: instructions, for example, or tools. With a fifth, only
 * what begins with it is answered, or follows an answer within 5 s.
 *
 *   arecord -f FLOAT_LE -r 16000 | ./voice_loop model.gguf mmproj.gguf
 *
 * Needs the library, its header and a model that hears. Run here: with the small model that ships and
 * sounds from files in place of arecord, on x86-64 Linux, by `cargo test -p culet-ffi`.
 */
#include <culet.h>

#include <stdio.h>
#include <stdlib.h>

enum { RATE_HZ = 16000, PACKET = 320, ANSWER_MAX = 256, PICTURE_MAX = 70, FOLLOW_UP_MS = 5000 };

static culet_error err;

static void check(culet_status status) {
    if (status != CULET_OK) {
        fprintf(stderr, "culet: %s\n", err.message);
        exit(1);
    }
}

static culet_assistant *open_assistant(int argc, char **argv) {
    culet_engine_options *engine_options;
    culet_assistant_options *options;
    culet_engine *engine;
    culet_assistant *assistant;
    size_t n_threads = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    const char *messages = argc > 4 ? argv[4] : NULL;
    const char *phrase = argc > 5 ? argv[5] : NULL;
    check(culet_engine_options_new(CULET_ABI_VERSION, &engine_options, &err));
    check(culet_engine_options_set_threads(engine_options, n_threads, &err));
    check(culet_engine_open(engine_options, argv[1], argv[2], &engine, &err));
    check(culet_assistant_options_new(&options, &err));
    check(culet_assistant_options_set_tokens_max(options, ANSWER_MAX, PICTURE_MAX, &err));
    check(culet_assistant_options_set_wake(options, phrase, NULL, FOLLOW_UP_MS, &err));
    check(culet_assistant_new(engine, NULL, options, messages, 0, &assistant, &err));
    culet_assistant_options_free(options);
    culet_engine_options_free(engine_options);
    culet_engine_free(engine);
    return assistant;
}

/* Does all there is to do. A voice would speak the words here, and tell how far it is by
 * culet_assistant_played(), after culet_assistant_options_set_aloud(). */
static void work(culet_assistant *assistant, uint64_t now_ns) {
    culet_assistant_event event = {0};
    while (event.kind != CULET_SPOKEN_IDLE) {
        check(culet_assistant_poll(assistant, now_ns, &event, &err));
        switch (event.kind) {
        case CULET_SPOKEN_TURN:
            fprintf(stderr, "heard %.1f s\n", event.to_s - event.from_s);
            break;
        case CULET_SPOKEN_SAY:
            fwrite(event.data, 1, event.len, stdout);
            break;
        case CULET_SPOKEN_CALLS:
            /* Tools would run here, and culet_assistant_results() tell what came of it. */
            fwrite(event.data, 1, event.len, stdout);
            check(culet_assistant_leave_calls(assistant, now_ns, &err));
            break;
        case CULET_SPOKEN_END:
            printf("\n");
            break;
        default:
            break;
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    float pcm[PACKET];
    uint64_t n_heard = 0, now_ns = 0;
    size_t n;
    culet_assistant *assistant;
    if (argc < 3 || argc > 6) {
        fprintf(stderr, "usage: voice_loop MODEL MMPROJ [THREADS [MESSAGES [PHRASE]]] < SOUND\n");
        return 2;
    }
    assistant = open_assistant(argc, argv);
    while ((n = fread(pcm, sizeof *pcm, PACKET, stdin)) > 0) {
        n_heard += n;
        now_ns = n_heard * 1000000000u / RATE_HZ;
        check(culet_assistant_push(assistant, pcm, n, 1, RATE_HZ, &err));
        work(assistant, now_ns);
    }
    check(culet_assistant_tell(assistant, now_ns, CULET_TELL_END_TURN, &err));
    work(assistant, now_ns);
    culet_assistant_free(assistant);
    return 0;
}
