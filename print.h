// Printing of the tables and JSON objects on standard output.
#ifndef PRINT_H
#define PRINT_H

#include <stdio.h>

#include "text_output.h"

// Text that is put together in memory and then written at once.
typedef struct {
    FILE* out; // print here
    char* text;
    size_t length;
} Page;

// Begins an empty page. False with the error filled in when memory is short. Ends with page_end() or page_drop().
bool page_open(Page* page, Error* error);

// Writes the page and frees it, whatever happens.
bool page_end(Page* page, TextOutput* to, Error* error);

// Frees the page unwritten. Harmless after page_end().
void page_drop(Page* page);

// Escapes as Python's repr() does, without the quotes; `quote` is escaped too (0: none).
void print_escaped(FILE* out, const char* bytes, size_t n, char quote);

// repr() of bytes: in single quotes, or in double ones where that saves escapes.
void print_repr(FILE* out, const char* bytes, size_t n);

// A JSON string (RFC 8259) of n bytes, escaped as needed. Each byte that is not UTF-8 becomes U+FFFD.
void json_quoted(FILE* out, const char* bytes, size_t n);

// "key": "text", and a comma.
void json_text(FILE* out, const char* key, const char* text);

// "key": value, and `end`: the number in the fewest digits that tell it from every other float, or null for what JSON
// cannot express.
void json_number(FILE* out, const char* key, double value, const char* end);

// "key": [...]
void json_ids(FILE* out, const char* key, const int* tokens, int n);

#endif
