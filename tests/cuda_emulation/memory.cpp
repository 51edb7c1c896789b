// Memory of the emulated GPU: allocations, the pool and the memory of graphs, copies.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "gpu.hpp"

namespace gpu {

namespace {

constexpr std::size_t ALIGNMENT = 512;
constexpr std::size_t GUARD = 512;
constexpr unsigned char GUARD_BYTE = 0x5c;
constexpr unsigned char NEW_BYTE = 0xa5;
constexpr unsigned char FREED_BYTE = 0xdd;

// What the pool and graphs take from the device at a time. A GPU's take more: here a limit on memory is to be felt exactly.
constexpr std::size_t CHUNK = ALIGNMENT;

// Freed memory is kept for a while, to see whether somebody writes to it.
constexpr std::size_t QUARANTINE_BYTES = std::size_t{64} << 20;

struct Gauge {
    std::size_t now = 0;
    std::size_t high = 0;

    void set(std::size_t bytes) {
        now = bytes;
        high = std::max(high, bytes);
    }
};

// Memory that is handed out in parts and given back to the device late.
struct Reserve {
    Gauge used;
    Gauge reserved;

    // What it must have reserved to hold so much.
    static std::size_t least(std::size_t bytes) { return (bytes + CHUNK - 1) / CHUNK * CHUNK; }
    void shrink(std::size_t keep) { reserved.now = std::max(least(used.now), std::min(reserved.now, keep)); }
};

Reserve pool;
std::size_t pool_threshold = 0;
Reserve graphs;

std::deque<BlockPointer>& quarantine() {
    static auto& blocks = *new std::deque<BlockPointer>;
    return blocks;
}

std::size_t quarantined = 0;

std::size_t taken() { return device().own_bytes + pool.reserved.now + graphs.reserved.now; }

// Makes a reserve hold so much, or throws.
void reserve(Reserve& reserve, std::size_t used) {
    const std::size_t wanted = std::max(reserve.reserved.now, Reserve::least(used));
    if (taken() - reserve.reserved.now + wanted > total_memory()) {
        pool.shrink(0);
        require(
            taken() - reserve.reserved.now + Reserve::least(used) <= total_memory(), CUDA_ERROR_OUT_OF_MEMORY);
    }
    reserve.used.set(used);
    reserve.reserved.set(std::max(reserve.reserved.now, Reserve::least(used)));
}

// Ends a block's life in the order of the work.
void retire(const BlockPointer& block) {
    block->end();
    quarantine().push_back(block);
    quarantined += block->bytes;
    while (quarantined > QUARANTINE_BYTES) {
        quarantined -= quarantine().front()->bytes;
        quarantine().pop_front();
    }
}

BlockPointer live_block(CUdeviceptr start, const Blocks& blocks) {
    const auto found = blocks.find(start);
    return found == blocks.end() ? nullptr : found->second;
}

BlockPointer to_free(CUdeviceptr start) {
    const BlockPointer block = live_block(start, device().live);
    if (!block) {
        throw complaint(CUDA_ERROR_INVALID_VALUE, "what is freed was not allocated, or was freed before");
    }
    return block;
}

void forget(const BlockPointer& block) {
    device().live.erase(block->start());
    switch (block->kind) {
    case Kind::Own:
        device().own_bytes -= block->bytes;
        break;
    case Kind::Pool:
        pool.used.now -= block->bytes;
        break;
    case Kind::Graph:
        graphs.used.now -= block->bytes;
        break;
    }
}

void free_while_recording(Capture& capture, CUdeviceptr start) {
    BlockPointer block = live_block(start, capture.live);
    if (!block) {
        complaint(CUDA_ERROR_INVALID_VALUE, "memory from before a recording is freed in it");
        break_capture(capture, CUDA_ERROR_INVALID_VALUE);
    }
    capture.live.erase(start);
    capture.work.push_back({"free", [block] { block->end(); }, {}, nullptr, block});
}

// Throws the error of a function that another one is made of.
void pass_on(CUresult status) { require(status == CUDA_SUCCESS, status); }

// A copy from or to the host's ordinary memory cannot be recorded: a graph would read or write there at any later time.
void forbid_recording(CUstream stream, const char* what) {
    if (Capture* capture = capture_of(stream)) {
        complaint(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, what);
        break_capture(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
}

template <class T>
void fill(CUdeviceptr target, T value, std::size_t count, CUstream stream) {
    auto* values = reinterpret_cast<T*>(target);
    give(stream, {"memset", [=] { std::fill_n(values, count, value); }, {{target, count * sizeof(T)}}});
}

}  // namespace

Block::Block(Kind kind, std::size_t bytes) : kind(kind), bytes(bytes) {
    const std::size_t whole = (bytes + 2 * GUARD + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    memory = static_cast<unsigned char*>(std::aligned_alloc(ALIGNMENT, whole));
    values = memory + GUARD;
    std::memset(memory, GUARD_BYTE, whole);
    std::memset(values, FREED_BYTE, bytes);
}

Block::~Block() {
    check_filled();
    std::free(memory);
}

void Block::begin() {
    check_filled();
    std::memset(values, NEW_BYTE, bytes);
}

void Block::end() {
    check_guards();
    std::memset(values, FREED_BYTE, bytes);
}

void Block::check_guards() const {
    for (std::size_t i = 0; i < GUARD; ++i) {
        if (memory[i] != GUARD_BYTE) {
            die("something was written " + std::to_string(GUARD - i) + " bytes before an array of " +
                std::to_string(bytes) + " bytes");
        }
        if (values[bytes + i] != GUARD_BYTE) {
            die("something was written at byte " + std::to_string(bytes + i) + " of an array of " +
                std::to_string(bytes) + " bytes");
        }
    }
}

void Block::check_filled() const {
    check_guards();
    // Every byte is that of the pattern if the first is, and each is its neighbour's.
    if (values[0] != FREED_BYTE || std::memcmp(values, values + 1, bytes - 1) != 0) {
        die("something was written to an array of " + std::to_string(bytes) +
            " bytes after it was freed, or before it was allocated");
    }
}

BlockPointer block_of(const Blocks& blocks, CUdeviceptr start, std::size_t bytes) {
    auto found = blocks.upper_bound(start);
    if (found == blocks.begin()) {
        return nullptr;
    }
    --found;
    return start + bytes <= found->first + found->second->bytes ? found->second : nullptr;
}

bool is_pinned(const void* start, std::size_t bytes) {
    auto found = device().pinned.upper_bound(start);
    if (found == device().pinned.begin()) {
        return false;
    }
    --found;
    return static_cast<const char*>(start) + bytes <= static_cast<const char*>(found->first) + found->second;
}

std::size_t total_memory() {
    static const std::size_t bytes = setting("EMULATED_GPU_MEMORY", std::size_t{4} << 30);
    return bytes;
}

std::size_t free_memory() { return total_memory() - taken(); }

void begin_graph_memory(const BlockPointer& block) {
    device().live[block->start()] = block;
    reserve(graphs, graphs.used.now + block->bytes);
}

void end_graph_memory(const BlockPointer& block) { forget(block); }

void reserve_graph_memory(std::size_t most) {
    const std::size_t used = graphs.used.now;
    reserve(graphs, used + most);
    graphs.used.now = used;
}

void give_back() { pool.shrink(pool_threshold); }

void drop_memory() {
    try {
        finish();
    } catch (CUresult) {
        // Work that was not done may still have the memory.
        return;
    }
    Blocks& live = device().live;
    if (!live.empty()) {
        complaint(CUDA_SUCCESS, std::to_string(live.size()) + " allocations were never freed");
    }
    while (!live.empty()) {
        const BlockPointer block = live.begin()->second;
        forget(block);
        block->end();
    }
}

}  // namespace gpu

using namespace gpu;

CUresult cuMemGetInfo(size_t* free, size_t* total) {
    return call([&] {
        *free = free_memory();
        *total = total_memory();
    });
}

CUresult cuMemAlloc(CUdeviceptr* start, size_t bytes) {
    return call([&] {
        forbid_while_recording();
        require(bytes > 0, CUDA_ERROR_INVALID_VALUE);
        if (bytes > free_memory()) {
            pool.shrink(0);
        }
        require(bytes <= free_memory(), CUDA_ERROR_OUT_OF_MEMORY);
        const auto block = std::make_shared<Block>(Kind::Own, bytes);
        block->begin();
        device().live[block->start()] = block;
        device().own_bytes += bytes;
        *start = block->start();
    });
}

CUresult cuMemFree(CUdeviceptr start) {
    return call([&] {
        forbid_while_recording();
        if (start == 0) {
            return;
        }
        const BlockPointer block = to_free(start);
        finish();
        forget(block);
        retire(block);
    });
}

CUresult cuMemAllocAsync(CUdeviceptr* start, size_t bytes, CUstream stream) {
    return call([&] {
        Capture* capture = capture_of(stream);
        require(bytes > 0, CUDA_ERROR_INVALID_VALUE);
        if (capture) {
            // Only the address, for now. The memory is there when the graph is launched.
            const auto block = std::make_shared<Block>(Kind::Graph, bytes);
            capture->live[block->start()] = block;
            capture->work.push_back({"allocate", [block] { block->begin(); }, {}, block});
            *start = block->start();
            return;
        }
        reserve(pool, pool.used.now + bytes);
        const auto block = std::make_shared<Block>(Kind::Pool, bytes);
        device().live[block->start()] = block;
        give(stream, {"allocate", [block] { block->begin(); }, {}});
        *start = block->start();
    });
}

CUresult cuMemFreeAsync(CUdeviceptr start, CUstream stream) {
    return call([&] {
        if (Capture* capture = capture_of(stream)) {
            free_while_recording(*capture, start);
            return;
        }
        const BlockPointer block = to_free(start);
        forget(block);
        // A graph keeps its memory for its next launch.
        const bool is_graphs = block->kind == Kind::Graph;
        give(stream, {"free", [block, is_graphs] { is_graphs ? block->end() : retire(block); }, {}});
    });
}

CUresult cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    return call([&] {
        forbid_while_recording();
        require(bytes > 0, CUDA_ERROR_INVALID_VALUE);
        *start = std::aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        std::memset(*start, NEW_BYTE, bytes);
        device().pinned[*start] = bytes;
    });
}

CUresult cuMemAllocHost(void** start, size_t bytes) { return cuMemHostAlloc(start, bytes, 0); }

CUresult cuMemFreeHost(void* start) {
    return call([&] {
        forbid_while_recording();
        require(device().pinned.erase(start) > 0, CUDA_ERROR_INVALID_VALUE);
        finish();
        std::free(start);
    });
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr* pointer, void* start, unsigned) {
    return call([&] {
        require(is_pinned(start, 1), CUDA_ERROR_INVALID_VALUE);
        *pointer = reinterpret_cast<CUdeviceptr>(start);
    });
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream) {
    return call([&] { fill(target, value, count, stream); });
}

CUresult cuMemsetD16Async(CUdeviceptr target, unsigned short value, size_t count, CUstream stream) {
    return call([&] { fill(target, value, count, stream); });
}

CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream) {
    return call([&] { fill(target, value, count, stream); });
}

CUresult cuMemsetD8(CUdeviceptr target, unsigned char value, size_t count) {
    return call([&] {
        forbid_while_recording();
        fill(target, value, count, nullptr);
    });
}

CUresult cuMemsetD32(CUdeviceptr target, unsigned value, size_t count) {
    return call([&] {
        forbid_while_recording();
        fill(target, value, count, nullptr);
    });
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void* source, size_t bytes, CUstream stream) {
    return call([&] {
        auto* to = reinterpret_cast<void*>(target);
        if (is_pinned(source, bytes)) {
            give(stream, {"copy from the host", [=] { std::memcpy(to, source, bytes); }, {{target, bytes}}});
            return;
        }
        forbid_recording(stream, "a recording copies from the host's ordinary memory");
        // The driver has taken ordinary memory's values when it returns.
        const auto* start = static_cast<const char*>(source);
        const auto values = std::make_shared<std::vector<char>>(start, start + bytes);
        give(stream, {"copy from the host", [=] { std::memcpy(to, values->data(), bytes); }, {{target, bytes}}});
    });
}

CUresult cuMemcpyDtoHAsync(void* target, CUdeviceptr source, size_t bytes, CUstream stream) {
    return call([&] {
        const auto* from = reinterpret_cast<const void*>(source);
        const bool pinned = is_pinned(target, bytes);
        if (!pinned) {
            forbid_recording(stream, "a recording copies to the host's ordinary memory");
        }
        give(stream, {"copy to the host", [=] { std::memcpy(target, from, bytes); }, {{source, bytes}}});
        // The driver has filled ordinary memory when it returns.
        if (!pinned) {
            finish();
        }
    });
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
    return call([&] {
        const auto copy = [=] { std::memcpy(reinterpret_cast<void*>(target), reinterpret_cast<void*>(source), bytes); };
        give(stream, {"copy", copy, {{target, bytes}, {source, bytes}}});
    });
}

CUresult cuMemcpyHtoD(CUdeviceptr target, const void* source, size_t bytes) {
    return call([&] {
        forbid_while_recording();
        pass_on(cuMemcpyHtoDAsync(target, source, bytes, nullptr));
        finish();
    });
}

CUresult cuMemcpyDtoH(void* target, CUdeviceptr source, size_t bytes) {
    return call([&] {
        forbid_while_recording();
        pass_on(cuMemcpyDtoHAsync(target, source, bytes, nullptr));
        finish();
    });
}

CUresult cuMemcpyDtoD(CUdeviceptr target, CUdeviceptr source, size_t bytes) {
    return call([&] {
        forbid_while_recording();
        pass_on(cuMemcpyDtoDAsync(target, source, bytes, nullptr));
    });
}

// The pool, of which there is one.

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* handle, CUdevice) {
    *handle = reinterpret_cast<CUmemoryPool>(&pool);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool* handle, CUdevice number) { return cuDeviceGetDefaultMemPool(handle, number); }

CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
    return call([&] {
        switch (attribute) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
            *static_cast<int*>(value) = 1;
            return;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            *static_cast<cuuint64_t*>(value) = pool_threshold;
            return;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
            *static_cast<cuuint64_t*>(value) = pool.reserved.now;
            return;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
            *static_cast<cuuint64_t*>(value) = pool.reserved.high;
            return;
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
            *static_cast<cuuint64_t*>(value) = pool.used.now;
            return;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            *static_cast<cuuint64_t*>(value) = pool.used.high;
            return;
        default:
            throw CUDA_ERROR_INVALID_VALUE;
        }
    });
}

CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
    return call([&] {
        switch (attribute) {
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            pool_threshold = *static_cast<cuuint64_t*>(value);
            return;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
            require(*static_cast<cuuint64_t*>(value) == 0, CUDA_ERROR_INVALID_VALUE);
            pool.reserved.high = pool.reserved.now;
            return;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            require(*static_cast<cuuint64_t*>(value) == 0, CUDA_ERROR_INVALID_VALUE);
            pool.used.high = pool.used.now;
            return;
        default:
            throw CUDA_ERROR_INVALID_VALUE;
        }
    });
}

CUresult cuMemPoolTrimTo(CUmemoryPool, size_t keep) {
    return call([&] { pool.shrink(keep); });
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice, CUgraphMem_attribute attribute, void* value) {
    return call([&] {
        auto* bytes = static_cast<cuuint64_t*>(value);
        switch (attribute) {
        case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
            *bytes = graphs.used.now;
            return;
        case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
            *bytes = graphs.used.high;
            return;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
            *bytes = graphs.reserved.now;
            return;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
            *bytes = graphs.reserved.high;
            return;
        default:
            throw CUDA_ERROR_INVALID_VALUE;
        }
    });
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice, CUgraphMem_attribute attribute, void* value) {
    return call([&] {
        require(*static_cast<cuuint64_t*>(value) == 0, CUDA_ERROR_INVALID_VALUE);
        switch (attribute) {
        case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
            graphs.used.high = graphs.used.now;
            return;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
            graphs.reserved.high = graphs.reserved.now;
            return;
        default:
            throw CUDA_ERROR_INVALID_VALUE;
        }
    });
}

CUresult cuDeviceGraphMemTrim(CUdevice) {
    return call([&] { graphs.shrink(0); });
}
