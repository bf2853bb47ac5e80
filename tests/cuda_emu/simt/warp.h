/* simt/warp.h: what threads of a block do together: barriers, shuffles, votes, reductions. Semantics of the CUDA C++ guide; a lane
 * outside the mask lends poison (all bits set, NaN) to whoever shuffles from it. */
#ifndef AIR_CUDA_EMU_WARP_H
#define AIR_CUDA_EMU_WARP_H

#include <cstring>
#include <type_traits>

#include "simt/engine.h"

/* --- barriers --- */

inline void __syncthreads(AIR_EMU_CALLER) { air::emu::block_barrier(file, line); }
inline int __syncthreads_or(int p, AIR_EMU_CALLER) { return air::emu::block_barrier_count(air::emu::Count::any, p, file, line); }
inline int __syncthreads_and(int p, AIR_EMU_CALLER) { return air::emu::block_barrier_count(air::emu::Count::all, p, file, line); }
inline int __syncthreads_count(int p, AIR_EMU_CALLER) { return air::emu::block_barrier_count(air::emu::Count::number, p, file, line); }
inline void __syncwarp(unsigned mask = ~0u, AIR_EMU_CALLER)
{
    air::emu::warp_exchange(mask, 0, air::emu::Collective::barrier, file, line);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __trap(AIR_EMU_CALLER) { air::emu::device_trap("__trap", file, line); }

/* --- shuffles --- */

namespace air::emu {

template <class T>
inline uint64_t to_word(T value)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a lane brings up to 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
}

template <class T>
inline T from_word(uint64_t word)
{
    T value;
    memcpy(static_cast<void *>(&value), &word, sizeof value);
    return value;
}

template <class T, class Source>
inline T shuffle(unsigned mask, T value, Source source, const char *file, int line)
{
    const uint64_t *brought = warp_exchange(mask, to_word(value), Collective::shuffle, file, line);
    int from = source(lane());
    return from_word<T>(mask >> from & 1 ? brought[from] : ~uint64_t(0));
}

}  // namespace air::emu

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, AIR_EMU_CALLER)
{
    auto from = [=](int lane) { return (lane & ~(width - 1)) | (source & (width - 1)); };
    return air::emu::shuffle(mask, value, from, file, line);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, AIR_EMU_CALLER)
{
    auto from = [=](int lane) {
        int other = lane ^ lane_mask, end = (lane + width) & ~(width - 1);
        return other < end ? other : lane;
    };
    return air::emu::shuffle(mask, value, from, file, line);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, AIR_EMU_CALLER)
{
    auto from = [=](int lane) {
        unsigned in_segment = static_cast<unsigned>(lane & (width - 1));
        return in_segment + delta < static_cast<unsigned>(width) ? lane + static_cast<int>(delta) : lane;
    };
    return air::emu::shuffle(mask, value, from, file, line);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, AIR_EMU_CALLER)
{
    auto from = [=](int lane) {
        unsigned in_segment = static_cast<unsigned>(lane & (width - 1));
        return in_segment >= delta ? lane - static_cast<int>(delta) : lane;
    };
    return air::emu::shuffle(mask, value, from, file, line);
}

/* --- votes and reductions --- */

inline unsigned __ballot_sync(unsigned mask, int predicate, AIR_EMU_CALLER)
{
    const uint64_t *brought = air::emu::warp_exchange(mask, predicate != 0, air::emu::Collective::vote, file, line);
    unsigned votes = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && brought[i]) votes |= 1u << i;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate, AIR_EMU_CALLER) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, AIR_EMU_CALLER) { return __ballot_sync(mask, predicate, file, line) == mask; }

namespace air::emu {

/* Of 32-bit integers, as the device's redux.sync, which devices before 8.0 have not. */
template <class T, class Join>
inline T reduce(unsigned mask, T value, Join join, const char *file, int line)
{
    static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value, "int or unsigned");
    needs_capability(80, "__reduce_*_sync needs compute capability 8.0", file, line);
    const uint64_t *brought = warp_exchange(mask, to_word(value), Collective::reduce, file, line);
    unsigned rest = mask & (mask - 1);
    T result = from_word<T>(brought[__builtin_ctz(mask)]);
    for (int i = 0; i < 32; i++)
        if (rest >> i & 1) result = join(result, from_word<T>(brought[i]));
    return result;
}

}  // namespace air::emu

template <class T>
inline T __reduce_add_sync(unsigned mask, T value, AIR_EMU_CALLER)
{
    auto join = [](T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); };
    return air::emu::reduce(mask, value, join, file, line);
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value, AIR_EMU_CALLER)
{
    return air::emu::reduce(mask, value, [](T a, T b) { return b < a ? b : a; }, file, line);
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value, AIR_EMU_CALLER)
{
    return air::emu::reduce(mask, value, [](T a, T b) { return a < b ? b : a; }, file, line);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, AIR_EMU_CALLER)
{
    return air::emu::reduce(mask, value, [](unsigned a, unsigned b) { return a | b; }, file, line);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, AIR_EMU_CALLER)
{
    return air::emu::reduce(mask, value, [](unsigned a, unsigned b) { return a & b; }, file, line);
}

#endif
