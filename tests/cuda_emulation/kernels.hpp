// The kernels of an emulated GPU by name: how many bytes each of their parameters has, and what a launch's parameters make of
// them. A file is generated for each .cu file that includes it and registers what it defines.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace emulated {

struct Kernel {
    std::vector<std::size_t> parameter_bytes;
    // From a launch's pointers to parameters, which are copied: a call of the kernel, for one thread.
    std::function<std::function<void()>(void**)> bind;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class... Parameters, std::size_t... I>
std::function<void()> call_of(void (*kernel)(Parameters...), void** pointers, std::index_sequence<I...>) {
    auto copies = std::make_tuple(*static_cast<Parameters*>(pointers[I])...);
    return [kernel, copies] { std::apply(kernel, copies); };
}

template <class... Parameters>
bool add(const char* name, void (*kernel)(Parameters...)) {
    const auto bind_all = [kernel](void** pointers) {
        return call_of(kernel, pointers, std::index_sequence_for<Parameters...>{});
    };
    kernels()[name] = {{sizeof(Parameters)...}, bind_all};
    return true;
}

}  // namespace emulated

#define REGISTER(name) [[maybe_unused]] static const bool registered_##name = emulated::add(#name, name);
