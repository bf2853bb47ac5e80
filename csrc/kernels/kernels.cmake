# The kernels' sources and how each is compiled. Included by the top-level CMakeLists; sets AIR_KERNEL_SOURCES.
#
# Contraction of a*b+c is off everywhere: what is fused says so, and no two instances of a kernel may differ in it.
# The ISA flags are per file; nothing in those files runs before dispatch.c has asked the CPU.
set(_air_kernels ${CMAKE_CURRENT_LIST_DIR})
set(AIR_KERNEL_SOURCES
    ${_air_kernels}/dispatch.c
    ${_air_kernels}/ref/attention.c
    ${_air_kernels}/ref/product_float.c
    ${_air_kernels}/ref/product_quant.c
    ${_air_kernels}/ref/vector.c)
set_source_files_properties(${AIR_KERNEL_SOURCES} PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")

# Sanitizers check every access of what is unrolled: at -O3 compiling the products takes many minutes.
set(_air_optimise -O3)
if(AIRPY_SANITIZE)
    set(_air_optimise -O1)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(_air_avx2 attention product_float product_iq product_k product_legacy vector)
    set(_air_avx512 attention product_float vector)
    foreach(name ${_air_avx2})
        set(file ${_air_kernels}/x86/avx2/${name}.c)
        list(APPEND AIR_KERNEL_SOURCES ${file})
        set_source_files_properties(${file} PROPERTIES
            COMPILE_OPTIONS "${_air_optimise};-ffp-contract=off;-mavx2;-mfma;-mf16c;-mbmi2")
    endforeach()
    set(_air_512_flags "${_air_optimise};-ffp-contract=off;-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl")
    foreach(name ${_air_avx512})
        set(file ${_air_kernels}/x86/avx512/${name}.c)
        list(APPEND AIR_KERNEL_SOURCES ${file})
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${_air_512_flags}")
    endforeach()
    foreach(name product_vnni product_vnni_min)
        set(file ${_air_kernels}/x86/avx512/${name}.c)
        list(APPEND AIR_KERNEL_SOURCES ${file})
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${_air_512_flags};-mavx512vnni")
    endforeach()
    set_source_files_properties(${_air_kernels}/dispatch.c PROPERTIES COMPILE_DEFINITIONS AIR_KERNELS_X86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(_air_neon attention product_float product_quant vector)
    set(_air_march_neon armv8-a)
    set(_air_dotprod product_quant)
    set(_air_march_dotprod armv8.2-a+dotprod)
    set(_air_i8mm product_quant)
    set(_air_march_i8mm armv8.2-a+dotprod+i8mm)
    foreach(tier neon dotprod i8mm)
        foreach(name ${_air_${tier}})
            set(file ${_air_kernels}/arm/${tier}/${name}.c)
            list(APPEND AIR_KERNEL_SOURCES ${file})
            set_source_files_properties(${file} PROPERTIES
                COMPILE_OPTIONS "${_air_optimise};-ffp-contract=off;-march=${_air_march_${tier}}")
        endforeach()
    endforeach()
    set_source_files_properties(${_air_kernels}/dispatch.c PROPERTIES COMPILE_DEFINITIONS AIR_KERNELS_ARM)
endif()
