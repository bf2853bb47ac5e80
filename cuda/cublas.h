/* cuda/cublas.h: NVIDIA's cuBLAS for products of prompts with F16 or BF16 weights, where it was asked for (AIRPY_CUBLAS=on).
 *
 * It is found when a model is opened, never linked: a library of the major version of CUDA that this was built for, in this order: one
 * that the process has loaded, one in the directories given (separated by ':'), one that the system's loader finds. It stays loaded.
 *
 * Every product is cut into calls of one shape, AIR_DEVICE_CUBLAS_ROWS rows by AIR_DEVICE_CUBLAS_COLUMNS columns by k, filled up, of
 * aligned memory, with a workspace of our own: what cuBLAS chooses by shape is the same for a row and a column whatever is beside them.
 * That it adds alike wherever in a call they are is what tests/cuda_emu/test_cublas.cu asks of a GPU.
 * Activations are sums of two halves, or of three bfloat16 (24 bits), one call for each, smallest first, so precision is that of float32
 * sums: weights are as they are in the file. One backend's, used by one thread at a time with its first device current. */
#ifndef AIR_CUDA_CUBLAS_H
#define AIR_CUDA_CUBLAS_H

#include "base/status.h"
#include "cuda/kernels.h"

struct air_cuda_cublas;

/* Which one is found, for people: version and path. AIR_E_UNSUPPORTED: none, or one that lacks something, and what helps. */
air_status air_cuda_cublas_find(const char *directories, char *text, size_t room, air_error *err);

/* Finds it and takes VRAM, as air_device_cublas_bytes counts it, for products of up to most_k weights to a row; *out is null otherwise.
 * Errors: those of find, also for a device below compute capability 8.0; AIR_E_NOMEM; AIR_E_DEVICE. */
air_status air_cuda_cublas_open(air_cuda_cublas **out, const char *directories, int64_t most_k, cudaStream_t stream, air_error *err);
void air_cuda_cublas_close(air_cuda_cublas *c); /* NULL: nothing */

/* Whether such a product is cuBLAS's: by role, type and k alone. */
bool air_cuda_cublas_takes(const air_cuda_product *p);
/* Enqueues it. AIR_E_DEVICE: what CUDA or cuBLAS says; the next product may be tried. */
air_status air_cuda_cublas_product(air_cuda_cublas *c, const air_cuda_product *p, air_error *err);

#endif
