// An emulated GPU: what this project calls of NVIDIA's driver, of cuBLAS and of cuRAND, with this project's own kernels run on
// the CPU. It shows that the right kernels are launched with the right parameters, that memory is used as it should be, and
// that a recorded step does what the step did. It says nothing of speed. This file holds what its parts share.
//
// It is as strict as a GPU may be:
// - Work is done as late as it may be: when somebody waits for it. A host that reads too early, or changes what a copy has yet
//   to read, is found out. All streams' work is in one line, in the order in which it was given.
// - New memory is filled with one pattern and freed memory with another, and stands between guards, so that a kernel that reads
//   what nobody wrote or what is gone computes nonsense, and a write to where nothing may be written ends the program.
// - Work whose pointers lead to no memory is refused, also when it is repeated by a graph.
//
// Settings, from the environment:
//   EMULATED_GPU_MEMORY     bytes of memory; 4 GiB
//   EMULATED_GPU_BACKWARDS  1: the threads of a block run from the last to the first
//   EMULATED_GPU_EAGER      1: work is done as it is given, so that a debugger sees who gave it
#pragma once

#include <cuda.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace gpu {

// A number from the environment.
std::size_t setting(const char* name, std::size_t otherwise);

// Says on stderr what is wrong, and returns the error to throw.
CUresult complaint(CUresult error, const std::string& what);

// Says on stderr what the host can no longer be told, and ends the program.
[[noreturn]] void die(const std::string& what);

// One allocation: of its own, of the pool, or of a graph.
enum class Kind { Own, Pool, Graph };

class Block {
  public:
    Block(Kind kind, std::size_t bytes);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    CUdeviceptr start() const { return reinterpret_cast<CUdeviceptr>(values); }
    // What happens to the values, in the order of the work: the first use, and the last.
    void begin();
    void end();

    const Kind kind;
    const std::size_t bytes;

  private:
    void check_guards() const;
    void check_filled() const;

    unsigned char* memory;
    unsigned char* values;
};

using BlockPointer = std::shared_ptr<Block>;
using Blocks = std::map<CUdeviceptr, BlockPointer>;

// The block that all of a range is in, or none.
BlockPointer block_of(const Blocks& blocks, CUdeviceptr start, std::size_t bytes);

// Whether all of a range is pinned memory of the host.
bool is_pinned(const void* start, std::size_t bytes);

// Memory that work reads or writes.
struct Range {
    CUdeviceptr start;
    std::size_t bytes;
};

// A piece of work: one node of a graph where it is recorded.
struct Work {
    std::string name;
    std::function<void()> run;
    std::vector<Range> touches;
    // Only of allocations and frees within a recording.
    BlockPointer allocates = nullptr;
    BlockPointer frees = nullptr;
};

// What is being recorded from one stream and those that wait for it.
struct Capture {
    CUstreamCaptureMode mode;
    std::thread::id thread;
    CUstream origin;
    // What must not be in it happened: it can only be ended.
    bool broken = false;
    std::vector<Work> work;
    // Memory that it allocated and has not freed.
    Blocks live;
    // Streams that joined it, and that its first stream does not wait for yet.
    std::set<CUstream> unjoined;
};

// The state of the device. Whoever holds the lock may look.
struct Device {
    std::recursive_mutex lock;
    bool initialized = false;
    int contexts = 0;
    // An error of a kernel stays: nothing works after it.
    CUresult failed = CUDA_SUCCESS;

    Blocks live;
    std::size_t own_bytes = 0;
    // Pinned memory of the host, by its start.
    std::map<const void*, std::size_t> pinned;

    std::set<CUstream> streams;
    std::set<Capture*> captures;
};

Device& device();
bool has_context();
std::size_t total_memory();
std::size_t free_memory();

// Runs the body of a function of the driver, which throws its errors.
template <class Body>
CUresult call(Body body) {
    Device& all = device();
    const std::lock_guard lock(all.lock);
    if (!all.initialized) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    if (all.failed) {
        return all.failed;
    }
    if (!has_context()) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    try {
        body();
        return CUDA_SUCCESS;
    } catch (CUresult error) {
        return error;
    }
}

inline void require(bool holds, CUresult error) {
    if (!holds) {
        throw error;
    }
}

// Gives work to a stream, or puts it into what is recorded from it. Throws what is wrong with its pointers.
void give(CUstream stream, Work work);

// The recording that a stream is in, or null. Throws if there is no such stream, or if the recording is broken.
Capture* capture_of(CUstream stream);

// Breaks a recording, and throws the error.
[[noreturn]] void break_capture(Capture& capture, CUresult error);

// Breaks the recordings that forbid what must wait for the GPU, or changes more than one stream; throws if there is one.
void forbid_while_recording();

// Does all work that was given.
void finish();

// The memory of a graph as it is launched: room for the most that it uses at a time, and each block's life.
void reserve_graph_memory(std::size_t most);
void begin_graph_memory(const BlockPointer& block);
void end_graph_memory(const BlockPointer& block);

// Once the device has been waited for, the pool keeps no more than it was asked to.
void give_back();

// Frees all memory: the context is gone.
void drop_memory();

}  // namespace gpu
