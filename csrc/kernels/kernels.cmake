# The kernels' sources and how each is compiled. Included by the top-level CMakeLists; sets AIR_KERNEL_SOURCES.
#
# Contraction of a*b+c is off everywhere: what is fused says so, and no two instances of a kernel may differ in it.
set(_air_kernels ${CMAKE_CURRENT_LIST_DIR})
set(AIR_KERNEL_SOURCES
    ${_air_kernels}/dispatch.c
    ${_air_kernels}/ref/attention.c
    ${_air_kernels}/ref/product_float.c
    ${_air_kernels}/ref/product_quant.c
    ${_air_kernels}/ref/vector.c)
set_source_files_properties(${AIR_KERNEL_SOURCES} PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")

