/*
 * Culet's C interface for Java and Kotlin: one function for each method of org.culet.Native.
 * In: numbers that are addresses, arrays. Out: results, or a CuletException.
 */
#include <culet.h>
#include <jni.h>
#include <stdlib.h>
#include <string.h>

#define NATIVE(result, name) JNIEXPORT result JNICALL Java_org_culet_Native_##name
#define UNUSED(x) ((void)(x))

static culet_session *session_of(jlong raw) { return (culet_session *)(intptr_t)raw; }

/* Throws what a call says; while an exception is pending nothing else may be called. */
static void throw_new(JNIEnv *env, int32_t status, const char *message) {
    jclass kind = (*env)->FindClass(env, "org/culet/CuletException");
    if (kind == NULL) return;
    jmethodID make = (*env)->GetMethodID(env, kind, "<init>", "(I[B)V");
    jsize n = (jsize)strlen(message);
    jbyteArray text = make == NULL ? NULL : (*env)->NewByteArray(env, n);
    if (text == NULL) return;
    (*env)->SetByteArrayRegion(env, text, 0, n, (const jbyte *)message);
    jobject error = (*env)->NewObject(env, kind, make, (jint)status, text);
    if (error != NULL) (*env)->Throw(env, (jthrowable)error);
}

static int check(JNIEnv *env, culet_status status, const culet_error *err) {
    if (status == CULET_OK) return 1;
    throw_new(env, status, err->message);
    return 0;
}

/* Copies UTF-8 bytes into a text of C; NULL for null. The caller frees it. */
static char *text_of(JNIEnv *env, jbyteArray bytes) {
    if (bytes == NULL) return NULL;
    jsize n = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)n + 1);
    if (text == NULL) return NULL;
    (*env)->GetByteArrayRegion(env, bytes, 0, n, (jbyte *)text);
    text[n] = '\0';
    return text;
}

static culet_engine_options *options_of(JNIEnv *env, jint threads) {
    culet_error err;
    culet_engine_options *options = NULL;
    culet_status status = culet_engine_options_new(CULET_ABI_VERSION, &options, &err);
    if (!check(env, status, &err)) return NULL;
    status = culet_engine_options_set_threads(options, threads < 0 ? 0 : (size_t)threads, &err);
    if (check(env, status, &err)) return options;
    culet_engine_options_free(options);
    return NULL;
}

NATIVE(jlong, openEngine)
(JNIEnv *env, jclass self, jbyteArray model, jbyteArray mmproj, jint threads) {
    UNUSED(self);
    culet_error err;
    culet_engine *engine = NULL;
    culet_engine_options *options = options_of(env, threads);
    if (options == NULL) return 0;
    char *model_path = text_of(env, model), *mmproj_path = text_of(env, mmproj);
    check(env, culet_engine_open(options, model_path, mmproj_path, &engine, &err), &err);
    free(model_path);
    free(mmproj_path);
    culet_engine_options_free(options);
    return (jlong)(intptr_t)engine;
}

NATIVE(jlong, openEngineFile)
(JNIEnv *env, jclass self, jint model, jlong model_offset, jlong model_size, jint mmproj,
 jlong mmproj_offset, jlong mmproj_size, jint threads) {
    UNUSED(self);
    culet_error err;
    culet_engine *engine = NULL;
    culet_engine_options *options = options_of(env, threads);
    if (options == NULL) return 0;
    culet_file first = {model, (uint64_t)model_offset, (uint64_t)model_size};
    culet_file second = {mmproj, (uint64_t)mmproj_offset, (uint64_t)mmproj_size};
    const culet_file *encoders = mmproj < 0 ? NULL : &second;
    check(env, culet_engine_open_file(options, &first, encoders, &engine, &err), &err);
    culet_engine_options_free(options);
    return (jlong)(intptr_t)engine;
}

NATIVE(void, freeEngine)(JNIEnv *env, jclass self, jlong engine) {
    UNUSED(env);
    UNUSED(self);
    culet_engine_free((culet_engine *)(intptr_t)engine);
}

NATIVE(jlong, newSession)
(JNIEnv *env, jclass self, jlong engine, jint n_ctx, jfloat temperature, jlong seed) {
    UNUSED(self);
    culet_error err;
    culet_session *session = NULL;
    culet_session_options *options = NULL;
    if (!check(env, culet_session_options_new(&options, &err), &err)) return 0;
    size_t context = n_ctx < 0 ? 0 : (size_t)n_ctx, batch = context < 512 ? context : 512;
    if (check(env, culet_session_options_set_size(options, context, batch, &err), &err) &&
        check(env, culet_session_options_set_sampling(options, temperature, 64, 0.95f, 0, &err),
              &err) &&
        check(env, culet_session_options_set_seed(options, (uint64_t)seed, &err), &err)) {
        culet_engine *from = (culet_engine *)(intptr_t)engine;
        check(env, culet_session_new(from, options, &session, &err), &err);
    }
    culet_session_options_free(options);
    return (jlong)(intptr_t)session;
}

NATIVE(void, freeSession)(JNIEnv *env, jclass self, jlong session) {
    UNUSED(env);
    UNUSED(self);
    culet_session_free(session_of(session));
}

NATIVE(void, appendText)(JNIEnv *env, jclass self, jlong session, jbyteArray text) {
    UNUSED(self);
    culet_error err;
    char *copy = text_of(env, text);
    check(env, culet_session_append_text(session_of(session), copy, &err), &err);
    free(copy);
}

NATIVE(void, appendMessages)(JNIEnv *env, jclass self, jlong session, jbyteArray json) {
    UNUSED(self);
    culet_error err;
    char *copy = text_of(env, json);
    check(env, culet_session_append_messages(session_of(session), copy, &err), &err);
    free(copy);
}

NATIVE(void, appendImage)
(JNIEnv *env, jclass self, jlong session, jbyteArray rgb, jint width, jint height, jint budget) {
    UNUSED(self);
    culet_error err;
    int64_t n = rgb == NULL ? 0 : (*env)->GetArrayLength(env, rgb);
    if (rgb == NULL || width < 0 || height < 0 || budget < 0 || n / 3 < (int64_t)width * height) {
        throw_new(env, CULET_ERR_INPUT, "the array is shorter than width times height pixels of 3");
        return;
    }
    jbyte *pixels = (*env)->GetByteArrayElements(env, rgb, NULL);
    if (pixels == NULL) return;
    culet_status status = culet_session_append_image(
        session_of(session), (const uint8_t *)pixels, (uint32_t)width, (uint32_t)height,
        3 * (size_t)width, (uint32_t)budget, &err);
    (*env)->ReleaseByteArrayElements(env, rgb, pixels, JNI_ABORT);
    check(env, status, &err);
}

typedef culet_status (*take_sound)(culet_session *, const float *, size_t, uint32_t,
                                   culet_error *);

static void give_sound(JNIEnv *env, jlong session, jfloatArray samples, jint n, jint rate_hz,
                       take_sound take) {
    culet_error err;
    if (samples == NULL || n < 0 || rate_hz < 0 || (*env)->GetArrayLength(env, samples) < n) {
        throw_new(env, CULET_ERR_INPUT, "the array is shorter than the sound");
        return;
    }
    jfloat *values = (*env)->GetFloatArrayElements(env, samples, NULL);
    if (values == NULL) return;
    culet_status status =
        take(session_of(session), values, (size_t)n, (uint32_t)rate_hz, &err);
    (*env)->ReleaseFloatArrayElements(env, samples, values, JNI_ABORT);
    check(env, status, &err);
}

NATIVE(void, appendAudio)
(JNIEnv *env, jclass self, jlong session, jfloatArray samples, jint n, jint rate_hz) {
    UNUSED(self);
    give_sound(env, session, samples, n, rate_hz, culet_session_append_audio);
}

NATIVE(void, hear)
(JNIEnv *env, jclass self, jlong session, jfloatArray samples, jint n, jint rate_hz) {
    UNUSED(self);
    give_sound(env, session, samples, n, rate_hz, culet_session_hear);
}

NATIVE(void, beginSound)(JNIEnv *env, jclass self, jlong session) {
    UNUSED(self);
    culet_error err;
    check(env, culet_session_begin_sound(session_of(session), NULL, &err), &err);
}

NATIVE(void, prompt)(JNIEnv *env, jclass self, jlong session) {
    UNUSED(self);
    culet_error err;
    check(env, culet_session_prompt(session_of(session), NULL, &err), &err);
}

#define PLAIN(name, call)                                              \
    NATIVE(void, name)(JNIEnv *env, jclass self, jlong session) {      \
        UNUSED(self);                                                  \
        culet_error err;                                               \
        check(env, call(session_of(session), &err), &err);             \
    }

PLAIN(guessEnd, culet_session_guess_end)
PLAIN(endSound, culet_session_end_sound)
PLAIN(dropSound, culet_session_drop_sound)
PLAIN(cut, culet_session_cut)
PLAIN(clear, culet_session_clear)

NATIVE(jbyteArray, next)(JNIEnv *env, jclass self, jlong session) {
    UNUSED(self);
    culet_error err;
    culet_event event;
    memset(&event, 0, sizeof event);
    if (!check(env, culet_session_next(session_of(session), &event, &err), &err)) return NULL;
    jbyte head[2] = {(jbyte)event.kind, (jbyte)event.stop};
    jbyteArray out = (*env)->NewByteArray(env, (jsize)(event.len + 2));
    if (out == NULL) return NULL;
    (*env)->SetByteArrayRegion(env, out, 0, 2, head);
    if (event.len > 0) {
        (*env)->SetByteArrayRegion(env, out, 2, (jsize)event.len, (const jbyte *)event.data);
    }
    return out;
}

NATIVE(void, cancel)(JNIEnv *env, jclass self, jlong session) {
    UNUSED(env);
    UNUSED(self);
    culet_session_cancel(session_of(session));
}
