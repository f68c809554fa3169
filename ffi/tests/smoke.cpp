// A C++17 program on the C interface: owners by `unique_ptr`, cancelling from a second thread.
// Arguments: model, mmproj. The status is 0 if all went well.
#include "culet.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Free {
    void operator()(culet_engine_options *p) const { culet_engine_options_free(p); }
    void operator()(culet_engine *p) const { culet_engine_free(p); }
    void operator()(culet_session *p) const { culet_session_free(p); }
    void operator()(culet_assistant *p) const { culet_assistant_free(p); }
    void operator()(culet_assistant_options *p) const { culet_assistant_options_free(p); }
};

template <typename T> using Owned = std::unique_ptr<T, Free>;

void check(culet_status status, const culet_error &err) {
    if (status != CULET_OK) {
        throw std::runtime_error(std::string(culet_status_name(status)) + ": " + err.message);
    }
}

Owned<culet_engine> open(const char *model, const char *mmproj) {
    culet_error err;
    culet_engine_options *raw = nullptr;
    check(culet_engine_options_new(CULET_ABI_VERSION, &raw, &err), err);
    const Owned<culet_engine_options> options(raw);
    check(culet_engine_options_set_threads(options.get(), 1, &err), err);
    culet_engine *engine = nullptr;
    check(culet_engine_open(options.get(), model, mmproj, &engine, &err), err);
    return Owned<culet_engine>(engine);
}

Owned<culet_session> begin(const culet_engine *engine) {
    culet_error err;
    culet_session *session = nullptr;
    check(culet_session_new(engine, nullptr, &session, &err), err);
    return Owned<culet_session>(session);
}

// A second of sound and what comes of it; a cancelled poll is one that fails.
void listen(const culet_engine *engine) {
    culet_error err;
    culet_assistant *raw = nullptr;
    check(culet_assistant_new(engine, nullptr, nullptr, nullptr, 0, &raw, &err), err);
    const Owned<culet_assistant> assistant(raw);
    std::vector<std::int16_t> pcm(2 * 16000);
    for (std::size_t i = 0; i < pcm.size(); i++) {
        pcm[i] = static_cast<std::int16_t>(i * 7919 % 20011);
    }
    check(culet_assistant_push_i16(assistant.get(), pcm.data(), 16000, 2, 16000, &err), err);
    culet_assistant_event event{};
    while (event.kind != CULET_SPOKEN_IDLE) {
        check(culet_assistant_poll(assistant.get(), 1, &event, &err), err);
        if (std::string(event.data).size() != event.len) {
            throw std::runtime_error("no zero behind the data");
        }
    }
    check(culet_assistant_tell(assistant.get(), 2, CULET_TELL_SLEEP, &err), err);
    check(culet_assistant_poll(assistant.get(), 2, &event, &err), err);
    if (event.state != CULET_STATE_ASLEEP) {
        throw std::runtime_error("expected sleep");
    }
}

// An assistant that needs a wake word waits for it; the engine listens as well as answers.
void wait(const culet_engine *engine) {
    culet_error err;
    culet_assistant_options *raw = nullptr;
    check(culet_assistant_options_new(&raw, &err), err);
    const Owned<culet_assistant_options> options(raw);
    check(culet_assistant_options_set_wake(options.get(), "hello", engine, 5000, &err), err);
    culet_assistant *made = nullptr;
    check(culet_assistant_new(engine, nullptr, options.get(), nullptr, 0, &made, &err), err);
    const Owned<culet_assistant> assistant(made);
    culet_assistant_event event{};
    check(culet_assistant_poll(assistant.get(), 1, &event, &err), err);
    if (event.kind != CULET_SPOKEN_STATE || event.state != CULET_STATE_UNCALLED) {
        throw std::runtime_error("expected to wait for the wake word");
    }
}

} // namespace

int main(int argc, char **argv) try {
    if (argc != 3) {
        throw std::runtime_error("expected a model and an mmproj");
    }
    Owned<culet_engine> engine = open(argv[1], argv[2]);
    Owned<culet_session> session = begin(engine.get());
    listen(engine.get());
    wait(engine.get());
    engine.reset();

    culet_error err;
    std::string words;
    for (int i = 0; i < 300; i++) {
        words += "one two three four ";
    }
    check(culet_session_append_text(session.get(), words.c_str(), &err), err);
    std::atomic<bool> was_cancelled{false};
    std::thread canceller([&] {
        while (!was_cancelled) {
            culet_session_cancel(session.get());
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    while (!was_cancelled) {
        const culet_status status = culet_session_prompt(session.get(), nullptr, &err);
        was_cancelled = status == CULET_ERR_CANCELLED;
    }
    canceller.join();
    check(culet_session_clear(session.get(), &err), err);
    check(culet_session_append_text(session.get(), "Hello.", &err), err);
    check(culet_session_prompt(session.get(), nullptr, &err), err);
    culet_event event{};
    for (int n = 0; event.kind != CULET_EVENT_END; n++) {
        if (n == 16) {
            check(culet_session_cut(session.get(), &err), err);
        }
        check(culet_session_next(session.get(), &event, &err), err);
        if (event.kind == CULET_EVENT_ANSWER) {
            std::cout << std::string(event.data, event.len);
        }
    }
    std::cout << '\n';
    return 0;
} catch (const std::exception &e) {
    std::cerr << e.what() << '\n';
    return 1;
}
