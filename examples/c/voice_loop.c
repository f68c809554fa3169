/*
 * A voice loop: sound in, words out. Standard input stands in for the microphone: 32-bit floats,
 * one channel, 16 kHz. A pause of 0.6 s ends what the speaker says; the answer is guessed after
 * 0.3 s, so that it is ready by then. A third argument sets the number of threads.
 *
 *   arecord -f FLOAT_LE -r 16000 | ./voice_loop model.gguf mmproj.gguf
 */
#include <culet.h>

#include <stdio.h>
#include <stdlib.h>

enum { RATE_HZ = 16000, PACKET = 320, GUESS = 15, END = 30, ANSWER_MAX = 256 };

static culet_error err;

static void check(culet_status status) {
    if (status != CULET_OK) {
        fprintf(stderr, "culet: %s\n", err.message);
        exit(1);
    }
}

/* A stand-in for a voice detector. */
static int is_speech(const float *pcm, size_t n) {
    double energy = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        energy += (double)pcm[i] * pcm[i];
    }
    return energy > 1e-4 * (double)n;
}

/* A voice would speak the words here. */
static void answer(culet_session *session) {
    culet_event event = {0};
    int n = 0;
    while (event.kind != CULET_EVENT_END) {
        if (n++ == ANSWER_MAX) {
            check(culet_session_cut(session, &err));
        }
        check(culet_session_next(session, &event, &err));
        if (event.kind == CULET_EVENT_ANSWER || event.kind == CULET_EVENT_TOOL_CALL) {
            fwrite(event.data, 1, event.len, stdout);
            fflush(stdout);
        }
    }
    printf("\n");
}

static culet_session *open_session(char **argv, size_t n_threads) {
    culet_engine_options *options;
    culet_engine *engine;
    culet_session *session;
    check(culet_engine_options_new(CULET_ABI_VERSION, &options, &err));
    check(culet_engine_options_set_threads(options, n_threads, &err));
    check(culet_engine_open(options, argv[1], argv[2], &engine, &err));
    check(culet_session_new(engine, NULL, &session, &err));
    culet_engine_options_free(options);
    culet_engine_free(engine);
    return session;
}

int main(int argc, char **argv) {
    float pcm[PACKET];
    int is_hearing = 0, n_silent = 0;
    size_t n;
    culet_session *session;
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: voice_loop MODEL MMPROJ [THREADS] < SOUND\n");
        return 2;
    }
    session = open_session(argv, argc > 3 ? strtoul(argv[3], NULL, 10) : 0);
    while ((n = fread(pcm, sizeof *pcm, PACKET, stdin)) > 0) {
        n_silent = is_speech(pcm, n) ? 0 : n_silent + 1;
        if (!is_hearing && n_silent == 0) {
            check(culet_session_begin_sound(session, NULL, &err));
            is_hearing = 1;
        }
        if (is_hearing && n_silent < GUESS) {
            check(culet_session_hear(session, pcm, n, RATE_HZ, &err));
        } else if (is_hearing && n_silent == GUESS) {
            check(culet_session_guess_end(session, &err));
        } else if (is_hearing && n_silent == END) {
            check(culet_session_end_sound(session, &err));
            answer(session);
            is_hearing = 0;
        }
    }
    if (is_hearing) {
        check(culet_session_end_sound(session, &err));
        answer(session);
    }
    culet_session_free(session);
    return 0;
}
