// Runs CUDA kernels on the CPU, so that a machine without a GPU can compare them with their CPU twins.
//
// The blocks of a grid run one after the other. The threads of a block are fibers of one operating system thread, which run in
// turn from one barrier to the next, in order or backwards: a result that differs between the two depends on a race. A barrier
// that only some threads of a block reach is an error. Only what the kernels use is here.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace emulator {

struct Index {
    unsigned x, y, z;
};

// What a kernel launch is: its geometry, and a function that calls the kernel with its arguments, once for each thread.
struct Launch {
    Index grid;
    Index block;
    unsigned backwards;
    void (*body)(void*);
    void* data;
};

// Deep enough for a kernel, the call of it, and the dynamic linker's first look at a function of the mathematics library.
constexpr std::size_t STACK_BYTES = 128 * 1024;

struct Fiber {
    // How it begins, once for all blocks, and where it goes on: a jump, since a switch of contexts is a call of the kernel.
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    // What it does next.
    void (*task)();
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    Index thread;
    bool done;
    // Where in the source the barrier is that it waits at.
    unsigned barrier;
};

// What kernels ask for all the time: without a constructor or a destructor, so that it is there without a call.
struct State {
    jmp_buf scheduler;
    Fiber* running;
    Index block;
    Launch launch;
};

inline constinit thread_local State state{};
inline thread_local std::vector<Fiber> fibers;

// Lets a fiber run until it gives way.
inline void resume(Fiber& fiber) {
    state.running = &fiber;
    if (_setjmp(state.scheduler) == 0) {
        if (fiber.begun) {
            _longjmp(fiber.place, 1);
        }
        fiber.begun = true;
        setcontext(&fiber.context);
    }
}

inline void give_way() {
    if (_setjmp(state.running->place) == 0) {
        _longjmp(state.scheduler, 1);
    }
}

inline void barrier(unsigned line) {
    state.running->barrier = line;
    give_way();
}

inline void run_fiber() {
    while (true) {
        state.running->task();
        state.running->done = true;
        give_way();
    }
}

inline void run_thread() { state.launch.body(state.launch.data); }

// Runs every fiber of `count`, from the one that is number `first`, to its next barrier or its end. Returns what is wrong with
// where they stopped, if anything.
inline const char* run_to_barrier(std::size_t count, std::size_t first) {
    for (std::size_t turn = first; turn < count; ++turn) {
        resume(fibers[state.launch.backwards ? count - 1 - turn : turn]);
    }
    for (std::size_t i = 1; i < count; ++i) {
        if (fibers[i].done != fibers[0].done) {
            return "a barrier that only some threads of the block reach";
        }
        if (!fibers[0].done && fibers[i].barrier != fibers[0].barrier) {
            return "threads of one block at different barriers";
        }
    }
    return nullptr;
}

// The place in the block of the thread that runs as number `turn`.
inline Index thread_of(std::size_t turn) {
    const Index shape = state.launch.block;
    const std::size_t count = std::size_t{shape.x} * shape.y * shape.z;
    const unsigned at = static_cast<unsigned>(state.launch.backwards ? count - 1 - turn : turn);
    return {at % shape.x, at / shape.x % shape.y, at / shape.x / shape.y};
}

// All threads but the first, one after the other, as one fiber.
inline void run_others() {
    const Index shape = state.launch.block;
    const std::size_t count = std::size_t{shape.x} * shape.y * shape.z;
    for (std::size_t turn = 1; turn < count; ++turn) {
        state.running->thread = thread_of(turn);
        run_thread();
    }
}

inline void start(Fiber& fiber, void (*task)()) {
    fiber.done = false;
    fiber.task = task;
    if (fiber.begun) {
        return;
    }
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
}

inline const char* run_block(std::size_t count) {
    for (std::size_t turn = 0; turn < count; ++turn) {
        // The fibers are in the order of the block.
        Fiber& fiber = fibers[state.launch.backwards ? count - 1 - turn : turn];
        fiber.thread = thread_of(turn);
        start(fiber, run_thread);
        if (turn > 0) {
            continue;
        }
        resume(fiber);
        if (fiber.done) {
            // Where the first thread meets no barrier no thread may, and there is nothing to take turns for.
            start(fiber, run_others);
            resume(fiber);
            return fiber.done ? nullptr : "a barrier that only some threads of the block reach";
        }
    }
    const char* error = run_to_barrier(count, 1);
    if (error) {
        return error;
    }
    while (!fibers[0].done) {
        if ((error = run_to_barrier(count, 0))) {
            return error;
        }
    }
    return nullptr;
}

}  // namespace emulator

// Runs a launch to its end. Returns what is wrong with it, or null.
extern "C" __attribute__((used)) inline const char* emulator_launch(emulator::Launch launch) {
    using emulator::state;
    const std::size_t count = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
    if (count == 0 || count > 1024) {
        return "a block must have 1 to 1024 threads";
    }
    state.launch = launch;
    if (emulator::fibers.size() < count) {
        emulator::fibers.resize(count);
    }
    for (unsigned z = 0; z < launch.grid.z; ++z) {
        for (unsigned y = 0; y < launch.grid.y; ++y) {
            for (unsigned x = 0; x < launch.grid.x; ++x) {
                state.block = {x, y, z};
                if (const char* error = emulator::run_block(count)) {
                    // They are in the middle of their threads.
                    emulator::fibers.clear();
                    return error;
                }
            }
        }
    }
    return nullptr;
}

#define __global__
#define __device__
// One block at a time runs on an operating system thread.
#define __shared__ static thread_local
#define __launch_bounds__(threads)

#define threadIdx (emulator::state.running->thread)
#define blockIdx (emulator::state.block)
#define blockDim (emulator::state.launch.block)
#define gridDim (emulator::state.launch.grid)
#define __syncthreads() emulator::barrier(__LINE__)

// Fibers give way at barriers only, so that a plain addition is atomic.
template <class T>
inline T atomicAdd(T* target, T value) {
    const T before = *target;
    *target += value;
    return before;
}

inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
