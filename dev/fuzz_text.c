// libFuzzer target for standard output: the bytes of the input, written some at a time as a text is made, must come out
// unaltered, whether they are held back until characters are whole (a terminal) or not. The first byte chooses that,
// and how many are written at a time.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "text_output.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

static void require(bool ok, const char* claim) {
    if (ok) return;
    fprintf(stderr, "not so: %s\n", claim);
    abort();
}

// Does a text that has come so far end within a character that is known to go on?
static bool ends_within_character(const uint8_t* text, size_t length, size_t whole) {
    for (size_t k = 1; k <= 3 && k <= length; k++) {
        int n = utf8_length(text + length - k, whole - (length - k));
        if (n > (int)k) return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    TextOutput out;
    Error error;
    size_t at_a_time = 1 + data[0] % 16, length = size - 1;
    const uint8_t* text = data + 1;
    int fd = memfd_create("text", 0);
    require(fd >= 0, "a file in memory can be made");
    text_open(&out, fd);
    out.is_terminal = data[0] >= 128;
    for (size_t i = 0; i < length; i += at_a_time) {
        size_t n = length - i < at_a_time ? length - i : at_a_time;
        require(text_write(&out, (const char*)text + i, n, &error), "it can be written");
        off_t written = lseek(fd, 0, SEEK_CUR);
        require(!out.is_terminal || !ends_within_character(text, (size_t)written, length),
                "on a terminal no character is split");
    }
    require(text_end(&out, &error), "it can be ended");
    bool adds_newline = out.is_terminal && text[length - 1] != '\n';
    require(lseek(fd, 0, SEEK_CUR) == (off_t)(length + adds_newline), "as many bytes come out as went in");
    uint8_t* came = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    require(came != MAP_FAILED && memcmp(came, text, length) == 0, "they are the same bytes");
    munmap(came, length);
    close(fd);
    return 0;
}
