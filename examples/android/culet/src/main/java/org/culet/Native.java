/**
 * The calls of culet_jni.c. Texts are UTF-8 bytes: Java's own form for C differs from UTF-8.
 * Numbers of engines and sessions are addresses; 0 is refused. Use Engine and Session instead.
 */
package org.culet;

final class Native {
    private Native() {}

    static native long openEngine(byte[] model, byte[] mmproj, int threads);

    /** Opens parts of open files; a descriptor below 0 leaves the encoders out. */
    static native long openEngineFile(int model, long modelOffset, long modelSize, int mmproj,
            long mmprojOffset, long mmprojSize, int threads);

    static native void freeEngine(long engine);

    static native long newSession(long engine, int contextTokens, float temperature, long seed);

    static native void freeSession(long session);

    static native void appendText(long session, byte[] text);

    static native void appendMessages(long session, byte[] json);

    static native void appendImage(long session, byte[] rgb, int width, int height, int budget);

    static native void appendAudio(long session, float[] samples, int n, int rateHz);

    static native void beginSound(long session);

    static native void hear(long session, float[] samples, int n, int rateHz);

    static native void guessEnd(long session);

    static native void endSound(long session);

    static native void dropSound(long session);

    static native void prompt(long session);

    /** Returns an event: its kind, why the answer stopped, and its text. */
    static native byte[] next(long session);

    static native void cut(long session);

    static native void clear(long session);

    /** May be called by another thread while a call on the session runs. */
    static native void cancel(long session);
}
