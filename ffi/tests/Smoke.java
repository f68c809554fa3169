/**
 * The Android example's JNI layer, used on a desktop: texts, sounds, pictures, refusals, cancelling.
 * In: the JNI library, a model, its encoders. Out: one line for each part.
 */
package org.culet;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

public final class Smoke {
    private static final int RATE_HZ = 16000;
    private static final int ANSWER = 1;
    private static final int END = 5;
    private static final int ERR_FIRST = 101;

    public static void main(String[] args) throws InterruptedException {
        System.load(args[0]);
        check(refused(() -> Native.openEngine(bytes("nö-such-\ud83c\udfa4.gguf"), null, 1))
                .getMessage().contains("nö-such-\ud83c\udfa4.gguf"), "the message names the file");
        refused(() -> Native.openEngineFile(-1, 0, 0, -1, 0, 0, 1));
        long engine = Native.openEngine(bytes(args[1]), bytes(args[2]), 1);
        refused(() -> Native.newSession(0, 4096, 0, 0));
        refused(() -> Native.newSession(engine, 4096, -1, 0));
        long session = Native.newSession(engine, 4096, 0, 0);
        Native.freeEngine(engine);
        Native.freeEngine(0);
        texts(session);
        sounds(session);
        pictures(session);
        cancels(session);
        Native.freeSession(session);
        refused(() -> Native.prompt(0));
    }

    private static void texts(long session) {
        Native.appendText(session, bytes("What is the capital of France? 🎤"));
        String first = say(session);
        check(!first.isEmpty(), "an answer");
        Native.clear(session);
        Native.appendMessages(session,
                bytes("{\"role\": \"user\", \"content\": \"What is the capital of France? 🎤\"}"));
        check(say(session).equals(first), "messages equal a text");
        refused(() -> Native.appendMessages(session, bytes("{")));
        refused(() -> Native.appendText(session, null));
        System.out.println("text: " + first);
    }

    private static void sounds(long session) {
        float[] tone = new float[RATE_HZ];
        for (int i = 0; i < tone.length; i++) {
            tone[i] = (float) (0.3 * Math.sin(i * 0.05));
        }
        Native.clear(session);
        Native.appendAudio(session, tone, tone.length, RATE_HZ);
        String whole = say(session);
        Native.clear(session);
        Native.beginSound(session);
        for (int start = 0; start < tone.length; start += 777) {
            float[] packet = Arrays.copyOfRange(tone, start, start + 777);
            Native.hear(session, packet, Math.min(777, tone.length - start), RATE_HZ);
        }
        Native.guessEnd(session);
        Native.endSound(session);
        check(heard(session).equals(whole), "packets equal the whole sound");
        refused(() -> Native.appendAudio(session, tone, tone.length + 1, RATE_HZ));
        refused(() -> Native.hear(session, tone, 1, RATE_HZ));
        System.out.println("sound: " + whole);
    }

    private static void pictures(long session) {
        byte[] rgb = new byte[3 * 96 * 64];
        for (int i = 0; i < rgb.length; i++) {
            rgb[i] = (byte) (i * 7);
        }
        Native.clear(session);
        Native.appendImage(session, rgb, 96, 64, 70);
        Native.appendText(session, bytes("What do you see?"));
        System.out.println("picture: " + say(session));
        refused(() -> Native.appendImage(session, rgb, 96, 65, 70));
        refused(() -> Native.appendImage(session, rgb, -96, 64, 70));
        refused(() -> Native.appendImage(session, null, 0, 0, 70));
    }

    private static void cancels(long session) throws InterruptedException {
        Native.clear(session);
        Native.appendText(session, bytes("Count to ten."));
        // A request that comes before the call stops it as well, so no clock is needed.
        Thread other = new Thread(() -> Native.cancel(session));
        other.start();
        other.join();
        check(refused(() -> Native.prompt(session)).isCancelled(), "a call is cancelled");
        System.out.println("cancelled and repeated: " + say(session));
    }

    private static String say(long session) {
        Native.prompt(session);
        return heard(session);
    }

    /** Returns an answer's words, of which at most 24 are made. */
    private static String heard(long session) {
        ByteArrayOutputStream words = new ByteArrayOutputStream();
        int n = 0;
        while (true) {
            byte[] event = Native.next(session);
            if (event[0] == END) {
                check(event[1] != 0, "the end has a reason");
                return new String(words.toByteArray(), StandardCharsets.UTF_8);
            }
            if (event[0] == ANSWER) {
                words.write(event, 2, event.length - 2);
                n += 1;
                if (n == 24) {
                    Native.cut(session);
                }
            }
        }
    }

    private static CuletException refused(Runnable call) {
        try {
            call.run();
        } catch (CuletException refusal) {
            check(refusal.status >= ERR_FIRST && !refusal.getMessage().isEmpty(), "a reason");
            return refusal;
        }
        throw new AssertionError("a call that is wrong was accepted");
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
