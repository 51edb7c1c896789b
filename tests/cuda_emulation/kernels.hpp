// The kernels of an emulated GPU by name: how many bytes each of their parameters has, and what a launch's parameters make of
// them. A file is generated for each .cu file that includes it and registers what it defines.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace emulated {

// A launch's parameters, copied: a call of the kernel for one thread, and those parameters that are pointers.
struct Call {
    std::function<void()> thread;
    std::vector<const void*> pointers;
};

struct Kernel {
    std::vector<std::size_t> parameter_bytes;
    // From a launch's pointers to its parameters.
    std::function<Call(void**)> bind;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class T>
void add_pointer(std::vector<const void*>& pointers, const T& value) {
    if constexpr (std::is_pointer_v<T>) {
        pointers.push_back(value);
    }
}

template <class... Parameters, std::size_t... I>
Call call_of(void (*kernel)(Parameters...), void** parameters, std::index_sequence<I...>) {
    auto copies = std::make_tuple(*static_cast<Parameters*>(parameters[I])...);
    std::vector<const void*> pointers;
    (add_pointer(pointers, std::get<I>(copies)), ...);
    return {[kernel, copies] { std::apply(kernel, copies); }, pointers};
}

template <class... Parameters>
bool add(const char* name, void (*kernel)(Parameters...)) {
    const auto bind_all = [kernel](void** parameters) {
        return call_of(kernel, parameters, std::index_sequence_for<Parameters...>{});
    };
    kernels()[name] = {{sizeof(Parameters)...}, bind_all};
    return true;
}

}  // namespace emulated

#define REGISTER(name) [[maybe_unused]] static const bool registered_##name = emulated::add(#name, name);
