# The kernels' sources and how each is compiled. Included by the top-level CMakeLists; sets AIR_KERNEL_SOURCES.
#
# Contraction of a*b+c is off everywhere: what is fused says so, and no two instances of a kernel may differ in it.
# The ISA flags are per file; nothing in those files runs before dispatch.c has asked the CPU.
set(_air_kernels ${CMAKE_CURRENT_LIST_DIR})
set(AIR_KERNEL_SOURCES
    ${_air_kernels}/dispatch.c
    ${_air_kernels}/state.c
    ${_air_kernels}/ref/attention.c
    ${_air_kernels}/ref/product_float.c
    ${_air_kernels}/ref/product_quant.c
    ${_air_kernels}/ref/recurrent.c
    ${_air_kernels}/ref/vector.c)
set_source_files_properties(${AIR_KERNEL_SOURCES} PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")

# Sanitizers check every access of what is unrolled: at -O3 compiling the products takes many minutes.
set(_air_optimise -O3)
if(AIRPY_SANITIZE)
    set(_air_optimise -O1)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(_air_quantised product_iq product_k product_legacy)
    set(_air_float attention product_float recurrent vector)
    set(_air_flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
    set(_air_flags_avxvnni ${_air_flags_avx2} -mavxvnni)
    set(_air_flags_avx512 ${_air_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
    function(air_x86_kernels folder)
        cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "FLAGS;NAMES")
        foreach(name ${arg_NAMES})
            set(file ${_air_kernels}/x86/${folder}/${name}.c)
            list(APPEND AIR_KERNEL_SOURCES ${file})
            set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${_air_optimise};-ffp-contract=off;${arg_FLAGS}")
        endforeach()
        set(AIR_KERNEL_SOURCES ${AIR_KERNEL_SOURCES} PARENT_SCOPE)
    endfunction()
    air_x86_kernels(avx2 NAMES ${_air_quantised} ${_air_float} FLAGS ${_air_flags_avx2})
    air_x86_kernels(avxvnni NAMES ${_air_quantised} FLAGS ${_air_flags_avxvnni})
    air_x86_kernels(avx512 NAMES ${_air_float} FLAGS ${_air_flags_avx512})
    air_x86_kernels(avx512 NAMES ${_air_quantised} FLAGS ${_air_flags_avx512} -mavx512vnni)
    set_source_files_properties(${_air_kernels}/dispatch.c PROPERTIES COMPILE_DEFINITIONS AIR_KERNELS_X86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(_air_neon attention product_float product_quant recurrent vector)
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
