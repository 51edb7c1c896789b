// The work of the emulated GPU: streams, events, and graphs.
#include <algorithm>
#include <chrono>
#include <deque>
#include <stdexcept>

#include "gpu.hpp"

using Clock = std::chrono::steady_clock;

struct CUstream_st {
    // It and the stream that is called 0 wait for each other.
    bool waits_for_default;
    gpu::Capture* capture = nullptr;
};

// When an event's work was done, if it was. Each time that it is recorded it gets a new one.
struct Moment {
    bool done = false;
    Clock::time_point time;
};

struct CUevent_st {
    bool timed;
    std::shared_ptr<Moment> moment = nullptr;
    // The recording that it was last recorded in.
    gpu::Capture* capture = nullptr;
    CUstream stream = nullptr;
};

struct CUgraph_st {
    std::vector<gpu::Work> work;
};

struct CUgraphExec_st {
    std::vector<gpu::Work> work;
    bool frees_on_launch;
};

namespace gpu {

namespace {

std::deque<Work>& line() {
    static auto& work = *new std::deque<Work>;
    return work;
}

std::set<CUevent>& events() {
    static auto& all = *new std::set<CUevent>;
    return all;
}

CUstream make_stream(bool waits_for_default) {
    return *device().streams.insert(new CUstream_st{waits_for_default}).first;
}

// The handles that name no stream of their own: the default stream under two names, and that of each thread.
CUstream resolve(CUstream handle) {
    static const CUstream default_stream = make_stream(true);
    thread_local const CUstream thread_stream = make_stream(true);
    if (handle == nullptr || handle == CU_STREAM_LEGACY) {
        return default_stream;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        return thread_stream;
    }
    require(device().streams.contains(handle), CUDA_ERROR_INVALID_HANDLE);
    return handle;
}

bool is_default(CUstream handle) { return handle == nullptr || handle == CU_STREAM_LEGACY; }

// Throws if the pointers lead to no memory of those blocks.
void check_touches(const Work& work, const Blocks& live, const Blocks* recorded) {
    for (const Range& range : work.touches) {
        const bool is_null = range.start == 0 && range.bytes == 0;
        const bool is_there = is_null || block_of(live, range.start, range.bytes) ||
                              (recorded && block_of(*recorded, range.start, range.bytes)) ||
                              is_pinned(reinterpret_cast<const void*>(range.start), range.bytes);
        if (!is_there) {
            throw complaint(
                CUDA_ERROR_ILLEGAL_ADDRESS, work.name + ": a pointer to what is not memory of the GPU, or not any more");
        }
    }
}

void put_in_line(Work work) {
    line().push_back(std::move(work));
    static const bool eager = setting("EMULATED_GPU_EAGER", 0) != 0;
    // Not without end: a GPU begins too before somebody waits for it.
    if (eager || line().size() > 100'000) {
        finish();
    }
}

CUevent known(CUevent event) {
    require(events().contains(event), CUDA_ERROR_INVALID_HANDLE);
    return event;
}

// A recorded event's work is not done before the graph is launched, so nobody can wait for it.
void wait_for(CUevent event) {
    require(!known(event)->capture, CUDA_ERROR_CAPTURED_EVENT);
    forbid_while_recording();
    finish();
}

void end_capture(Capture& capture) {
    for (CUevent event : events()) {
        if (event->capture == &capture) {
            event->capture = nullptr;
        }
    }
    for (CUstream stream : device().streams) {
        if (stream->capture == &capture) {
            stream->capture = nullptr;
        }
    }
    device().captures.erase(&capture);
}

// A stream that is not in a recording waits for one that is: it joins.
void join(CUstream stream, Capture& capture) {
    stream->capture = &capture;
    if (stream != capture.origin) {
        capture.unjoined.insert(stream);
    }
}

}  // namespace

Capture* capture_of(CUstream handle) {
    Capture* capture = resolve(handle)->capture;
    require(!capture || !capture->broken, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    return capture;
}

void break_capture(Capture& capture, CUresult error) {
    capture.broken = true;
    throw error;
}

void forbid_while_recording() {
    for (Capture* capture : device().captures) {
        const bool concerns = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
                              (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
                               capture->thread == std::this_thread::get_id());
        if (concerns) {
            complaint(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a recording waits, or changes more than its streams");
            break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    }
}

void give(CUstream handle, Work work) {
    CUstream stream = resolve(handle);
    if (is_default(handle)) {
        for (Capture* capture : device().captures) {
            if (capture->origin->waits_for_default) {
                complaint(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, work.name + ": the default stream waits for a recording");
                break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            }
        }
    }
    if (Capture* capture = capture_of(stream)) {
        check_touches(work, device().live, &capture->live);
        if (stream != capture->origin) {
            capture->unjoined.insert(stream);
        }
        capture->work.push_back(std::move(work));
        return;
    }
    check_touches(work, device().live, nullptr);
    put_in_line(std::move(work));
}

void finish() {
    std::deque<Work>& work = line();
    while (!work.empty() && !device().failed) {
        const Work next = std::move(work.front());
        work.pop_front();
        try {
            next.run();
        } catch (const std::runtime_error& error) {
            device().failed = complaint(CUDA_ERROR_LAUNCH_FAILED, next.name + ": " + error.what());
        }
    }
    require(!device().failed, device().failed);
    give_back();
}

}  // namespace gpu

using namespace gpu;

CUresult cuCtxSynchronize() {
    return call([] {
        forbid_while_recording();
        finish();
    });
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    return call([&] { *stream = make_stream((flags & CU_STREAM_NON_BLOCKING) == 0); });
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

CUresult cuStreamDestroy(CUstream stream) {
    return call([&] {
        require(device().streams.contains(stream), CUDA_ERROR_INVALID_HANDLE);
        if (Capture* capture = stream->capture) {
            capture->broken = true;
            if (capture->origin == stream) {
                end_capture(*capture);
                delete capture;
            } else {
                capture->unjoined.erase(stream);
            }
        }
        device().streams.erase(stream);
        delete stream;
    });
}

CUresult cuStreamSynchronize(CUstream stream) {
    return call([&] {
        if (Capture* capture = capture_of(stream)) {
            complaint(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a recording waits for its stream");
            break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        finish();
    });
}

// Whoever asks whether work is done may ask again until it is.
CUresult cuStreamQuery(CUstream stream) { return cuStreamSynchronize(stream); }

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    return call([&] {
        CUstream stream = resolve(handle);
        Capture* capture = capture_of(stream);
        known(event);
        if (!event->capture) {
            if (capture && event->moment) {
                complaint(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "a recording waits for work from before it");
                break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
            }
            return;
        }
        if (capture && capture != event->capture) {
            complaint(CUDA_ERROR_STREAM_CAPTURE_MERGE, "a recording waits for another");
            break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        event->capture->unjoined.erase(event->stream);
        join(stream, *event->capture);
    });
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    return call([&] { give(stream, {"function of the host", [=] { function(data); }, {}}); });
}

// Events.

CUresult cuEventCreate(CUevent* event, unsigned flags) {
    return call([&] {
        *event = new CUevent_st{(flags & CU_EVENT_DISABLE_TIMING) == 0};
        events().insert(*event);
    });
}

CUresult cuEventDestroy(CUevent event) {
    return call([&] {
        known(event);
        events().erase(event);
        delete event;
    });
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
    return call([&] {
        known(event);
        CUstream stream = resolve(handle);
        if (Capture* capture = capture_of(handle)) {
            event->capture = capture;
            event->stream = stream;
            return;
        }
        event->capture = nullptr;
        event->moment = std::make_shared<Moment>();
        const auto arrive = [moment = event->moment] { *moment = {true, Clock::now()}; };
        give(handle, {"event", arrive, {}});
    });
}

CUresult cuEventSynchronize(CUevent event) {
    return call([&] { wait_for(event); });
}

CUresult cuEventQuery(CUevent event) {
    return call([&] { wait_for(event); });
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return call([&] {
        require(!known(start)->capture && !known(end)->capture, CUDA_ERROR_CAPTURED_EVENT);
        require(start->timed && end->timed && start->moment && end->moment, CUDA_ERROR_INVALID_HANDLE);
        require(start->moment->done && end->moment->done, CUDA_ERROR_NOT_READY);
        *milliseconds = std::chrono::duration<float, std::milli>(end->moment->time - start->moment->time).count();
    });
}

// Recordings and graphs.

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    return call([&] {
        require(!is_default(handle), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        CUstream stream = resolve(handle);
        require(!stream->capture, CUDA_ERROR_ILLEGAL_STATE);
        stream->capture = new Capture{mode, std::this_thread::get_id(), stream, false, {}, {}, {}};
        device().captures.insert(stream->capture);
    });
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    return call([&] {
        *graph = nullptr;
        CUstream stream = resolve(handle);
        require(stream->capture && stream->capture->origin == stream, CUDA_ERROR_ILLEGAL_STATE);
        const std::unique_ptr<Capture> capture(stream->capture);
        end_capture(*capture);
        require(!capture->broken, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        if (!capture->unjoined.empty()) {
            throw complaint(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a recording does not wait for a stream that is in it");
        }
        *graph = new CUgraph_st{std::move(capture->work)};
    });
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    return call([&] {
        const Capture* capture = resolve(handle)->capture;
        *status = !capture           ? CU_STREAM_CAPTURE_STATUS_NONE
                  : capture->broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    });
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    return call([&] {
        constexpr unsigned long long known_flags =
            CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
            CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
        require((flags & ~known_flags) == 0, CUDA_ERROR_INVALID_VALUE);
        *executable =
            new CUgraphExec_st{graph->work, (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0};
    });
}

CUresult cuGraphInstantiateWithParams(
    CUgraphExec* executable, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters) {
    const CUresult status = cuGraphInstantiateWithFlags(executable, graph, parameters->flags);
    parameters->result_out = status ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return status;
}

namespace {

// Memory that the graph's last launch did not free stands in the way of the next.
void free_unfreed(const CUgraphExec_st& graph) {
    for (const Work& work : graph.work) {
        if (!work.allocates || !device().live.contains(work.allocates->start())) {
            continue;
        }
        if (!graph.frees_on_launch) {
            throw complaint(CUDA_ERROR_INVALID_VALUE, "a graph is launched whose memory from its last launch is not freed");
        }
        end_graph_memory(work.allocates);
        put_in_line({"free", [block = work.allocates] { block->end(); }, {}});
    }
}

// Throws if any work of the graph touches what is not there when its turn comes. Returns the most bytes that the graph's own
// memory has at a time.
std::size_t rehearse(const CUgraphExec_st& graph) {
    Blocks own;
    std::size_t now = 0;
    std::size_t most = 0;
    for (const Work& work : graph.work) {
        check_touches(work, device().live, &own);
        if (work.allocates) {
            own[work.allocates->start()] = work.allocates;
            now += work.allocates->bytes;
            most = std::max(most, now);
        }
        if (work.frees) {
            own.erase(work.frees->start());
            now -= work.frees->bytes;
        }
    }
    return most;
}

}  // namespace

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    return call([&] {
        if (Capture* capture = capture_of(stream)) {
            complaint(CUDA_ERROR_NOT_SUPPORTED, "a graph in a graph");
            break_capture(*capture, CUDA_ERROR_NOT_SUPPORTED);
        }
        free_unfreed(*graph);
        reserve_graph_memory(rehearse(*graph));
        for (const Work& work : graph->work) {
            if (work.allocates) {
                begin_graph_memory(work.allocates);
            }
            if (work.frees) {
                end_graph_memory(work.frees);
            }
            put_in_line(work);
        }
    });
}

CUresult cuGraphUpload(CUgraphExec, CUstream stream) {
    return call([&] { capture_of(stream); });
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
    return call([&] { delete graph; });
}

CUresult cuGraphDestroy(CUgraph graph) {
    return call([&] { delete graph; });
}
