/* simt/tensor.h: the wrappers of cuda/dialect.h around PTX: cp.async, mma.sync, ldmatrix. Register layouts as in the PTX ISA. */
#ifndef AIR_CUDA_EMU_TENSOR_H
#define AIR_CUDA_EMU_TENSOR_H

#include "simt/half.h"
#include "simt/warp.h"

inline bool air_is_sm_80() { return air::emu::has_capability(80); }
inline bool air_is_sm_75() { return air::emu::has_capability(75); }
inline void air_prefetch_l2(const void *) {}
template <class T> inline void air_keep(T *&) {}

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
        needs_capability(75, "mma.sync needs compute capability 7.5", file, line);
        const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
        all = warp_exchange_wide(~0u, mine, sizeof mine, Collective::matrix, file, line);
    }
    /* A row of A and a column of B, K elements; a register holds 4 / sizeof(T) neighbours in k, four lanes side by side those of one
     * register, 16 bytes. */
    template <class T, int K>
    void row_of_a(T (&to)[K], int row) const
    {
        copy(to, (row & 7) * 4, row >> 3, 2);
    }
    template <class T, int K>
    void column_of_b(T (&to)[K], int column) const
    {
        copy(to, column * 4, 4, 1);
    }

private:
    template <class T, int K>
    void copy(T (&to)[K], int from_lane, int reg, int regs_apart) const
    {
        for (int word = 0; word < int(K * sizeof(T)) / 4; word++)
            memcpy(reinterpret_cast<char *>(to) + 4 * word, all + WIDE_BYTES * (from_lane + word % 4) + 4 * (reg + word / 4 * regs_apart), 4);
    }

    const unsigned char *all;
};

/* The rows of A and the columns of B that a lane has results of: two of each. */
template <class T, int K>
struct Operands {
    T a[2][K], b[2][K];

    explicit Operands(const Fragments &in)
    {
        for (int i = 0; i < 2; i++) {
            in.row_of_a(a[i], (lane() >> 2) + 8 * i);
            in.column_of_b(b[i], (lane() & 3) * 2 + i);
        }
    }
};

template <int K>
inline void multiply_bytes(const Fragments &fragments, int d[4])
{
    const Operands<int8_t, K> in(fragments);
    for (int i = 0; i < 4; i++) {
        unsigned sum = static_cast<unsigned>(d[i]);
        for (int k = 0; k < K; k++) sum += static_cast<unsigned>(in.a[i >> 1][k] * in.b[i & 1][k]);
        d[i] = static_cast<int>(sum);
    }
}

}  // namespace air::emu

inline void air_mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2], AIR_EMU_CALLER)
{
    const air::emu::Operands<uint16_t, 16> in(air::emu::Fragments(a, b, file, line));
    float rows[2][16], columns[2][16];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 16; k++) rows[i][k] = air::emu::half_to_float(in.a[i][k]), columns[i][k] = air::emu::half_to_float(in.b[i][k]);
    for (int i = 0; i < 4; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += rows[i >> 1][k] * columns[i & 1][k];
        d[i] += sum;
    }
}

inline void air_mma_m16n8k32_s8(int d[4], const unsigned a[4], const unsigned b[2], AIR_EMU_CALLER)
{
    air::emu::multiply_bytes<32>(air::emu::Fragments(a, b, file, line), d);
}

inline void air_mma_m16n8k16_s8(int d[4], const unsigned a[2], unsigned b, AIR_EMU_CALLER)
{
    const unsigned all_of_a[4] = {a[0], a[1], 0, 0}, all_of_b[2] = {b, 0};
    air::emu::multiply_bytes<16>(air::emu::Fragments(all_of_a, all_of_b, file, line), d);
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
