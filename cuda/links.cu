/* What the links of several devices give at once: copies from page-locked memory to all of them for the same while. Two that share a root
 * port, or a switch, give less than one after the other; so do many that read the host's memory faster than it can be read. */
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <thread>

#include "base/checked.h"
#include "cuda/backend.h"
#include "platform/clock.h"

namespace {

constexpr uint64_t PIECE_LEAST = 64 << 10, PIECE_MOST = 32 << 20; /* what one copy takes: as large as tiles are */
constexpr int COPIES = 4;                                         /* enqueued before the host looks at the clock again */

double now() { return (double)air_clock_ns() * 1e-9; }

/* Where those that are ready wait for the others; whether all are. */
class Start {
public:
    explicit Start(int n) : missing(n) {}

    bool arrive(bool ready)
    {
        std::unique_lock<std::mutex> lock(mutex);
        leave(1, ready);
        there.wait(lock, [this] { return missing == 0; });
        return all_ready;
    }

    void never_come(int n)
    {
        std::lock_guard<std::mutex> lock(mutex);
        leave(n, false);
    }

private:
    void leave(int n, bool ready)
    {
        all_ready = all_ready && ready;
        missing -= n;
        if (missing == 0) there.notify_all();
    }

    std::mutex mutex;
    std::condition_variable there;
    int missing;
    bool all_ready = true;
};

struct link {
    int32_t device;
    cudaStream_t stream;
    uint8_t *vram, *host;
    double rate;
    air_status st;
    air_error err;
};

air_status copies(link *l, uint64_t bytes, int n)
{
    for (int i = 0; i < n; i++)
        AIR_CUDA_TRY(cudaMemcpyAsync(l->vram, l->host, bytes, cudaMemcpyHostToDevice, l->stream), "copying for a measurement", &l->err);
    AIR_CUDA_TRY(cudaStreamSynchronize(l->stream), "copying for a measurement", &l->err);
    return AIR_OK;
}

air_status prepare(link *l, uint64_t bytes)
{
    AIR_CUDA_TRY(cudaSetDevice(l->device), "choosing the device", &l->err);
    AIR_CUDA_TRY(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "a stream", &l->err);
    air_status st = air_cuda_vram((void **)&l->vram, bytes, "a measurement", &l->err);
    if (!st) st = air_cuda_locked((void **)&l->host, bytes, "a measurement", &l->err);
    if (st) return st;
    memset(l->host, 0x55, bytes);
    return copies(l, bytes, 1);
}

air_status measure(link *l, uint64_t bytes, double seconds)
{
    double began = now(), took;
    uint64_t copied = 0;
    do {
        air_status st = copies(l, bytes, COPIES);
        if (st) return st;
        copied += COPIES * bytes;
        took = now() - began;
    } while (took < seconds);
    l->rate = (double)copied / std::max(took, 1e-9);
    return AIR_OK;
}

void run(link *l, Start *start, uint64_t bytes, double seconds)
{
    l->st = prepare(l, bytes);
    if (start->arrive(!l->st)) l->st = measure(l, bytes, seconds);
    if (l->stream) (void)cudaStreamSynchronize(l->stream);
    (void)cudaFree(l->vram);
    (void)cudaFreeHost(l->host);
    if (l->stream) (void)cudaStreamDestroy(l->stream);
    (void)cudaGetLastError(); /* what this failed with is not the next one's */
}

} // namespace

air_status air_cuda_probe_links(const int32_t *devices, int32_t n, uint64_t bytes, double seconds, double *out, air_error *err)
{
    link links[AIR_DEVICES_MOST] = {};
    std::thread threads[AIR_DEVICES_MOST];
    Start start(n);
    uint64_t piece = air_round_up(std::clamp(bytes, PIECE_LEAST, PIECE_MOST), AIR_DEVICE_ALIGN);
    air_status st = AIR_OK;
    int32_t begun = 0;
    try {
        for (; begun < n; begun++) {
            links[begun].device = devices[begun];
            threads[begun] = std::thread(run, &links[begun], &start, piece, seconds);
        }
    } catch (const std::exception &) { /* no more threads, or no memory for one */
        start.never_come(n - begun);
        st = air_fail(err, AIR_E_NOMEM, "cuda: a thread");
    }
    for (int32_t i = 0; i < begun; i++) threads[i].join();
    for (int32_t i = 0; i < begun && !st; i++)
        if (links[i].st) st = air_fail(err, links[i].st, "%s", links[i].err.text);
    for (int32_t i = 0; i < n && !st; i++) out[i] = links[i].rate;
    return st;
}
