/* What Python asks of valgrind, and what it is given in place of the machine's own.
 *
 * Built by under_valgrind.py with the C compiler that the linker of Rust needs anyway, and loaded before all else
 * (LD_PRELOAD). Outside of valgrind the requests do nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <valgrind/callgrind.h>
#include <valgrind/memcheck.h>

/* ---------------------------------------------------------------------------------------------------- memcheck */

/* Where the first byte is that nobody has written, from 0; -1 where there is none. */
long request_first_undefined(char *start, size_t length) {
    char *where = (char *)VALGRIND_CHECK_MEM_IS_DEFINED(start, length);
    return where ? where - start : -1;
}

/* To read or to write there is an error from now on: of each of so many rows, from one byte to another. */
void request_forbid(char *start, size_t rows, size_t stride, size_t from, size_t to) {
    for (size_t k = 0; k < rows; k++) (void)VALGRIND_MAKE_MEM_NOACCESS(start + k * stride + from, to - from);
}

/* To use what is there is an error until it has been written. */
void request_forget(char *start, size_t length) { (void)VALGRIND_MAKE_MEM_UNDEFINED(start, length); }

/* NumPy keeps small blocks that are freed, and gives them out again with what was in them. With this allocator a new
 * array is a new block, which ends where the array ends. */
static void *new_block(void *context, size_t size) { return malloc(size); }
static void *new_zeros(void *context, size_t count, size_t size) { return calloc(count, size); }
static void *resized(void *context, void *block, size_t size) { return realloc(block, size); }
static void freed(void *context, void *block, size_t size) { free(block); }

/* PyDataMem_Handler, whose version 1 is that of all NumPys from 1.22 on. */
struct handler {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} request_handler = {"without_cache", 1, NULL, new_block, new_zeros, resized, freed};

/* --------------------------------------------------------------------------------------------------- callgrind */

void request_start(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* What was counted since is written to a file of its own. What is not counted runs five times as fast. */
void request_stop(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

/* How large the second-level cache is decides how a call is cut up, so how many instructions it takes: here it is of
 * 1 MiB on any machine. Rust's std opens files by this name. */
int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    const char *prefix = "/sys/devices/system/cpu/cpu0/cache/index", *name = strrchr(path, '/');
    if (strncmp(path, prefix, strlen(prefix)) == 0) {
        const char *said = strcmp(name, "/level") == 0 ? "2\n" : strcmp(name, "/size") == 0 ? "1024K\n" : "";
        int file = memfd_create("cache", MFD_CLOEXEC);
        if (file >= 0 && write(file, said, strlen(said)) == (ssize_t)strlen(said) && lseek(file, 0, SEEK_SET) == 0)
            return file;
    }
    return real(path, flags, mode);
}
