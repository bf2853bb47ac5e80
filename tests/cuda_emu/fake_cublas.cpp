/* fake_cublas.cpp: a library of cuBLAS's name with the functions of it that airpy uses, on the emulated CUDA of whoever sets
 * fake_cublas.launch to that one's cudaLaunchHostFunc; until then a handle cannot be made.
 *
 * As true ones may, it adds in another order for every shape and alignment, so that bits tell whether a call was of another one; it wants a
 * stream, a workspace, all of which it overwrites, and no reduced precision. */
#include <cstring>
#include <list>
#include <vector>

#include "simt.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef cudaError_t (*launch_fn)(cudaStream_t, void (*)(void *), void *);

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, HALF = 2, BFLOAT = 14, FLOAT = 0 };

/* The fail_at-th call from when it was set on returns status. */
struct controls {
    launch_fn launch;
    long fail_at;
    int status;
    long handles, products;
};
EXPORT controls fake_cublas;
controls fake_cublas = {};

namespace {

struct call {
    const void *a, *b;
    float *c;
    int m, n, k, lda, ldb, ldc, type;
    bool add;
    char *workspace;
    size_t workspace_bytes;
};

struct handle {
    cudaStream_t stream;
    bool has_stream, is_precise;
    char *workspace;
    size_t bytes;
    std::list<call> calls; /* whose arguments live until the handle does not */
};

bool fails() { return fake_cublas.fail_at > 0 && --fake_cublas.fail_at == 0; }

float value(const void *from, int type, size_t i)
{
    uint16_t bits = static_cast<const uint16_t *>(from)[i];
    return type == HALF ? air::emu::half_to_float(bits) : air::emu::bfloat16_to_float(bits);
}

std::vector<float> values(const void *from, int type, int lines, int k, int pitch)
{
    std::vector<float> all(static_cast<size_t>(lines) * static_cast<size_t>(k));
    for (size_t line = 0; line < static_cast<size_t>(lines); line++)
        for (size_t i = 0; i < static_cast<size_t>(k); i++)
            all[line * static_cast<size_t>(k) + i] = value(from, type, line * static_cast<size_t>(pitch) + i);
    return all;
}

bool is_zero(const float *x, int k)
{
    for (int i = 0; i < k; i++)
        if (x[i] != 0) return false;
    return true;
}

/* How long the sums are that are added up: another number for another shape. */
int piece_of(const call &c)
{
    int aligned = reinterpret_cast<uintptr_t>(c.a) % 16 == 0;
    return 3 + (c.m * 7 + c.n * 5 + c.lda + aligned * 4) % 29;
}

void compute(void *argument)
{
    const call &c = *static_cast<const call *>(argument);
    memset(c.workspace, 0xFF, c.workspace_bytes);
    std::vector<float> a = values(c.a, c.type, c.m, c.k, c.lda), b = values(c.b, c.type, c.n, c.k, c.ldb);
    int piece = piece_of(c);
    std::vector<bool> zeros;
    for (int column = 0; column < c.n; column++) zeros.push_back(is_zero(&b[static_cast<size_t>(column) * static_cast<size_t>(c.k)], c.k));
    for (int row = 0; row < c.m; row++) {
        const float *w = &a[static_cast<size_t>(row) * static_cast<size_t>(c.k)];
        bool none = is_zero(w, c.k);
        for (int column = 0; column < c.n; column++) {
            const float *x = &b[static_cast<size_t>(column) * static_cast<size_t>(c.k)];
            bool skip = none || zeros[static_cast<size_t>(column)];
            float *to = &c.c[static_cast<size_t>(column) * static_cast<size_t>(c.ldc) + static_cast<size_t>(row)], sum = 0;
            for (int first = 0; first < c.k && !skip; first += piece) {
                float part = 0;
                for (int i = first; i < c.k && i < first + piece; i++) part += w[i] * x[i];
                sum += part;
            }
            *to = c.add ? *to + sum : sum;
        }
    }
}

}  // namespace

EXPORT int cublasCreate_v2(void **out)
{
    if (fails()) return fake_cublas.status;
    if (!fake_cublas.launch) return NOT_INITIALIZED;
    *out = new handle{};
    fake_cublas.handles++;
    return SUCCESS;
}

EXPORT int cublasDestroy_v2(void *h)
{
    delete static_cast<handle *>(h);
    fake_cublas.handles--;
    return SUCCESS;
}

EXPORT int cublasSetStream_v2(void *h, cudaStream_t stream)
{
    if (fails()) return fake_cublas.status;
    handle *self = static_cast<handle *>(h);
    self->stream = stream;
    self->has_stream = true;
    self->workspace = nullptr;
    return SUCCESS;
}

EXPORT int cublasSetWorkspace_v2(void *h, void *workspace, size_t bytes)
{
    if (fails()) return fake_cublas.status;
    handle *self = static_cast<handle *>(h);
    self->workspace = static_cast<char *>(workspace);
    self->bytes = bytes;
    return reinterpret_cast<uintptr_t>(workspace) % 256 ? INVALID_VALUE : SUCCESS;
}

EXPORT int cublasSetMathMode(void *h, int mode)
{
    if (fails()) return fake_cublas.status;
    static_cast<handle *>(h)->is_precise = mode == 16;
    return SUCCESS;
}

EXPORT int cublasGetProperty(int which, int *value)
{
    const int version[] = {CUDART_VERSION / 1000, 2, 1};
    *value = version[which];
    return SUCCESS;
}

EXPORT int cublasGemmEx(void *h, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda,
                        const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc, int compute_type, int algorithm)
{
    if (fails()) return fake_cublas.status;
    handle *self = static_cast<handle *>(h);
    float scale = *static_cast<const float *>(alpha), add = *static_cast<const float *>(beta);
    bool is_known = op_a == 1 && op_b == 0 && (type_a == HALF || type_a == BFLOAT) && type_b == type_a && type_c == FLOAT &&
                    compute_type == 68 && algorithm == -1 && scale == 1 && (add == 0 || add == 1);
    if (!is_known || !self->has_stream || !self->workspace || !self->is_precise || lda < k || ldb < k || ldc < m) return INVALID_VALUE;
    self->calls.push_back({a, b, static_cast<float *>(c), m, n, k, lda, ldb, ldc, type_a, add == 1, self->workspace, self->bytes});
    fake_cublas.products++;
    return fake_cublas.launch(self->stream, compute, &self->calls.back()) == cudaSuccess ? SUCCESS : EXECUTION_FAILED;
}
