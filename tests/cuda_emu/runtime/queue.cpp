/* Streams advance: by a thread each, at once, or under Mode::sched when the host waits, in an order that suits the caller least. */
#include <climits>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/state.h"

namespace air::fake {

namespace {

long futex(std::atomic<int> *word, int operation, int value) { return syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0); }
long futex(std::atomic<unsigned> *word, int operation, unsigned value)
{
    return syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0);
}

bool runnable(const Stream &stream)
{
    if (stream.busy || stream.queue.empty()) return false;
    const CompletionPtr &wait = stream.queue.front()->wait;
    return !wait || wait->done;
}

/* Whether a fault falls on the operation that the stream runs next: its device has failed from now on. */
void inject_faults(Stream &stream)
{
    State &s = state();
    Device &device = device_of(stream.device);
    s.stats.ops++;
    device.ops++;
    if (s.stats.ops == s.fault_op && !device.failed) device.failed = s.fault_op_error;
    if (device.lose_at >= 0 && device.ops >= device.lose_at) {
        device.lost = true;
        device.failed = cudaErrorDevicesUnavailable;
    }
}

/* Runs the stream's first operation, with the gate open. On a failed device nothing is done, but events complete: none may hang. */
void run_first(Stream &stream)
{
    State &s = state();
    std::unique_ptr<Op> op = std::move(stream.queue.front());
    stream.queue.pop_front();
    stream.busy = true;
    inject_faults(stream);
    bool skip = failure_of(stream.device) != cudaSuccess;
    s.gate.unlock();

    sanitizer::acquire(&op->order);
    sanitizer::acquire(&stream.order);  /* operations before it, which another host thread may have run */
    if (op->wait) sanitizer::acquire(op->wait.get());
    cudaError_t error = op->work && !skip ? op->work() : cudaSuccess;
    op->work = nullptr;
    if (op->record) {
        op->record->at = Clock::now();
        sanitizer::release(op->record.get());
    }
    sanitizer::release(&stream.order);

    s.gate.lock();
    if (error && !failure_of(stream.device)) device_of(stream.device).failed = error;
    if (op->record) op->record->done = true;
    stream.busy = false;
    s.gate.notify();
}

void work_off(Stream *stream)
{
    Lock lock;
    for (;;) {
        if (stream->quit) return;
        if (cfg.mode == Mode::threads && runnable(*stream)) run_first(*stream);
        else state().gate.wait();
    }
}

/* Advances the stream by one operation, or first whatever that waits for. */
bool force(Stream *stream)
{
    while (stream && !stream->queue.empty() && !stream->busy) {
        const CompletionPtr &wait = stream->queue.front()->wait;
        if (!wait || wait->done) {
            run_first(*stream);
            return true;
        }
        stream = wait->stream;
    }
    return false;
}

bool run_any(bool random)
{
    std::vector<Stream *> ready;
    for (Stream *stream : state().streams)
        if (runnable(*stream)) ready.push_back(stream);
    if (ready.empty()) return false;
    run_first(*ready[random ? next_random() % ready.size() : 0]);
    return true;
}

bool any_busy()
{
    for (const Stream *stream : state().streams)
        if (stream->busy) return true;
    return false;
}

/* Opens the gate until blocker() names no stream that must advance. Asked anew each time: other threads end streams meanwhile. */
template <class Blocker>
void wait_until_none(Blocker blocker)
{
    while (Stream *needed = blocker()) {
        if (cfg.mode == Mode::threads) {
            state().gate.wait();
            continue;
        }
        bool random = cfg.mode == Mode::sched && cfg.seed != 0;
        if (random ? run_any(true) : force(needed) || run_any(false)) continue;
        if (any_busy()) {  /* another host thread is at it */
            state().gate.wait();
            continue;
        }
        note("deadlock: the host waits for work that can never complete");
        device_of(needed->device).failed = cudaErrorUnknown;
        return;
    }
}

void start_worker(Stream &stream)
{
    if (!stream.worker.joinable()) stream.worker = std::thread(work_off, &stream);
}

}  // namespace

void Gate::lock()
{
    int open = 0;
    if (!state.compare_exchange_strong(open, 1))
        while (state.exchange(2)) futex(&state, FUTEX_WAIT_PRIVATE, 2);
    sanitizer::ignore_begin();
}

void Gate::unlock()
{
    sanitizer::ignore_end();
    if (state.exchange(0) == 2) futex(&state, FUTEX_WAKE_PRIVATE, 1);
}

void Gate::wait()
{
    unsigned seen = notified;
    unlock();
    futex(&notified, FUTEX_WAIT_PRIVATE, seen);
    lock();
}

void Gate::notify()
{
    notified++;
    futex(&notified, FUTEX_WAKE_PRIVATE, static_cast<unsigned>(INT_MAX));
}

cudaError_t push(Stream &stream, Work work, CompletionPtr wait, CompletionPtr record)
{
    if (stream.capture) return capture_work(stream, std::move(work));
    if (record) record->stream = &stream;
    stream.queue.push_back(std::unique_ptr<Op>(new Op{std::move(work), std::move(wait), std::move(record), 0}));
    sanitizer::release(&stream.queue.back()->order);
    switch (cfg.mode) {
    case Mode::threads:
        start_worker(stream);
        state().gate.notify();
        break;
    case Mode::sync:
        while (runnable(stream)) run_first(stream);
        break;
    case Mode::sched:  /* at random some work, of any stream, gets done before the host goes on */
        for (unsigned n = cfg.seed ? next_random() % 3 : 0; n > 0; n--) {
            Stream *any = state().streams[next_random() % state().streams.size()];
            if (runnable(*any)) run_first(*any);
        }
    }
    return cudaSuccess;
}

bool is_idle(const Stream &stream) { return stream.queue.empty() && !stream.busy; }

void wait_idle(Stream &stream)
{
    wait_until_none([&] { return is_idle(stream) ? nullptr : &stream; });
    sanitizer::acquire(&stream.order);
}

void wait_all_idle(int device)
{
    auto concerns = [=](const Stream *stream) { return device == HOST || stream->device == device; };
    wait_until_none([&]() -> Stream * {
        for (Stream *stream : state().streams)
            if (concerns(stream) && !is_idle(*stream)) return stream;
        return nullptr;
    });
    for (Stream *stream : state().streams)
        if (concerns(stream)) sanitizer::acquire(&stream->order);
}

void wait_for(const CompletionPtr &completion)
{
    wait_until_none([&] { return completion->done ? nullptr : completion->stream; });
    sanitizer::acquire(completion.get());
}

}  // namespace air::fake
