/* sanitized_child.h: runs this test program again, to see a sanitizer end it.
 *
 * A race or an overflow that a test plants on purpose would end the test itself. So main calls sanitized_child first, and tests
 * call report_of: the child runs one planted case, by name and number, and its output is the answer. */
#ifndef AIR_CUDA_EMU_SANITIZED_CHILD_H
#define AIR_CUDA_EMU_SANITIZED_CHILD_H

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
enum { THREAD_SANITIZER = 1, ADDRESS_SANITIZER = 0 };
#elif defined(__SANITIZE_ADDRESS__)
enum { THREAD_SANITIZER = 0, ADDRESS_SANITIZER = 1 };
#else
enum { THREAD_SANITIZER = 0, ADDRESS_SANITIZER = 0 };
#endif

/* Whether this process is a child, which then has run its case. */
inline bool sanitized_child(int argc, char **argv, void (*run_case)(const std::string &name, int number))
{
    if (argc != 4 || strcmp(argv[1], "--case")) return false;
    run_case(argv[2], atoi(argv[3]));
    return true;
}

inline std::string report_of(const std::string &name, int number)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return "no /proc/self/exe";
    self[n] = 0;
    std::string command = "'" + std::string(self) + "' --case " + name + " " + std::to_string(number) + " 2>&1", report;
    FILE *child = popen(command.c_str(), "r");
    if (!child) return "no child";
    char part[4096];
    while (size_t got = fread(part, 1, sizeof part, child)) report.append(part, got);
    pclose(child);
    return report;
}

inline bool mentions(const std::string &text, const char *what) { return text.find(what) != std::string::npos; }

#endif
