/* CUDA graphs: a capture records what is enqueued, a launch enqueues it again.
 *
 * Every stream of a capture is a lane of the graph. An executable graph has a stream of its own per lane, so that lanes advance as
 * freely as streams do, and a missing dependency shows under Mode::sched as it would without a graph. */
#include <algorithm>

#include "runtime/state.h"

namespace air::fake {

namespace {

/* One operation of a lane: waits for a completion of the graph, works, records one; -1 for none. */
struct Node {
    int lane;
    Work work;
    int wait, record;
};

}  // namespace

struct Graph {
    int device;
    int lanes = 1, completions = 0;
    std::vector<Node> nodes;
};

struct Capture {
    Graph graph;
    std::vector<Stream *> lanes;
    bool relaxed, spoiled = false;
};

namespace {

struct ExecutableGraph {
    Graph graph;
    std::vector<Stream *> lanes;
};

std::set<Graph *> graphs;
std::set<ExecutableGraph *> executables;

cudaError_t add_node(Capture &capture, Node node)
{
    if (capture.spoiled) return cudaErrorStreamCaptureInvalidated;
    capture.graph.nodes.push_back(std::move(node));
    return cudaSuccess;
}

/* Every lane but the origin's must end in a record that some lane waits for. */
bool all_joined(const Graph &graph)
{
    for (int lane = 1; lane < graph.lanes; lane++) {
        auto last = std::find_if(graph.nodes.rbegin(), graph.nodes.rend(), [=](const Node &node) { return node.lane == lane; });
        int record = last->record;
        auto waits = [=](const Node &node) { return node.wait == record; };
        if (record < 0 || std::none_of(graph.nodes.begin(), graph.nodes.end(), waits)) return false;
    }
    return true;
}

cudaError_t end_capture(Stream &stream, cudaGraph_t *out)
{
    std::shared_ptr<Capture> capture = stream.capture;
    *out = nullptr;
    if (!capture || stream.lane != 0) return cudaErrorStreamCaptureUnmatched;
    for (Stream *lane : capture->lanes) lane->capture = nullptr;
    for (Event *event : state().events)
        if (event->capture == capture) event->capture = nullptr;
    if (capture->spoiled) return cudaErrorStreamCaptureInvalidated;
    if (!all_joined(capture->graph)) return cudaErrorStreamCaptureUnjoined;
    Graph *graph = new Graph(std::move(capture->graph));
    graphs.insert(graph);
    state().stats.live_graphs++;
    *out = reinterpret_cast<cudaGraph_t>(graph);
    return cudaSuccess;
}

/* Launches of one graph run one after another: the other lanes begin after something of lane 0 and are joined before its end. */
cudaError_t launch_graph(ExecutableGraph &exec, Stream &origin)
{
    std::vector<CompletionPtr> completions(static_cast<size_t>(exec.graph.completions));
    for (CompletionPtr &completion : completions) completion = std::make_shared<Completion>();
    auto completion_of = [&](int i) { return i < 0 ? nullptr : completions[static_cast<size_t>(i)]; };

    auto begun = std::make_shared<Completion>();
    push(origin, nullptr, nullptr, begun);
    for (Stream *lane : exec.lanes) push(*lane, nullptr, begun);
    for (const Node &node : exec.graph.nodes)
        push(*exec.lanes[static_cast<size_t>(node.lane)], node.work, completion_of(node.wait), completion_of(node.record));
    for (Stream *lane : exec.lanes) {
        auto ended = std::make_shared<Completion>();
        push(*lane, nullptr, nullptr, ended);
        push(origin, nullptr, ended);
    }
    return cudaSuccess;
}

}  // namespace

cudaError_t capture_work(Stream &stream, Work work) { return add_node(*stream.capture, {stream.lane, std::move(work), -1, -1}); }

cudaError_t capture_record(Stream &stream, Event &event)
{
    Capture &capture = *stream.capture;
    event.capture = stream.capture;
    event.completion = capture.graph.completions++;
    return add_node(capture, {stream.lane, nullptr, -1, event.completion});
}

cudaError_t capture_wait(Stream &stream, Event &event)
{
    if (!event.capture || (stream.capture && stream.capture != event.capture)) {
        stream.capture->spoiled = true;
        return cudaErrorStreamCaptureIsolation;
    }
    Capture &capture = *event.capture;
    if (!stream.capture) {  /* joins the capture */
        stream.capture = event.capture;
        stream.lane = capture.graph.lanes++;
        capture.lanes.push_back(&stream);
    }
    return add_node(capture, {stream.lane, nullptr, event.completion, -1});
}

cudaError_t refuse_captured(Stream &stream)
{
    stream.capture->spoiled = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t refuse_in_capture()
{
    for (Stream *stream : state().streams)
        if (stream->capture && !stream->capture->relaxed) return refuse_captured(*stream);
    return cudaSuccess;
}

}  // namespace air::fake

using namespace air::fake;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    return call("cudaStreamBeginCapture", Needs::device, [&] {
        Stream *stream = handle ? find_stream(handle) : nullptr;
        if (!stream) return handle ? cudaErrorInvalidResourceHandle : cudaErrorStreamCaptureUnsupported;
        if (stream->capture) return refuse_captured(*stream);
        stream->capture = std::make_shared<Capture>();
        stream->capture->graph.device = stream->device;
        stream->capture->relaxed = mode == cudaStreamCaptureModeRelaxed;
        stream->capture->lanes = {stream};
        stream->lane = 0;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    return release("cudaStreamEndCapture", [&] {
        Stream *stream = handle ? find_stream(handle) : nullptr;
        return stream ? end_capture(*stream, graph) : cudaErrorInvalidResourceHandle;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status)
{
    return call("cudaStreamIsCapturing", Needs::device, [&] {
        Stream *stream = find_stream(handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        *status = !stream->capture            ? cudaStreamCaptureStatusNone
                : stream->capture->spoiled ? cudaStreamCaptureStatusInvalidated
                                           : cudaStreamCaptureStatusActive;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t handle, unsigned long long)
{
    return call("cudaGraphInstantiate", Needs::device, [&] {
        Graph *graph = reinterpret_cast<Graph *>(handle);
        *out = nullptr;
        if (!graphs.count(graph)) return cudaErrorInvalidValue;
        ExecutableGraph *exec = new ExecutableGraph{*graph, {}};
        for (int i = 0; i < graph->lanes; i++) exec->lanes.push_back(new_stream(graph->device));
        executables.insert(exec);
        state().stats.live_graphs++;
        *out = reinterpret_cast<cudaGraphExec_t>(exec);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle)
{
    return call("cudaGraphLaunch", Needs::device, [&] {
        ExecutableGraph *exec = reinterpret_cast<ExecutableGraph *>(handle);
        Stream *stream = find_stream(stream_handle);
        if (!executables.count(exec) || !stream || stream->device != exec->graph.device) return cudaErrorInvalidResourceHandle;
        if (stream->capture) return refuse_captured(*stream);
        state().stats.graph_launches++;
        return launch_graph(*exec, *stream);
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle)
{
    return release("cudaGraphExecDestroy", [&] {
        ExecutableGraph *exec = reinterpret_cast<ExecutableGraph *>(handle);
        if (!executables.erase(exec)) return cudaErrorInvalidValue;
        for (Stream *lane : exec->lanes) delete_stream(lane);
        delete exec;
        state().stats.live_graphs--;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle)
{
    return release("cudaGraphDestroy", [&] {
        Graph *graph = reinterpret_cast<Graph *>(handle);
        if (!graphs.erase(graph)) return cudaErrorInvalidValue;
        delete graph;
        state().stats.live_graphs--;
        return cudaSuccess;
    });
}

}
