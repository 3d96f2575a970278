// The text to continue, from wherever the user put it.
#ifndef PROMPT_H
#define PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "options.h"

typedef struct {
    char* text; // any bytes, NUL among them; followed by one NUL that does not count
    size_t length;
    bool is_cut; // the text was longer than the limit; the rest was not kept
} Prompt;

// Where the prompt comes from: -p TEXT as it is; -f FILE; standard input for "-", and without -p and -f when something
// is piped in or redirected. A file or standard input loses one newline at its end, so that `echo text | gpt2` is the
// same as `gpt2 -p text`. A terminal, a closed standard input, /dev/null and an empty file give the empty text.
// No more than `limit` bytes are kept. The caller frees prompt->text.
bool prompt_read(Prompt* prompt, const Options* options, size_t limit, Error* error);

#endif
