/* simt/tensor.h: the wrappers of cuda/dialect.h around PTX: cp.async, mma.sync, ldmatrix. Register layouts as in the PTX ISA. */
#ifndef AIR_CUDA_EMU_TENSOR_H
#define AIR_CUDA_EMU_TENSOR_H

#include "simt/half.h"
#include "simt/warp.h"

inline bool air_is_sm_80() { return air::emu::has_capability(80); }
inline void air_prefetch_l2(const void *) {}

/* --- cp.async --- */

inline void air_cp_async4(void *to, const void *from, AIR_EMU_CALLER) { air::emu::async_copy(to, from, 4, file, line); }
inline void air_cp_async8(void *to, const void *from, AIR_EMU_CALLER) { air::emu::async_copy(to, from, 8, file, line); }
inline void air_cp_async16(void *to, const void *from, AIR_EMU_CALLER)
{
    air::emu::needs_capability(80, "cp.async needs compute capability 8.0", file, line);
    air::emu::async_copy(to, from, 16, file, line);
}
inline void air_cp_async_commit() { air::emu::async_commit(); }
template <int N>
inline void air_cp_async_wait()
{
    air::emu::async_wait(N);
}

/* --- mma.sync --- */

namespace air::emu {

/* The fragments that a warp brought: register 0 to 3 are A's, 4 and 5 B's. */
class Fragments {
public:
    Fragments(const unsigned a[4], const unsigned b[2], const char *file, int line)
    {
        needs_capability(80, "mma.sync needs compute capability 8.0", file, line);
        const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
        all = warp_exchange_wide(~0u, mine, sizeof mine, Collective::matrix, file, line);
    }
    /* Element i of `size` bytes in a register of a lane. */
    template <class T>
    T get(int from_lane, int reg, int i) const
    {
        T value;
        memcpy(static_cast<void *>(&value), all + WIDE_BYTES * from_lane + 4 * reg + static_cast<int>(sizeof(T)) * i, sizeof value);
        return value;
    }
    /* A[row][k] and B[k][column]; a register holds 4 / sizeof(T) neighbours in k, four lanes side by side a half of K. */
    template <class T>
    T a(int row, int k) const
    {
        constexpr int PER = 4 / sizeof(T), HALF = 4 * PER;
        return get<T>((row & 7) * 4 + k % HALF / PER, (row >> 3) + 2 * (k / HALF), k % PER);
    }
    template <class T>
    T b(int k, int column) const
    {
        constexpr int PER = 4 / sizeof(T), HALF = 4 * PER;
        return get<T>(column * 4 + k % HALF / PER, 4 + k / HALF, k % PER);
    }

private:
    const unsigned char *all;
};

/* Row and column of D's element i in this lane. */
inline int d_row(int i) { return (lane() >> 2) + (i >> 1) * 8; }
inline int d_column(int i) { return (lane() & 3) * 2 + (i & 1); }

}  // namespace air::emu

inline void air_mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2], AIR_EMU_CALLER)
{
    air::emu::Fragments in(a, b, file, line);
    for (int i = 0; i < 4; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++)
            sum += __half2float(in.a<__half>(air::emu::d_row(i), k)) * __half2float(in.b<__half>(k, air::emu::d_column(i)));
        d[i] += sum;
    }
}

inline void air_mma_m16n8k32_s8(int d[4], const unsigned a[4], const unsigned b[2], AIR_EMU_CALLER)
{
    air::emu::Fragments in(a, b, file, line);
    for (int i = 0; i < 4; i++) {
        unsigned sum = static_cast<unsigned>(d[i]);
        for (int k = 0; k < 32; k++)
            sum += static_cast<unsigned>(in.a<int8_t>(air::emu::d_row(i), k) * in.b<int8_t>(k, air::emu::d_column(i)));
        d[i] = static_cast<int>(sum);
    }
}

/* --- ldmatrix --- */

namespace air::emu {

/* Where the 32 rows are that the lanes name. */
inline const uint64_t *matrix_rows(const void *row, const char *file, int line)
{
    needs_capability(75, "ldmatrix needs compute capability 7.5", file, line);
    if (reinterpret_cast<uintptr_t>(row) % 16) device_trap("ldmatrix of a row that is no multiple of 16", file, line);
    return warp_exchange(~0u, reinterpret_cast<uintptr_t>(row), Collective::matrix, file, line);
}

inline void copy_half(unsigned *to, int which, uint64_t row, int element)
{
    memcpy(reinterpret_cast<char *>(to) + 2 * which, reinterpret_cast<const char *>(static_cast<uintptr_t>(row)) + 2 * element, 2);
}

}  // namespace air::emu

inline void air_ldmatrix_x4(unsigned r[4], const void *row, AIR_EMU_CALLER)
{
    const uint64_t *rows = air::emu::matrix_rows(row, file, line);
    int lane = air::emu::lane();
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) air::emu::copy_half(&r[i], h, rows[8 * i + lane / 4], 2 * (lane % 4) + h);
}

inline void air_ldmatrix_x4_trans(unsigned r[4], const void *row, AIR_EMU_CALLER)
{
    const uint64_t *rows = air::emu::matrix_rows(row, file, line);
    int lane = air::emu::lane();
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) air::emu::copy_half(&r[i], h, rows[8 * i + 2 * (lane % 4) + h], lane / 4);
}

#endif
