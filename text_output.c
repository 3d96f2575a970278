#include "text_output.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

void text_open(TextOutput* out, int fd) {
    *out = (TextOutput){.fd = fd, .is_terminal = isatty(fd) == 1, .at_line_start = true};
}

static bool write_all(TextOutput* out, const void* bytes, size_t n, Error* error) {
    const char* next = bytes;
    if (n > 0) out->at_line_start = next[n - 1] == '\n';
    while (n > 0 && !out->is_closed) {
        ssize_t written = write(out->fd, next, n);
        if (written > 0) {
            next += written;
            n -= (size_t)written;
        } else if (written == 0) {
            return fail(error, "standard output: takes nothing; %zu bytes of text were not written", n);
        } else if (errno == EPIPE) {
            out->is_closed = true;
        } else if (errno == EAGAIN) { // another program has made the shared terminal or pipe non-blocking
            struct pollfd wait = {.fd = out->fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (errno != EINTR) {
            return fail(error, "standard output: %s; %zu bytes of text were not written", strerror(errno), n);
        }
    }
    return true;
}

// Adds bytes to a held beginning of a character until it is whole, or turns out to be none. Returns how many were used.
static size_t complete_held(TextOutput* out, const unsigned char* bytes, size_t n, Error* error, bool* ok) {
    size_t used = 0;
    while (out->num_held > 0 && used < n && *ok) {
        out->held[out->num_held++] = bytes[used++];
        int length = utf8_length(out->held, out->num_held);
        if (length < 0) continue;
        if (length == 0) { // the new byte does not belong to it, and may begin a character of its own
            out->num_held--;
            used--;
        }
        *ok = write_all(out, out->held, out->num_held, error);
        out->num_held = 0;
    }
    return used;
}

bool text_write(TextOutput* out, const char* bytes, size_t n, Error* error) {
    if (!out->is_terminal) return write_all(out, bytes, n, error);
    const unsigned char* next = (const unsigned char*)bytes;
    bool ok = true;
    size_t used = complete_held(out, next, n, error, &ok);
    next += used;
    n -= used;
    if (!ok || n == 0) return ok;
    size_t cut = 0; // bytes at the end that begin a character
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        if (utf8_length(next + n - k, k) < 0) cut = k;
    }
    if (!write_all(out, next, n - cut, error)) return false;
    memcpy(out->held, next + n - cut, cut);
    out->num_held = cut;
    return true;
}

bool text_end(TextOutput* out, Error* error) {
    size_t num_held = out->num_held;
    out->num_held = 0;
    if (!write_all(out, out->held, num_held, error)) return false;
    return !out->is_terminal || out->at_line_start || write_all(out, "\n", 1, error);
}
