/* Passes alike as one launch. Where all weights are on the device, a pass over a few generated rows is some hundred launches of a few
 * microseconds each, which the host takes longer to ask for than the device to do. The second of two passes alike is captured, from its
 * inputs' way up to its results' way down, and launched again for every one that follows, until one is not.
 *
 * A graph is launched as a whole: it can be cancelled before it begins, and layers have no times of their own. The feed is not asked for
 * anything: it stands between two passes; those over mixtures, which ask it for experts, are walked. What launchers are given by value must be the same for passes alike: they go by max_position,
 * not by positions, which are the kernels' to read. Which adapter a row has is theirs to read too: a graph names none, so that it may go
 * before the graph does; passes alike have them for the same products, of the same ranks. */
#include <stdatomic.h>

#include "cuda/backend.h"
#include "platform/clock.h"

bool air_cuda_graph_takes(const air_backend *h)
{
    const air_pass *p = h->pass;
    if (h->graph.refused || !p->n_wanted || p->n_away || h->program->mixtures || !air_cuda_weights_resident(h)) return false;
    for (int64_t r = 0; r < p->rows; r++)
        if (p->roles[r] != AIR_ROW_GENERATED) return false;
    return true;
}

void air_cuda_graph_drop(air_backend *h)
{
    if (h->graph.exec) (void)cudaGraphExecDestroy(h->graph.exec);
    h->graph.exec = nullptr;
    h->graph.usual_ns = 0;
    h->graph.shape = air_cuda_shape{};
}

static bool alike(const air_cuda_shape &a, const air_cuda_shape &b)
{
    return a.rows == b.rows && a.n_wanted == b.n_wanted && a.sequences == b.sequences && a.block_stride == b.block_stride
        && a.max_position == b.max_position && a.candidates == b.candidates && a.hidden == b.hidden && a.ranks == b.ranks
        && a.whole == b.whole;
}

static air_cuda_shape shape_of(const air_backend *h)
{
    const air_pass *p = h->pass;
    air_cuda_shape shape = {p->rows, p->n_wanted, h->sequences, h->block_stride, h->max_position, p->n_candidates, p->hidden != nullptr,
                            {}, h->adapting.ranks};
    if (p->logits) shape.whole.assign((size_t)p->n_wanted, 1);
    for (size_t i = 0; p->whole && i < shape.whole.size(); i++) shape.whole[i] = p->whole[i];
    return shape;
}

/* The stream is no longer being captured when it returns, whatever happens. */
static cudaGraph_t capture(air_backend *h)
{
    cudaGraph_t graph = nullptr;
    if (cudaStreamBeginCapture(h->compute, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
    h->capturing = true;
    air_status st = air_cuda_enqueue(h, nullptr);
    h->capturing = air_launches_early = false;
    cudaError_t error = cudaStreamEndCapture(h->compute, &graph);
    if (!st && error == cudaSuccess) return graph;
    if (graph) (void)cudaGraphDestroy(graph);
    return nullptr;
}

/* Whatever refuses one, the walk can do without. */
static void refuse(air_backend *h)
{
    air_cuda_graph_drop(h);
    h->graph.refused = !atomic_load(h->pass->cancel);
    (void)cudaGetLastError(); /* not the next launch's */
}

static void make(air_backend *h)
{
    cudaGraph_t graph = capture(h);
    cudaError_t error = graph ? cudaGraphInstantiate(&h->graph.exec, graph, 0) : cudaErrorUnknown;
    if (graph) (void)cudaGraphDestroy(graph);
    if (error == cudaSuccess) return;
    h->graph.exec = nullptr;
    refuse(h);
}

air_status air_cuda_graph_run(air_backend *h, bool *done, air_error *err)
{
    air_cuda_graph *g = &h->graph;
    air_cuda_shape shape = shape_of(h);
    *done = false;
    if (!air_cuda_graph_takes(h)) return AIR_OK;
    if (atomic_load(h->pass->cancel)) return air_fail(err, AIR_E_CANCELLED, "cancelled before it began");
    if (!alike(shape, g->shape)) {
        air_cuda_graph_drop(h);
        g->shape = shape; /* should the next one be like this */
        return AIR_OK;
    }
    if (!g->exec) make(h);
    if (!g->exec) return AIR_OK;
    g->launched_ns = air_clock_ns();
    *done = cudaGraphLaunch(g->exec, h->compute) == cudaSuccess;
    if (!*done) refuse(h);
    return AIR_OK;
}
