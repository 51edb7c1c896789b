// An emulated GPU: what this project calls of NVIDIA's driver, of cuBLAS and of cuRAND, with this project's own kernels run on
// the CPU. It shows that the right kernels are launched with the right parameters, that memory is used as it should be, and that
// a recorded step does what the step did. It says nothing of speed, and knows one stream at a time.
//
// Memory of the GPU is the host's, between guards. What is new is filled with one pattern and what is freed with another, so that
// a kernel that reads what nobody wrote, or what is gone, computes nonsense.
#include <sys/types.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <regex>
#include <set>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "kernels.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Status = int;
constexpr Status SUCCESS = 0;
constexpr Status INVALID_VALUE = 1;
constexpr Status OUT_OF_MEMORY = 2;
constexpr Status NOT_FOUND = 500;
constexpr Status LAUNCH_FAILED = 719;
constexpr Status CAPTURE_UNSUPPORTED = 900;

constexpr std::size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0x5c;
constexpr unsigned char NEW_BYTE = 0xa5;
constexpr unsigned char FREED_BYTE = 0xdd;

std::size_t setting(const char* name, std::size_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

Status complain(Status status, const std::string& what) {
    std::fprintf(stderr, "emulated GPU: %s\n", what.c_str());
    return status;
}

using Work = std::function<Status()>;

struct Graph {
    std::vector<Work> work;
    // Memory that was allocated while the graph was recorded is the graph's for good.
    std::set<unsigned char*> memory;
    std::size_t unfreed = 0;
    bool launched = false;
};

struct Block {
    std::size_t bytes;
    Graph* owner;
};

struct Gpu {
    std::map<unsigned char*, Block> blocks;
    std::size_t used = 0;
    std::size_t high = 0;
    std::size_t threshold = 0;
    Graph* recording = nullptr;
};

Gpu gpu;

// Does work now, or puts it into the graph that is being recorded.
Status give(Work work) {
    if (gpu.recording) {
        gpu.recording->work.push_back(std::move(work));
        return SUCCESS;
    }
    return work();
}

void check_guards(unsigned char* start, std::size_t bytes) {
    for (std::size_t i = 0; i < GUARD; ++i) {
        if (start[-1 - static_cast<ssize_t>(i)] != GUARD_BYTE || start[bytes + i] != GUARD_BYTE) {
            complain(0, "something was written outside an array of " + std::to_string(bytes) + " bytes");
            std::abort();
        }
    }
}

unsigned char* make_block(std::size_t bytes, Graph* owner) {
    auto* memory = static_cast<unsigned char*>(std::aligned_alloc(GUARD, (bytes + 3 * GUARD) / GUARD * GUARD));
    std::memset(memory, GUARD_BYTE, (bytes + 3 * GUARD) / GUARD * GUARD);
    std::memset(memory + GUARD, NEW_BYTE, bytes);
    gpu.blocks[memory + GUARD] = {bytes, owner};
    return memory + GUARD;
}

Status allocate(void** target, std::size_t bytes) {
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    if (Graph* graph = gpu.recording) {
        unsigned char* start = make_block(bytes, graph);
        graph->memory.insert(start);
        graph->unfreed += 1;
        graph->work.push_back([start, bytes] {
            std::memset(start, NEW_BYTE, bytes);
            return SUCCESS;
        });
        *target = start;
        return SUCCESS;
    }
    if (gpu.used + bytes > setting("EMULATED_GPU_MEMORY", std::size_t{4} << 30)) {
        return OUT_OF_MEMORY;
    }
    *target = make_block(bytes, nullptr);
    gpu.used += bytes;
    gpu.high = std::max(gpu.high, gpu.used);
    return SUCCESS;
}

Status release(unsigned char* start) {
    const auto found = gpu.blocks.find(start);
    if (found == gpu.blocks.end()) {
        return complain(INVALID_VALUE, "what is freed was not allocated, or was freed before");
    }
    const Block block = found->second;
    if (gpu.recording) {
        if (block.owner != gpu.recording) {
            return complain(INVALID_VALUE, "memory from before a recording is freed in it");
        }
        block.owner->unfreed -= 1;
        block.owner->work.push_back([start, block] {
            check_guards(start, block.bytes);
            std::memset(start, FREED_BYTE, block.bytes);
            return SUCCESS;
        });
        return SUCCESS;
    }
    if (block.owner) {
        return complain(INVALID_VALUE, "a graph's memory is freed outside the graph");
    }
    check_guards(start, block.bytes);
    std::memset(start, FREED_BYTE, block.bytes);
    gpu.blocks.erase(found);
    gpu.used -= block.bytes;
    std::free(start - GUARD);
    return SUCCESS;
}

// Whether all of a range is in one array that is there.
bool is_known(const void* pointer, std::size_t bytes) {
    auto* start = static_cast<unsigned char*>(const_cast<void*>(pointer));
    auto found = gpu.blocks.upper_bound(start);
    if (found == gpu.blocks.begin()) {
        return false;
    }
    --found;
    return start + bytes <= found->first + found->second.bytes;
}

Status wrong_range() { return complain(INVALID_VALUE, "a copy reaches outside the arrays of the GPU"); }

// A module: the kernels that its PTX names, with the bytes of their parameters and the most threads of a block.
struct Entry {
    std::vector<std::size_t> parameter_bytes;
    std::size_t most_threads = 1024;
};

struct Function {
    std::string name;
    std::size_t most_threads;
    emulated::Kernel kernel;
};

struct Module {
    std::map<std::string, Entry> entries;
    std::map<std::string, Function> functions;
};

std::size_t parameter_bytes(const std::string& type, const std::string& count) {
    const std::size_t bits = std::strtoull(type.c_str() + 1, nullptr, 10);
    return bits / 8 * (count.empty() ? 1 : std::strtoull(count.c_str(), nullptr, 10));
}

Module* read_ptx(const std::string& text) {
    static const std::regex parameter(R"(\.param[^,]*?\.([usbf]\d+)\s+\w+(?:\[(\d+)\])?)");
    static const std::regex threads(R"(^\s*\.maxntid\s+(\d+))");
    auto* module = new Module;
    const std::string start = ".entry ";
    for (std::size_t at = text.find(start); at != std::string::npos; at = text.find(start, at)) {
        at += start.size();
        const std::size_t open = text.find('(', at);
        const std::size_t close = text.find(')', open);
        const std::string declared = text.substr(open, close - open);
        Entry entry;
        for (std::sregex_iterator i(declared.begin(), declared.end(), parameter), end; i != end; ++i) {
            entry.parameter_bytes.push_back(parameter_bytes((*i)[1], (*i)[2]));
        }
        const std::string after = text.substr(close + 1, text.find('{', close) - close - 1);
        std::smatch found;
        if (std::regex_search(after, found, threads)) {
            entry.most_threads = std::strtoull(found[1].str().c_str(), nullptr, 10);
        }
        module->entries[text.substr(at, open - at)] = entry;
    }
    return module;
}

Status run_kernel(const Function& function, emulator::Index grid, emulator::Index block, std::function<void()> call) {
    const auto body = [](void* call) { (*static_cast<std::function<void()>*>(call))(); };
    const unsigned backwards = setting("EMULATED_GPU_BACKWARDS", 0);
    const char* error = emulator_launch({grid, block, backwards, body, &call});
    return error ? complain(LAUNCH_FAILED, function.name + ": " + error) : SUCCESS;
}

struct Event {
    std::chrono::steady_clock::time_point time;
};

}  // namespace

// The driver.

EXPORT Status cuInit(unsigned) { return SUCCESS; }
EXPORT Status cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}
EXPORT Status cuDeviceGetCount(int* count) {
    *count = 1;
    return SUCCESS;
}
EXPORT Status cuDeviceGet(int* device, int number) {
    *device = number;
    return number == 0 ? SUCCESS : 101;
}
EXPORT Status cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, static_cast<std::size_t>(length), "Emulated GPU");
    return SUCCESS;
}
EXPORT Status cuDeviceGetUuid_v2(void* uuid, int) {
    std::memset(uuid, 1, 16);
    return SUCCESS;
}
EXPORT Status cuDeviceTotalMem_v2(std::size_t* bytes, int) {
    *bytes = setting("EMULATED_GPU_MEMORY", std::size_t{4} << 30);
    return SUCCESS;
}
EXPORT Status cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 1:  // threads of a block
        *value = 1024;
        break;
    case 10:  // threads of a warp
        *value = 32;
        break;
    case 16:  // multiprocessors
        *value = 1;
        break;
    case 75:  // compute capability
        *value = 8;
        break;
    case 115:  // pools of memory
        *value = 1;
        break;
    default:
        *value = 0;
    }
    return SUCCESS;
}
EXPORT Status cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &gpu;
    return SUCCESS;
}
EXPORT Status cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT Status cuCtxSetCurrent(void*) { return SUCCESS; }
EXPORT Status cuCtxGetCurrent(void** context) {
    *context = &gpu;
    return SUCCESS;
}
EXPORT Status cuCtxSynchronize() { return gpu.recording ? CAPTURE_UNSUPPORTED : SUCCESS; }
EXPORT Status cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
    cuDeviceTotalMem_v2(total, 0);
    *free = *total - std::min(*total, gpu.used);
    return SUCCESS;
}
EXPORT Status cuGetErrorName(Status status, const char** name) {
    *name = status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "an error of the emulated GPU";
    return SUCCESS;
}
EXPORT Status cuGetErrorString(Status status, const char** text) { return cuGetErrorName(status, text); }

// Streams and events. All work is done as it is given, so they are always done.

EXPORT Status cuStreamCreate(void** stream, unsigned) {
    *stream = new char;
    return SUCCESS;
}
EXPORT Status cuStreamDestroy_v2(void* stream) {
    delete static_cast<char*>(stream);
    return SUCCESS;
}
EXPORT Status cuStreamSynchronize(void*) { return gpu.recording ? CAPTURE_UNSUPPORTED : SUCCESS; }
EXPORT Status cuStreamQuery(void*) { return SUCCESS; }
EXPORT Status cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
EXPORT Status cuEventCreate(void** event, unsigned) {
    *event = new Event{};
    return SUCCESS;
}
EXPORT Status cuEventDestroy_v2(void* event) {
    delete static_cast<Event*>(event);
    return SUCCESS;
}
EXPORT Status cuEventRecord(void* event, void*) {
    static_cast<Event*>(event)->time = std::chrono::steady_clock::now();
    return SUCCESS;
}
EXPORT Status cuEventSynchronize(void*) { return gpu.recording ? CAPTURE_UNSUPPORTED : SUCCESS; }
EXPORT Status cuEventQuery(void*) { return SUCCESS; }
EXPORT Status cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    const auto passed = static_cast<Event*>(end)->time - static_cast<Event*>(start)->time;
    *milliseconds = std::chrono::duration<float, std::milli>(passed).count();
    return SUCCESS;
}
EXPORT Status cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

// Memory.

EXPORT Status cuMemAlloc_v2(void** target, std::size_t bytes) {
    return gpu.recording ? CAPTURE_UNSUPPORTED : allocate(target, bytes);
}
EXPORT Status cuMemFree_v2(unsigned char* start) { return gpu.recording ? CAPTURE_UNSUPPORTED : release(start); }
EXPORT Status cuMemAllocAsync(void** target, std::size_t bytes, void*) { return allocate(target, bytes); }
EXPORT Status cuMemFreeAsync(unsigned char* start, void*) { return release(start); }
EXPORT Status cuMemsetD8Async(void* target, unsigned char value, std::size_t bytes, void*) {
    if (!is_known(target, bytes)) {
        return wrong_range();
    }
    return give([=] {
        std::memset(target, value, bytes);
        return SUCCESS;
    });
}
EXPORT Status cuMemcpyHtoDAsync_v2(void* target, const void* source, std::size_t bytes, void*) {
    if (gpu.recording) {
        return complain(CAPTURE_UNSUPPORTED, "a recording copies from the host, which the graph would read again later");
    }
    if (!is_known(target, bytes)) {
        return wrong_range();
    }
    std::memcpy(target, source, bytes);
    return SUCCESS;
}
EXPORT Status cuMemcpyDtoHAsync_v2(void* target, const void* source, std::size_t bytes, void*) {
    if (gpu.recording) {
        return complain(CAPTURE_UNSUPPORTED, "a recording copies to the host");
    }
    if (!is_known(source, bytes)) {
        return wrong_range();
    }
    std::memcpy(target, source, bytes);
    return SUCCESS;
}
EXPORT Status cuMemcpyDtoDAsync_v2(void* target, const void* source, std::size_t bytes, void*) {
    if (!is_known(target, bytes) || !is_known(source, bytes)) {
        return wrong_range();
    }
    return give([=] {
        std::memcpy(target, source, bytes);
        return SUCCESS;
    });
}
EXPORT Status cuMemcpyHtoD_v2(void* target, const void* source, std::size_t bytes) {
    return cuMemcpyHtoDAsync_v2(target, source, bytes, nullptr);
}
EXPORT Status cuMemcpyDtoH_v2(void* target, const void* source, std::size_t bytes) {
    return cuMemcpyDtoHAsync_v2(target, source, bytes, nullptr);
}
EXPORT Status cuDeviceGetDefaultMemPool(void** pool, int) {
    *pool = &gpu;
    return SUCCESS;
}
EXPORT Status cuMemPoolGetAttribute(void*, int attribute, std::uint64_t* value) {
    switch (attribute) {
    case 4:
        *value = gpu.threshold;
        return SUCCESS;
    case 5:
    case 7:
        *value = gpu.used;
        return SUCCESS;
    case 6:
    case 8:
        *value = gpu.high;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}
EXPORT Status cuMemPoolSetAttribute(void*, int attribute, std::uint64_t* value) {
    if (attribute == 4) {
        gpu.threshold = *value;
    } else if ((attribute == 6 || attribute == 8) && *value == 0) {
        gpu.high = gpu.used;
    } else {
        return INVALID_VALUE;
    }
    return SUCCESS;
}

// Kernels.

EXPORT Status cuModuleLoadData(Module** module, const char* ptx) {
    *module = read_ptx(ptx);
    return SUCCESS;
}
EXPORT Status cuModuleUnload(Module* module) {
    delete module;
    return SUCCESS;
}
EXPORT Status cuModuleGetFunction(const Function** function, Module* module, const char* name) {
    const auto made = module->functions.find(name);
    if (made != module->functions.end()) {
        *function = &made->second;
        return SUCCESS;
    }
    const auto entry = module->entries.find(name);
    const auto kernel = emulated::kernels().find(name);
    if (entry == module->entries.end() || kernel == emulated::kernels().end()) {
        return complain(NOT_FOUND, std::string("no kernel ") + name);
    }
    if (entry->second.parameter_bytes != kernel->second.parameter_bytes) {
        return complain(INVALID_VALUE, std::string(name) + ": the parameters in the PTX are not those of the source");
    }
    module->functions[name] = {name, entry->second.most_threads, kernel->second};
    *function = &module->functions[name];
    return SUCCESS;
}
EXPORT Status cuLaunchKernel(
    const Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned, void*, void** parameters, void**) {
    const std::size_t threads = std::size_t{block_x} * block_y * block_z;
    if (threads > function->most_threads || grid_y > 65535 || grid_z > 65535) {
        return complain(INVALID_VALUE, function->name + ": a block of too many threads, or a grid that is too high");
    }
    auto call = function->kernel.bind(parameters);
    const emulator::Index grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    return give([=] { return run_kernel(*function, grid, block, call); });
}

// Graphs.

EXPORT Status cuStreamBeginCapture_v2(void*, int) {
    if (gpu.recording) {
        return INVALID_VALUE;
    }
    gpu.recording = new Graph;
    return SUCCESS;
}
EXPORT Status cuStreamEndCapture(void*, Graph** graph) {
    *graph = gpu.recording;
    gpu.recording = nullptr;
    return *graph ? SUCCESS : INVALID_VALUE;
}
EXPORT Status cuStreamIsCapturing(void*, int* status) {
    *status = gpu.recording != nullptr;
    return SUCCESS;
}
EXPORT Status cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    *executable = graph;
    return SUCCESS;
}
EXPORT Status cuGraphLaunch(Graph* graph, void*) {
    if (graph->unfreed > 0 && graph->launched) {
        return complain(INVALID_VALUE, "a graph that does not free what it allocates is launched again");
    }
    graph->launched = true;
    for (const Work& work : graph->work) {
        if (const Status status = work()) {
            return status;
        }
    }
    return SUCCESS;
}
EXPORT Status cuGraphExecDestroy(Graph*) { return SUCCESS; }
EXPORT Status cuGraphDestroy(Graph* graph) {
    for (unsigned char* start : graph->memory) {
        gpu.blocks.erase(start);
        std::free(start - GUARD);
    }
    delete graph;
    return SUCCESS;
}

// cuBLAS: products of f32, f16 and bf16 with sums in f32, in order.

namespace {

constexpr int R_32F = 0;
constexpr int R_16F = 2;
constexpr int R_16BF = 14;
constexpr int COMPUTE_32F = 68;
constexpr int COMPUTE_TF32 = 77;

std::size_t bytes_of(int type) { return type == R_32F ? 4 : 2; }

float load(const void* values, std::size_t i, int type) {
    switch (type) {
    case R_16F:
        return __half2float(static_cast<const __half*>(values)[i]);
    case R_16BF:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
    default:
        return static_cast<const float*>(values)[i];
    }
}

void store(void* values, std::size_t i, int type, float value) {
    switch (type) {
    case R_16F:
        static_cast<__half*>(values)[i] = __float2half_rn(value);
        break;
    case R_16BF:
        static_cast<__nv_bfloat16*>(values)[i] = __float2bfloat16_rn(value);
        break;
    default:
        static_cast<float*>(values)[i] = value;
    }
}

// Rounded to the 10 bits of TF32, to nearest even.
float to_tf32(float value) {
    auto bits = static_cast<std::uint32_t>(__float_as_int(value));
    if (std::isfinite(value)) {
        bits = (bits + 0xfff + (bits >> 13 & 1)) & ~std::uint32_t{0x1fff};
    }
    return __int_as_float(static_cast<int>(bits));
}

struct Product {
    int m, n, k;
    bool a_transposed, b_transposed;
    const void *a, *b;
    void* c;
    int a_type, b_type, c_type, lda, ldb, ldc;
    float alpha, beta;
    bool tf32;

    // op(matrix), of rows × columns, row by row and as f32.
    std::vector<float> rows(const void* matrix, int type, int leading, bool transposed, int rows, int columns) const {
        std::vector<float> values(static_cast<std::size_t>(rows) * columns);
        for (int row = 0; row < rows; ++row) {
            for (int column = 0; column < columns; ++column) {
                const std::size_t at = transposed ? static_cast<std::size_t>(row) * leading + column
                                                  : static_cast<std::size_t>(column) * leading + row;
                const float value = load(matrix, at, type);
                values[static_cast<std::size_t>(row) * columns + column] = tf32 ? to_tf32(value) : value;
            }
        }
        return values;
    }

    Status run() const {
        // cᵀ = op(b)ᵀ op(a)ᵀ, so that the innermost loop runs along c.
        const auto left = rows(b, b_type, ldb, !b_transposed, n, k);
        const auto right = rows(a, a_type, lda, !a_transposed, k, m);
        std::vector<float> sums(static_cast<std::size_t>(m));
        for (int column = 0; column < n; ++column) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (int i = 0; i < k; ++i) {
                const float factor = left[static_cast<std::size_t>(column) * k + i];
                const float* values = &right[static_cast<std::size_t>(i) * m];
                for (int row = 0; row < m; ++row) {
                    sums[row] += factor * values[row];
                }
            }
            for (int row = 0; row < m; ++row) {
                const std::size_t at = static_cast<std::size_t>(column) * ldc + row;
                const float before = beta == 0.0f ? 0.0f : beta * load(c, at, c_type);
                store(c, at, c_type, alpha * sums[row] + before);
            }
        }
        return SUCCESS;
    }

    bool is_known_all() const {
        const auto bytes = [](int leading, int columns, int rows, int type) {
            return (static_cast<std::size_t>(leading) * (columns - 1) + rows) * bytes_of(type);
        };
        return is_known(a, a_transposed ? bytes(lda, m, k, a_type) : bytes(lda, k, m, a_type)) &&
               is_known(b, b_transposed ? bytes(ldb, k, n, b_type) : bytes(ldb, n, k, b_type)) &&
               is_known(c, bytes(ldc, n, m, c_type));
    }
};

}  // namespace

EXPORT Status cublasCreate_v2(void** handle) {
    *handle = new char;
    return SUCCESS;
}
EXPORT Status cublasDestroy_v2(void* handle) {
    delete static_cast<char*>(handle);
    return SUCCESS;
}
EXPORT Status cublasSetStream_v2(void*, void*) { return SUCCESS; }
EXPORT Status cublasSetWorkspace_v2(void*, void* workspace, std::size_t bytes) {
    return is_known(workspace, bytes) ? SUCCESS : 7;
}
EXPORT Status cublasSetMathMode(void*, int) { return SUCCESS; }
EXPORT Status cublasGemmEx(
    void*, int a_operation, int b_operation, int m, int n, int k, const float* alpha, const void* a, int a_type, int lda,
    const void* b, int b_type, int ldb, const float* beta, void* c, int c_type, int ldc, int compute, int) {
    if (compute != COMPUTE_32F && compute != COMPUTE_TF32) {
        return complain(15, "a product whose sums are not in f32");
    }
    const Product product{m, n, k, a_operation != 0, b_operation != 0, a, b, c, a_type, b_type, c_type,
                          lda, ldb, ldc, *alpha, *beta, compute == COMPUTE_TF32};
    if (m <= 0 || n <= 0 || k <= 0 || !product.is_known_all()) {
        return complain(7, "a product of matrices that are not there");
    }
    return give([product] { return product.run(); });
}

// cuRAND: candle makes a generator that nobody here draws from.

EXPORT Status curandCreateGenerator(void** generator, int) {
    *generator = new char;
    return SUCCESS;
}
EXPORT Status curandDestroyGenerator(void* generator) {
    delete static_cast<char*>(generator);
    return SUCCESS;
}
EXPORT Status curandSetStream(void*, void*) { return SUCCESS; }
EXPORT Status curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return SUCCESS; }

