# Cross-builds for Linux on AArch64 and runs what was built emulated: Debian's gcc-aarch64-linux-gnu and qemu-user-static.
# The environment variable QEMU_CPU chooses what is emulated (cortex-a57, neoverse-n1, max, which is the default).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu)
