/*
 * A C99 program on the C interface: a text, a picture and a sound, then misuse.
 * Arguments: model, mmproj. Prints what it heard back; the status is 0 if all went well.
 */
#include "culet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(culet_status status, const culet_error *err, const char *what) {
    if (status != CULET_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, culet_status_name(status), err->message);
        exit(1);
    }
}

static void expect(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "%s does not hold\n", what);
        exit(1);
    }
}

static void answer(culet_session *session, int n_max) {
    culet_error err;
    culet_event event = {0};
    int n = 0;
    do {
        if (n++ == n_max) {
            check(culet_session_cut(session, &err), &err, "cut");
        }
        check(culet_session_next(session, &event, &err), &err, "next");
        expect(strlen(event.data) == event.len, "a zero behind the data");
        if (event.kind == CULET_EVENT_ANSWER) {
            printf("%s", event.data);
        }
    } while (event.kind != CULET_EVENT_END);
    printf("\n");
    expect(event.stop != CULET_STOP_NONE, "a reason for the end");
}

int main(int argc, char **argv) {
    enum { WIDTH = 48, HEIGHT = 48, RATE_HZ = 16000, SAMPLES = 16000 };
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    static float pcm[SAMPLES];
    culet_error err;
    culet_engine_options *engine_options = NULL;
    culet_session_options *options = NULL;
    culet_engine *engine = NULL;
    culet_session *session = NULL;
    culet_stats stats;
    const uint8_t *data = NULL;
    uint8_t *copy;
    size_t i, size_bytes = 0, n_messages = 0;

    expect(argc == 3, "two arguments");
    expect(culet_abi_version() == CULET_ABI_VERSION, "header and library belong together");
    expect(culet_engine_options_new(0, &engine_options, &err) == CULET_ERR_ABI, "a version");
    check(culet_engine_options_new(CULET_ABI_VERSION, &engine_options, &err), &err, "options");
    check(culet_engine_options_set_threads(engine_options, 1, &err), &err, "threads");
    check(culet_engine_open(engine_options, argv[1], argv[2], &engine, &err), &err, "open");
    expect(culet_engine_sees(engine) && culet_engine_hears(engine), "two encoders");

    check(culet_session_options_new(&options, &err), &err, "options");
    check(culet_session_options_set_size(options, 512, 64, &err), &err, "size");
    check(culet_session_options_set_sampling(options, 0, 0, 1, 0, &err), &err, "sampling");
    check(culet_session_new(engine, options, &session, &err), &err, "session");
    culet_session_options_free(options);
    culet_engine_options_free(engine_options);
    culet_engine_free(engine);

    check(culet_session_append_text(session, "Hello there.", &err), &err, "text");
    check(culet_session_prompt(session, &stats, &err), &err, "prompt");
    expect(culet_session_n_past(session) == stats.n_prompt, "a prompt that was fed");
    answer(session, 16);

    for (i = 0; i < sizeof rgb; i++) {
        rgb[i] = (uint8_t)(i % 251);
    }
    for (i = 0; i < SAMPLES; i++) {
        pcm[i] = 0.3f * sinf((float)i * 0.05f);
    }
    check(culet_session_append_image(session, rgb, WIDTH, HEIGHT, 3 * WIDTH, 70, &err), &err,
          "image");
    check(culet_session_append_text(session, "What is this?", &err), &err, "text");
    check(culet_session_prompt(session, &stats, &err), &err, "prompt");
    expect(stats.n_reused > 0, "tokens kept from before");
    answer(session, 16);

    check(culet_session_begin_sound(session, NULL, &err), &err, "begin");
    for (i = 0; i < SAMPLES; i += 320) {
        check(culet_session_hear(session, pcm + i, 320, RATE_HZ, &err), &err, "hear");
    }
    check(culet_session_guess_end(session, &err), &err, "guess");
    check(culet_session_end_sound(session, &err), &err, "end");
    answer(session, 16);

    expect(culet_session_append_text(session, NULL, &err) == CULET_ERR_NULL, "NULL refused");
    expect(strcmp(err.message, "text is NULL") == 0, "a message");
    check(culet_session_n_messages(session, &n_messages, &err), &err, "messages");
    check(culet_session_snapshot(session, &data, &size_bytes, &err), &err, "snapshot");
    copy = malloc(size_bytes);
    expect(copy != NULL, "memory");
    memcpy(copy, data, size_bytes);
    check(culet_session_rewind(session, 1, &err), &err, "rewind");
    check(culet_session_prompt(session, NULL, &err), &err, "the first prompt again");
    expect(culet_session_restore(session, copy, size_bytes / 2, &err) == CULET_ERR_FORMAT, "half");
    check(culet_session_restore(session, copy, size_bytes, &err), &err, "restore");
    free(copy);
    check(culet_session_n_messages(session, &i, &err), &err, "messages");
    expect(i == n_messages && n_messages >= 3, "all messages back");

    culet_session_cancel(session);
    check(culet_session_append_text(session, "More.", &err), &err, "text");
    expect(culet_session_prompt(session, NULL, NULL) == CULET_ERR_CANCELLED, "a cancelled prompt");
    check(culet_session_prompt(session, NULL, &err), &err, "a prompt again");
    culet_session_free(session);
    culet_session_free(NULL);
    return 0;
}
