/* simt/launch.h: shared memory and launches, as cuda/dialect.h spells them. */
#ifndef AIR_CUDA_EMU_LAUNCH_H
#define AIR_CUDA_EMU_LAUNCH_H

#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "simt/engine.h"

#define AIR_SHARED(type, name, dims)                                                                                  \
    using air_shared_type_##name = type dims;                                                                         \
    static char air_shared_key_##name;                                                                                \
    air_shared_type_##name &name = *static_cast<air_shared_type_##name *>(::air::emu::static_shared(                  \
        &air_shared_key_##name, sizeof(air_shared_type_##name), alignof(air_shared_type_##name), #name))

#define AIR_DYN_SHARED(type, name) type *const name = static_cast<type *>(::air::emu::dynamic_shared())

namespace air::emu {

/* Words of the arguments that may be pointers, inside structs too. The runtime looks for memory of another device among them. */
using Words = std::vector<uintptr_t>;

/* Enqueues a launch: the runtime's. text: the launch as it is written, from the kernel's name on. */
cudaError_t launch(const char *text, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Words words,
                   Body body);

template <class T>
void append_words(Words &words, const T &argument)
{
    if constexpr (alignof(T) >= alignof(void *)) {
        constexpr size_t word = sizeof(uintptr_t);
        uintptr_t raw[sizeof(T) / word];
        memcpy(raw, static_cast<const void *>(&argument), sizeof raw);
        words.insert(words.end(), raw, raw + sizeof raw / sizeof *raw);
    } else {
        (void)words, (void)argument;
    }
}

template <class... P, class... A>
cudaError_t launch_written(const char *text, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                           A &&...arguments)
{
    std::tuple<std::remove_cv_t<P>...> values(static_cast<P>(std::forward<A>(arguments))...);
    Words words;
    std::apply([&](const auto &...value) { (append_words(words, value), ...); }, values);
    return launch(text, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream, std::move(words),
                  [kernel, values] { std::apply(kernel, values); });
}

}  // namespace air::emu

#define air_launch(...) (::air::emu::launch_written(#__VA_ARGS__, __VA_ARGS__))

/* Kernels run one after the other here. */
inline thread_local bool air_launches_early;
#define air_launch_early(...) air_launch(__VA_ARGS__)
inline void air_let_next_begin() {}
inline void air_await_previous() {}

#endif
