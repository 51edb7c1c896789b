// The device itself, its context, and its kernels.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <stdexcept>

#include "emulator.hpp"
#include "gpu.hpp"
#include "kernels.hpp"

struct CUfunc_st {
    std::string name;
    emulated::Kernel kernel;
    std::size_t most_threads;
};

struct CUmod_st {
    // Where each kernel begins in the PTX.
    std::string ptx;
    std::map<std::string, CUfunc_st> functions;
};

namespace gpu {

namespace {

thread_local CUcontext current = nullptr;

CUcontext primary() { return reinterpret_cast<CUcontext>(&device()); }

// What a kernel's declaration in the PTX says: the bytes of each parameter, and the most threads of a block.
struct Entry {
    std::vector<std::size_t> parameter_bytes;
    std::size_t most_threads = 1024;
};

// PTX: `.entry name(.param .u64 name_param_0, .param .align 4 .b8 name_param_1[40]) .maxntid 256, 1, 1 {`.
Entry read_entry(const std::string& ptx, std::size_t open) {
    static const std::regex parameter(R"(\.param[^,]*?\.[usbf](\d+)\s+\w+(?:\[(\d+)\])?)");
    static const std::regex threads(R"(\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?)");
    const std::size_t close = ptx.find(')', open);
    const std::size_t body = ptx.find('{', close);
    require(body != std::string::npos, CUDA_ERROR_INVALID_PTX);
    const auto number = [](const std::ssub_match& text) { return text.matched ? std::stoul(text) : 1; };
    Entry entry;
    const std::string declared = ptx.substr(open, close - open);
    for (std::sregex_iterator i(declared.begin(), declared.end(), parameter), end; i != end; ++i) {
        entry.parameter_bytes.push_back(number((*i)[1]) / 8 * number((*i)[2]));
    }
    const std::string directives = ptx.substr(close, body - close);
    std::smatch found;
    if (std::regex_search(directives, found, threads)) {
        entry.most_threads = number(found[1]) * number(found[2]) * number(found[3]);
    }
    return entry;
}

CUfunc_st make_function(const std::string& ptx, const std::string& name) {
    const std::size_t declared = ptx.find(".entry " + name + "(");
    const auto kernel = emulated::kernels().find(name);
    if (declared == std::string::npos || kernel == emulated::kernels().end()) {
        throw complaint(CUDA_ERROR_NOT_FOUND, "no kernel " + name + " of this project");
    }
    const Entry entry = read_entry(ptx, ptx.find('(', declared));
    if (entry.parameter_bytes != kernel->second.parameter_bytes) {
        throw complaint(CUDA_ERROR_INVALID_VALUE, name + ": the parameters in the PTX are not those of the source");
    }
    return {name, kernel->second, entry.most_threads};
}

void run_kernel(emulator::Index grid, emulator::Index block, std::function<void()> thread) {
    static const unsigned backwards = setting("EMULATED_GPU_BACKWARDS", 0) != 0;
    const auto body = [](void* data) { (*static_cast<std::function<void()>*>(data))(); };
    if (const char* error = emulator_launch({grid, block, backwards, body, &thread})) {
        throw std::runtime_error(error);
    }
}

struct Attribute {
    CUdevice_attribute what;
    int value;
};

// Those of an early GPU with bf16, but few multiprocessors. All others are 0.
constexpr Attribute ATTRIBUTES[] = {
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 8},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 2},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 1},
};

}  // namespace

Device& device() {
    // For good: a thread may end after the program's statics have.
    static auto& all = *new Device;
    return all;
}

bool has_context() { return current != nullptr && device().contexts > 0; }

std::size_t setting(const char* name, std::size_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

CUresult complaint(CUresult error, const std::string& what) {
    std::fprintf(stderr, "emulated GPU: %s\n", what.c_str());
    return error;
}

void die(const std::string& what) {
    complaint(CUDA_SUCCESS, what);
    std::abort();
}

}  // namespace gpu

using namespace gpu;

// A function that is not here says so: see scripts/emulated-gpu.sh.
extern "C" int emulated_gpu_lacks(const char* function, int status) {
    complaint(CUDA_SUCCESS, std::string(function) + " is not emulated");
    return status;
}

CUresult cuInit(unsigned) {
    device().initialized = true;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
    switch (error) {
#define NAME(error)      \
    case error:          \
        *name = #error;  \
        return CUDA_SUCCESS;
        NAME(CUDA_SUCCESS)
        NAME(CUDA_ERROR_INVALID_VALUE)
        NAME(CUDA_ERROR_OUT_OF_MEMORY)
        NAME(CUDA_ERROR_NOT_INITIALIZED)
        NAME(CUDA_ERROR_INVALID_DEVICE)
        NAME(CUDA_ERROR_INVALID_CONTEXT)
        NAME(CUDA_ERROR_INVALID_PTX)
        NAME(CUDA_ERROR_INVALID_HANDLE)
        NAME(CUDA_ERROR_ILLEGAL_STATE)
        NAME(CUDA_ERROR_NOT_FOUND)
        NAME(CUDA_ERROR_NOT_READY)
        NAME(CUDA_ERROR_ILLEGAL_ADDRESS)
        NAME(CUDA_ERROR_LAUNCH_FAILED)
        NAME(CUDA_ERROR_NOT_SUPPORTED)
        NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        NAME(CUDA_ERROR_STREAM_CAPTURE_MERGE)
        NAME(CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        NAME(CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
        NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
        NAME(CUDA_ERROR_CAPTURED_EVENT)
#undef NAME
    default:
        *name = "CUDA_ERROR_UNKNOWN";
        return CUDA_SUCCESS;
    }
}

CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

// The device.

CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return device().initialized ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult cuDeviceGet(CUdevice* device, int number) {
    *device = number;
    return number == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    std::snprintf(name, static_cast<std::size_t>(length), "Emulated GPU");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice) {
    std::memset(uuid, 1, sizeof *uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
    *bytes = total_memory();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute what, CUdevice) {
    *value = 0;
    for (const Attribute& attribute : ATTRIBUTES) {
        if (attribute.what == what) {
            *value = attribute.value;
        }
    }
    return CUDA_SUCCESS;
}

// The context, of which there is one.

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    const std::lock_guard lock(device().lock);
    device().contexts += 1;
    *context = primary();
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    const std::lock_guard lock(device().lock);
    if (device().contexts == 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (device().contexts == 1) {
        drop_memory();
    }
    device().contexts -= 1;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    if (context != nullptr && context != primary()) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* number) {
    return call([&] { *number = 0; });
}

CUresult cuCtxSetFlags(unsigned) {
    return call([] {});
}

// Modules and kernels.

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    return call([&] {
        forbid_while_recording();
        std::string ptx = static_cast<const char*>(image);
        require(ptx.find(".version") != std::string::npos, CUDA_ERROR_INVALID_PTX);
        *module = new CUmod_st{std::move(ptx), {}};
    });
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    return call([&] {
        finish();
        delete module;
    });
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    return call([&] {
        auto found = module->functions.find(name);
        if (found == module->functions.end()) {
            found = module->functions.emplace(name, make_function(module->ptx, name)).first;
        }
        *function = &found->second;
    });
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    return call([&] {
        const bool is_most = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        *value = is_most ? static_cast<int>(function->most_threads) : 0;
    });
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
    return call([] {});
}

CUresult cuLaunchKernel(
    CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra) {
    return call([&] {
        const emulator::Index grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
        const std::size_t threads = std::size_t{block_x} * block_y * block_z;
        const bool fits = threads > 0 && threads <= function->most_threads && block_z <= 64 && grid_x > 0 &&
                          grid_x <= 0x7fffffff && grid_y > 0 && grid_y <= 65535 && grid_z > 0 && grid_z <= 65535;
        if (!fits) {
            throw complaint(CUDA_ERROR_INVALID_VALUE, function->name + ": no such grid or block can be launched");
        }
        // No kernel here declares shared memory whose size a launch gives.
        require(shared_bytes == 0 && extra == nullptr, CUDA_ERROR_NOT_SUPPORTED);
        const emulated::Call kernel_call = function->kernel.bind(parameters);
        std::vector<Range> touches;
        for (const void* pointer : kernel_call.pointers) {
            touches.push_back({reinterpret_cast<CUdeviceptr>(pointer), 0});
        }
        const auto run = [grid, block, thread = kernel_call.thread] { run_kernel(grid, block, thread); };
        give(stream, {function->name, run, std::move(touches)});
    });
}
