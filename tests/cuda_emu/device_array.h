/* device_array.h: device memory for tests, filled and read back whole. A test has no use for a failed allocation: it ends there. */
#ifndef AIR_CUDA_EMU_DEVICE_ARRAY_H
#define AIR_CUDA_EMU_DEVICE_ARRAY_H

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/dialect.h"

inline void must(cudaError_t error, const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    if (!error) return;
    printf("%s:%d: %s: %s\n", file, line, cudaGetErrorName(error), cudaGetErrorString(error));
    exit(EXIT_FAILURE);
}

template <class T>
class DeviceArray {
public:
    explicit DeviceArray(size_t n) : count(n) { must(cudaMalloc(reinterpret_cast<void **>(&memory), n * sizeof(T))); }
    explicit DeviceArray(const std::vector<T> &values) : DeviceArray(values.size()) { set(values); }
    ~DeviceArray() { cudaFree(memory); }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;

    T *get() const { return memory; }
    void set(const std::vector<T> &values) { must(cudaMemcpy(memory, values.data(), count * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> read() const
    {
        std::vector<T> values(count);
        must(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
        return values;
    }

private:
    T *memory = nullptr;
    size_t count;
};

#endif
