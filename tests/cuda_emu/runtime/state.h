/* runtime/state.h: what the emulated runtime is made of; private to runtime/.
 *
 * One State per process, under one Gate; work runs with the gate open. Every call of the API goes through call() or release(), which
 * hold the gate, count, inject faults and remember the thread's last error. */
#ifndef AIR_CUDA_EMU_STATE_H
#define AIR_CUDA_EMU_STATE_H

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime.h"
#include "simt/sanitizer.h"

namespace air::fake {

using Clock = std::chrono::steady_clock;
using Work = std::function<cudaError_t()>;

/* A lock and its condition on bare futexes: ThreadSanitizer sees neither, so the runtime's own locking orders nothing for it. */
class Gate {
public:
    void lock();
    void unlock();
    void wait();   /* opens, until a notify, closes */
    void notify();

private:
    std::atomic<int> state{0};           /* 0 open, 1 closed, 2 closed and waited for */
    std::atomic<unsigned> notified{0};
};

struct Stream;

/* One recording of an event: waits refer to this, not to the event, which may be recorded again. */
struct Completion {
    std::atomic<bool> done{false};
    Clock::time_point at;
    Stream *stream = nullptr;            /* where it is to be recorded; alive while not done */
};
using CompletionPtr = std::shared_ptr<Completion>;

struct Op {
    Work work;                           /* may be empty */
    CompletionPtr wait, record;          /* before and after it; may be null */
    char order;                          /* address for ThreadSanitizer: enqueued before run */
};

struct Capture;

struct Stream {
    int device;
    std::deque<std::unique_ptr<Op>> queue;
    bool busy = false, quit = false;
    std::thread worker;                  /* Mode::threads */
    std::shared_ptr<Capture> capture;    /* being recorded into a graph, as its lane */
    int lane = 0;
    char order;                          /* for ThreadSanitizer: run before whoever waits for the stream */
};

struct Event {
    int device;
    bool timed;
    CompletionPtr last;                  /* of the latest cudaEventRecord, or null */
    std::shared_ptr<Capture> capture;    /* recorded last in a capture, as its completion */
    int completion = -1;
};

enum { HOST = -1 };

struct Allocation {
    size_t bytes, charged;
    int device;                          /* or HOST */
    bool registered;                     /* memory of the caller's */
};

struct Device {
    size_t used = 0, peak = 0;
    cudaError_t failed = cudaSuccess;    /* sticky */
    bool lost = false;
    long ops = 0, lose_at = -1;
    Stream *null_stream = nullptr;
    std::set<int> peers;                 /* whose memory it may use */
    std::map<const void *, size_t> dynamic_shared;  /* by kernel: cudaFuncSetAttribute */
    std::atomic<int> copying[2] = {};    /* its copy engines, one per direction */
};

struct Fault {
    std::string api;
    long nth;
    cudaError_t error;
};

struct State {
    int process = 0; /* that used it first */
    Gate gate;
    std::map<char *, Allocation> memory;
    std::vector<Stream *> streams;       /* null streams and lanes of graphs too */
    std::set<Event *> events;
    std::array<Device, MAX_DEVICES> device;
    std::vector<Fault> faults;
    std::map<std::string, long> calls;   /* by API */
    long fault_op = -1;
    cudaError_t fault_op_error = cudaSuccess;
    unsigned random = 1;
    size_t registered_bytes = 0;
    Stats stats{};
    std::atomic<long> downloaded{0};     /* counted with the gate open */
    std::string log;
};

State &state();
extern thread_local int current_device;

struct Lock {
    Lock() { state().gate.lock(); }
    ~Lock() { state().gate.unlock(); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;
};

/* --- control.cpp: calls and errors; the gate is held from here on unless said --- */

enum class Needs { nothing, driver, device };

cudaError_t enter(const char *api, Needs needs);
cudaError_t remember(cudaError_t error);
void note(const std::string &complaint);
unsigned next_random();
inline Device &device_of(int device) { return state().device[static_cast<size_t>(device)]; }
inline cudaError_t failure_of(int device) { return device_of(device).failed; }

template <class Body>
cudaError_t call(const char *api, Needs needs, Body body)
{
    Lock lock;
    cudaError_t error = enter(api, needs);
    if (!error) error = body();
    return remember(error);
}

/* A call that gives something back: done even where it fails. */
template <class Body>
cudaError_t release(const char *api, Body body)
{
    Lock lock;
    cudaError_t refused = enter(api, Needs::device), error = body();
    return remember(error ? error : refused);
}

/* --- queue.cpp --- */

/* Enqueues; in a capture, records. Waits are whole before work runs, record is done after it. */
cudaError_t push(Stream &stream, Work work, CompletionPtr wait = nullptr, CompletionPtr record = nullptr);
/* Opens the gate until a completion is done, or streams are idle. */
void wait_for(const CompletionPtr &completion);
void wait_idle(Stream &stream);
void wait_all_idle(int device);          /* HOST: of every device */
bool is_idle(const Stream &stream);

/* --- stream.cpp --- */

Stream *find_stream(cudaStream_t handle);  /* the current device's null stream for 0; null for no stream */
Stream *new_stream(int device);
void delete_stream(Stream *stream);        /* waits for it */

/* --- memory.cpp --- */

/* The allocation that [p, p + bytes) lies in, or null. */
Allocation *find_memory(const void *p, size_t bytes);
bool may_use(int device, const Allocation &memory);

/* --- graph.cpp --- */

cudaError_t capture_work(Stream &stream, Work work);
cudaError_t capture_record(Stream &stream, Event &event);
cudaError_t capture_wait(Stream &stream, Event &event);
/* A call that no stream may be captured during, or that a captured stream cannot take: spoils the capture. */
cudaError_t refuse_in_capture();
cudaError_t refuse_captured(Stream &stream);

}  // namespace air::fake

#endif
