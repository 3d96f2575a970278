// Text to a file descriptor as it is made: nothing lost, nothing altered, nothing buffered.
#ifndef TEXT_OUTPUT_H
#define TEXT_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "utils.h"

// On a terminal an incomplete character is held back until its last bytes come, or can no longer come: tokens may end
// within a character, and terminals draw what they have. To a pipe or a file bytes go as they come.
typedef struct {
    int fd;
    bool is_terminal;
    bool is_closed;     // the reader has gone (EPIPE): what is written is dropped, without an error
    bool at_line_start; // nothing written, or a newline last
    unsigned char held[4];
    size_t num_held;
} TextOutput;

// `fd` stays the caller's. SIGPIPE must be ignored by the program for is_closed to work.
void text_open(TextOutput* out, int fd);

// Writes n bytes. False with the error filled in when they cannot be written, such as on a full disk.
bool text_write(TextOutput* out, const char* bytes, size_t n, Error* error);

// Ends the text: writes what is still held, and on a terminal a newline where the last line has none.
bool text_end(TextOutput* out, Error* error);

#endif
