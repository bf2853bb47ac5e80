#include "cuda/cublas.h"

#include <new>
#include <stddef.h>
#include <stdio.h>

#include "cuda/backend.h"
#include "platform/dl.h"

#define TRY(call) AIR_CUDA_TRY(call, "computing", err)

/* --- cuBLAS, as far as it is used: its names and values --- */

enum {
    CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_COMPUTE_32F = 68, CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_MAJOR = 0, CUBLAS_MINOR = 1, CUBLAS_PATCH = 2,
    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16, CUBLAS_R_32F = 0, CUBLAS_R_16F = 2, CUBLAS_R_16BF = 14,
};

struct cublas_functions {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, cudaStream_t stream);
    int (*set_workspace)(void *handle, void *workspace, size_t bytes);
    int (*set_math_mode)(void *handle, int mode);
    int (*get_property)(int which, int *value);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda, const void *b,
                int type_b, int ldb, const void *beta, void *c, int type_c, int ldc, int compute, int algorithm);
};

static const struct { const char *name; size_t offset; } symbols[] = {
    {"cublasCreate_v2", offsetof(cublas_functions, create)},
    {"cublasDestroy_v2", offsetof(cublas_functions, destroy)},
    {"cublasSetStream_v2", offsetof(cublas_functions, set_stream)},
    {"cublasSetWorkspace_v2", offsetof(cublas_functions, set_workspace)},
    {"cublasSetMathMode", offsetof(cublas_functions, set_math_mode)},
    {"cublasGetProperty", offsetof(cublas_functions, get_property)},
    {"cublasGemmEx", offsetof(cublas_functions, gemm)},
};

static air_status failed(int status, const char *what, air_error *err)
{
    (void)cudaGetLastError();
    const char *why = status == 3 ? ", no memory" : "";
    return air_fail(err, *why ? AIR_E_NOMEM : AIR_E_DEVICE, "cuda: cuBLAS: %s failed with status %d%s; AIRPY_CUBLAS=off does without", what,
                    status, why);
}

#define TRY_CUBLAS(call, what)                                       \
    do {                                                             \
        int status_ = (call);                                        \
        if (status_) return failed(status_, what, err);              \
    } while (0)

/* --- finding it --- */

static air_library *library_in(const char *directories, const char *name)
{
    air_library *library = nullptr;
    for (const char *at = directories; *at && !library;) {
        size_t length = strcspn(at, ":");
        char path[4096];
        int n = snprintf(path, sizeof path, "%.*s/%s", (int)length, at, name);
        if (length && (size_t)n < sizeof path && air_library_open(&library, path, nullptr)) library = nullptr;
        at += length + (at[length] == ':');
    }
    return library;
}

static air_status find(const char *directories, cublas_functions *f, char *path, size_t room, int version[3], air_error *err)
{
    const int wanted = CUDART_VERSION / 1000;
    char name[32];
    air_error why = {};
    (void)snprintf(name, sizeof name, "libcublas.so.%d", wanted);
    air_library *library = air_library_loaded(name);
    if (!library) library = library_in(directories, name);
    if (!library && air_library_open(&library, name, &why))
        return air_fail(err, AIR_E_UNSUPPORTED, "no cuBLAS of CUDA %d was found (%s); install airpy[cuda%d], or put it where the system's "
                        "loader looks", wanted, why.text, wanted);
    for (const auto &symbol : symbols) {
        void *function = air_library_symbol(library, symbol.name);
        if (!function) return air_fail(err, AIR_E_UNSUPPORTED, "%s has no %s: it is no cuBLAS of CUDA %d", name, symbol.name, wanted);
        memcpy((char *)f + symbol.offset, &function, sizeof function);
    }
    air_library_path(library, symbols[0].name, path, room);
    for (int i = CUBLAS_MAJOR; i <= CUBLAS_PATCH; i++)
        if (f->get_property(i, &version[i])) version[i] = -1;
    if (version[CUBLAS_MAJOR] == wanted) return AIR_OK;
    return air_fail(err, AIR_E_UNSUPPORTED, "%s is of version %d, this build needs %d; install airpy[cuda%d]", path, version[CUBLAS_MAJOR],
                    wanted, wanted);
}

air_status air_cuda_cublas_find(const char *directories, char *text, size_t room, air_error *err)
{
    cublas_functions f;
    char path[4096];
    int v[3];
    air_status st = find(directories, &f, path, sizeof path, v, err);
    if (!st) (void)snprintf(text, room, "%d.%d.%d, %s", v[CUBLAS_MAJOR], v[CUBLAS_MINOR], v[CUBLAS_PATCH], path);
    return st;
}

/* --- life --- */

struct air_cuda_cublas {
    cublas_functions f;
    void *handle;
    cudaStream_t stream;
    uint8_t *memory;
    air_device_cublas_layout layout;
};

void air_cuda_cublas_close(air_cuda_cublas *c)
{
    if (!c) return;
    if (c->handle) (void)c->f.destroy(c->handle);
    (void)cudaFree(c->memory);
    delete c;
}

static air_status open(air_cuda_cublas *c, const char *directories, air_error *err)
{
    char path[4096];
    int version[3], device = 0, major = 0;
    air_status st = find(directories, &c->f, path, sizeof path, version, err);
    if (st) return st;
    TRY(cudaGetDevice(&device));
    TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    if (major < 8)
        return air_fail(err, AIR_E_UNSUPPORTED, "cuBLAS is used from compute capability 8.0 on, this GPU is of %d; leave AIRPY_CUBLAS out",
                        major);
    st = air_cuda_vram((void **)&c->memory, c->layout.total, "cuBLAS", err);
    if (st) return st;
    TRY_CUBLAS(c->f.create(&c->handle), "cublasCreate");
    TRY_CUBLAS(c->f.set_stream(c->handle, c->stream), "cublasSetStream"); /* which forgets the workspace: first */
    TRY_CUBLAS(c->f.set_workspace(c->handle, c->memory + c->layout.workspace, AIR_DEVICE_CUBLAS_WORKSPACE), "cublasSetWorkspace");
    TRY_CUBLAS(c->f.set_math_mode(c->handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION), "cublasSetMathMode");
    return AIR_OK;
}

air_status air_cuda_cublas_open(air_cuda_cublas **out, const char *directories, int64_t most_k, cudaStream_t stream, air_error *err)
{
    *out = nullptr;
    air_cuda_cublas *c = new (std::nothrow) air_cuda_cublas{};
    if (!c) return air_fail(err, AIR_E_NOMEM, "cuda: %zu bytes", sizeof *c);
    c->stream = stream;
    c->layout = air_device_cublas_layout_of(most_k);
    air_status st = open(c, directories, err);
    if (st) air_cuda_cublas_close(c);
    else *out = c;
    return st;
}

/* --- the product --- */

bool air_cuda_cublas_takes(const air_cuda_product *p)
{
    return p->role == AIR_CUDA_PROMPT && air_device_cublas_takes(p->type, p->k);
}

/* *out: the rows as a call takes them, so many, aligned: where they lie, or a copy, behind which is what was there before: rows that are
 * computed with and not used. */
static air_status rows_of(const air_cuda_cublas *c, const air_cuda_product *p, const uint8_t **out, air_error *err)
{
    *out = p->w;
    if (p->rows == AIR_DEVICE_CUBLAS_ROWS && (uintptr_t)p->w % 16 == 0) return AIR_OK;
    uint8_t *copy = c->memory + c->layout.rows;
    TRY(cudaMemcpyAsync(copy, p->w, (size_t)p->rows * p->row_bytes, cudaMemcpyDeviceToDevice, c->stream));
    *out = copy;
    return AIR_OK;
}

/* One call's rows and columns, whose terms are there. */
static air_status multiply(const air_cuda_cublas *c, const air_cuda_product *p, int terms, air_error *err)
{
    const int k = (int)p->k, type = p->type == AIR_TYPE_F16 ? CUBLAS_R_16F : CUBLAS_R_16BF;
    const size_t apart = AIR_DEVICE_CUBLAS_COLUMNS * (size_t)k * sizeof(uint16_t);
    const float one = 1, zero = 0;
    float *part = (float *)(c->memory + c->layout.part);
    const uint8_t *w;
    air_status st = rows_of(c, p, &w, err);
    if (st) return st;
    for (int term = terms - 1; term >= 0; term--)
        TRY_CUBLAS(c->f.gemm(c->handle, CUBLAS_OP_T, CUBLAS_OP_N, AIR_DEVICE_CUBLAS_ROWS, AIR_DEVICE_CUBLAS_COLUMNS, k, &one, w, type, k,
                             c->memory + c->layout.columns + (size_t)term * apart, type, k, term == terms - 1 ? &zero : &one, part,
                             CUBLAS_R_32F, AIR_DEVICE_CUBLAS_ROWS, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT), "cublasGemmEx");
    TRY(air_cuda_joined(p, part, AIR_DEVICE_CUBLAS_ROWS, (const float *)(c->memory + c->layout.scale), c->stream));
    return AIR_OK;
}

air_status air_cuda_cublas_product(air_cuda_cublas *c, const air_cuda_product *p, air_error *err)
{
    const int terms = p->type == AIR_TYPE_F16 ? AIR_CUDA_HALF_TERMS : AIR_CUDA_BFLOAT_TERMS;
    const int64_t most_columns = AIR_DEVICE_CUBLAS_COLUMNS, most_rows = AIR_DEVICE_CUBLAS_ROWS;
    for (int64_t first = 0; first < p->n; first += most_columns) {
        air_cuda_product some = *p;
        some.n = p->n - first < most_columns ? p->n - first : most_columns;
        some.x += first * p->k;
        some.out += first * p->out_stride;
        TRY(air_cuda_split(some.x, p->k, some.n, most_columns, terms, (uint16_t *)(c->memory + c->layout.columns),
                           (float *)(c->memory + c->layout.scale), c->stream));
        for (int64_t row = 0; row < p->rows; row += some.rows) {
            some.rows = p->rows - row < most_rows ? p->rows - row : most_rows;
            air_status st = multiply(c, &some, terms, err);
            if (st) return st;
            some.w += (size_t)some.rows * p->row_bytes;
            some.out += some.rows;
            some.bias = some.bias ? some.bias + some.rows : nullptr;
        }
    }
    return AIR_OK;
}
