// Faults at a chosen call, for dev/test_faults.c: linked into the program with -Wl,--wrap=..., so that calls of the
// functions below come here, those of a statically linked libjansson too.
//
// GPT2_FAULT is KIND:N. KIND is a group of functions of which the N-th call fails (memory, open, map, stat, read,
// write, file, rename), a way in which all calls from the N-th on behave (short-read, short-write: one byte at a time),
// one call that is interrupted (eintr-read, eintr-write), or the number of a signal that is sent at the N-th call of
// any of them. When the fault has happened the file named by GPT2_FAULT_MARK is there.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// The counters must be global: there is nowhere else for what lies between two calls.
static long calls_of_kind, calls_of_all;

#define REAL(type, name, ...) type __real_##name(__VA_ARGS__)
#define WRAP(type, name, ...)                                                                                          \
    REAL(type, name, __VA_ARGS__);                                                                                     \
    type __wrap_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__)

int __real_open(const char* path, int flags, ...);

static void leave_mark(void) {
    const char* mark = getenv("GPT2_FAULT_MARK");
    int fd = mark != NULL ? __real_open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) close(fd);
}

// Counts a call of `kind`; true when the fault is to happen at it.
static bool is_due(const char* kind, bool from_then_on) {
    const char* fault = getenv("GPT2_FAULT");
    const char* colon = fault != NULL ? strchr(fault, ':') : NULL;
    if (colon == NULL) return false;
    if (strlen(kind) != (size_t)(colon - fault) || strncmp(fault, kind, strlen(kind)) != 0) return false;
    long n = atol(colon + 1), call = ++calls_of_kind;
    if (call != n && !(from_then_on && call > n)) return false;
    if (call == n) leave_mark();
    return true;
}

// Sends the signal, when one is wanted and this is the call.
static void count_call(void) {
    const char* fault = getenv("GPT2_FAULT");
    if (fault == NULL || fault[0] < '0' || fault[0] > '9') return;
    const char* colon = strchr(fault, ':');
    if (colon == NULL || ++calls_of_all != atol(colon + 1)) return;
    leave_mark();
    raise(atoi(fault));
}

static bool fails(const char* kind, int number) {
    count_call();
    if (!is_due(kind, false)) return false;
    errno = number;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------

WRAP(void*, malloc, size_t size) {
    return fails("memory", ENOMEM) ? NULL : __real_malloc(size);
}

WRAP(void*, calloc, size_t count, size_t size) {
    return fails("memory", ENOMEM) ? NULL : __real_calloc(count, size);
}

WRAP(void*, realloc, void* memory, size_t size) {
    return fails("memory", ENOMEM) ? NULL : __real_realloc(memory, size);
}

WRAP(int, posix_memalign, void** memory, size_t alignment, size_t size) {
    return fails("memory", ENOMEM) ? ENOMEM : __real_posix_memalign(memory, alignment, size);
}

WRAP(char*, strdup, const char* text) {
    return fails("memory", ENOMEM) ? NULL : __real_strdup(text);
}

WRAP(char*, realpath, const char* path, char* resolved) {
    return fails("memory", ENOMEM) ? NULL : __real_realpath(path, resolved);
}

WRAP(FILE*, open_memstream, char** text, size_t* length) {
    return fails("memory", ENOMEM) ? NULL : __real_open_memstream(text, length);
}

WRAP(FILE*, fdopen, int fd, const char* mode) {
    return fails("memory", ENOMEM) ? NULL : __real_fdopen(fd, mode);
}

WRAP(FILE*, fopen, const char* path, const char* mode) {
    return fails("open", EMFILE) ? NULL : __real_fopen(path, mode);
}

int __wrap_open(const char* path, int flags, ...);
int __wrap_open(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails("open", EMFILE) ? -1 : __real_open(path, flags, mode);
}

WRAP(void*, mmap, void* address, size_t size, int protection, int flags, int fd, off_t offset) {
    return fails("map", ENOMEM) ? MAP_FAILED : __real_mmap(address, size, protection, flags, fd, offset);
}

WRAP(int, stat, const char* path, struct stat* status) {
    return fails("stat", EIO) ? -1 : __real_stat(path, status);
}

WRAP(int, fstat, int fd, struct stat* status) {
    return fails("stat", EIO) ? -1 : __real_fstat(fd, status);
}

WRAP(ssize_t, read, int fd, void* bytes, size_t n) {
    if (fails("read", EIO) || fails("eintr-read", EINTR)) return -1;
    return __real_read(fd, bytes, n > 1 && is_due("short-read", true) ? 1 : n);
}

WRAP(ssize_t, write, int fd, const void* bytes, size_t n) {
    if (fails("write", ENOSPC) || fails("eintr-write", EINTR)) return -1;
    return __real_write(fd, bytes, n > 1 && is_due("short-write", true) ? 1 : n);
}

WRAP(size_t, fwrite, const void* items, size_t size, size_t count, FILE* file) {
    if (!fails("file", ENOSPC)) return __real_fwrite(items, size, count, file);
    file->_flags |= 0x20; // glibc's mark of an error, which ferror() looks for; nothing public sets it
    return 0;
}

WRAP(int, fflush, FILE* file) {
    int result = __real_fflush(file);
    return fails("file", ENOSPC) ? EOF : result;
}

WRAP(int, fsync, int fd) {
    return fails("file", EIO) ? -1 : __real_fsync(fd);
}

WRAP(int, fclose, FILE* file) {
    bool is_lost = fails("file", EIO);
    int result = __real_fclose(file);
    if (is_lost) errno = EIO;
    return is_lost ? EOF : result;
}

WRAP(int, rename, const char* from, const char* to) {
    return fails("rename", EXDEV) ? -1 : __real_rename(from, to);
}
