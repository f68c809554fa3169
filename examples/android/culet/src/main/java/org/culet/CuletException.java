/** What a call refused, with the number of its status. */
package org.culet;

import java.nio.charset.StandardCharsets;

public class CuletException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** The status of a call that was stopped by cancel(); it can be repeated. */
    public static final int CANCELLED = 108;

    public final int status;

    CuletException(int status, byte[] message) {
        super(new String(message, StandardCharsets.UTF_8));
        this.status = status;
    }

    public boolean isCancelled() {
        return status == CANCELLED;
    }
}
