#include "prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Everything that can be read from fd, up to the limit, into memory that grows by doubling.
static bool read_all(Prompt* prompt, int fd, const char* where, size_t limit, Error* error) {
    size_t capacity = 1 << 16;
    prompt->text = malloc(capacity);
    prompt->length = 0;
    while (!prompt->is_cut && prompt->text != NULL) {
        ssize_t got = read(fd, prompt->text + prompt->length, capacity - prompt->length - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(error, "%s: cannot read the prompt: %s", where, strerror(errno));
        if (got == 0) break;
        prompt->length += (size_t)got;
        prompt->is_cut = prompt->length > limit;
        if (prompt->length + 1 < capacity) continue;
        capacity *= 2;
        char* larger = realloc(prompt->text, capacity);
        if (larger == NULL) free(prompt->text);
        prompt->text = larger;
    }
    if (prompt->text == NULL) return fail(error, "%s: no memory for a prompt of %zu bytes", where, capacity);
    if (prompt->is_cut) prompt->length = limit;
    else if (prompt->length > 0 && prompt->text[prompt->length - 1] == '\n') prompt->length--;
    prompt->text[prompt->length] = '\0';
    return true;
}

// Reads a descriptor to its end. A user who did not mean to type a prompt, or who named a pipe that nobody writes into,
// should know what the program is waiting for.
static bool read_patiently(Prompt* prompt, int fd, const char* where, bool is_quiet, size_t limit, Error* error) {
    struct pollfd input = {.fd = fd, .events = POLLIN};
    if (!is_quiet && poll(&input, 1, 1000) == 0) {
        fprintf(stderr, "gpt2: waiting for the prompt on %s, to its end%s\n", where,
                isatty(fd) ? " (Ctrl-D)" : "; -p gives one on the command line");
    }
    while (poll(&input, 1, -1) < 0 && errno == EINTR) continue;
    return read_all(prompt, fd, where, limit, error);
}

// O_NONBLOCK: opening a pipe must not wait for its writer without a word. Reading then waits by poll().
static bool read_file(Prompt* prompt, const char* path, bool is_quiet, size_t limit, Error* error) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return fail(error, "-f \"%s\": cannot open the prompt: %s", path, strerror(errno));
    int flags = fcntl(fd, F_GETFL);
    bool ok = flags >= 0 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0;
    if (!ok) fail(error, "-f %s: cannot open the prompt: %s", path, strerror(errno));
    ok = ok && read_patiently(prompt, fd, path, is_quiet, limit, error);
    close(fd);
    return ok;
}

bool prompt_read(Prompt* prompt, const Options* options, size_t limit, Error* error) {
    *prompt = (Prompt){0};
    const char* text = options->prompt;
    bool is_given = text != NULL || options->prompt_file != NULL;
    bool is_stdin = is_given ? strcmp(text != NULL ? text : options->prompt_file, "-") == 0 : !isatty(STDIN_FILENO);
    if (!is_given && !is_stdin) text = "";

    bool ok = true;
    if (is_stdin) {
        ok = read_patiently(prompt, STDIN_FILENO, "standard input", options->quiet, limit, error);
    } else if (text != NULL) {
        prompt->text = strdup(text);
        prompt->length = strlen(text);
        if (prompt->text == NULL) ok = fail(error, "-p: no memory for a prompt of %zu bytes", prompt->length);
    } else {
        ok = read_file(prompt, options->prompt_file, options->quiet, limit, error);
    }
    if (ok) return true;
    free(prompt->text);
    *prompt = (Prompt){0};
    return false;
}
