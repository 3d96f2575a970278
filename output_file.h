// Files that appear whole or not at all.
#ifndef OUTPUT_FILE_H
#define OUTPUT_FILE_H

#include <stdio.h>

#include "utils.h"

// A file being written, under the name PATH.tmp until it is whole. Where PATH is a symbolic link, what it points to is
// meant, and the unfinished file lies there.
typedef struct {
    FILE* stream;
    char* path;
    char* temporary;
} OutputFile;

// Begins a file that is to stand at `path`. What stands there already must be a regular file, and not the one that
// standard output goes to: a device, a pipe or a directory cannot be replaced by a file. An unfinished file of that name
// is an error too, since another program may be writing it. Ends with output_close() or output_abandon(); nothing needs
// either on failure.
bool output_open(OutputFile* file, const char* path, Error* error);

bool output_write(OutputFile* file, const void* bytes, size_t n, Error* error);

// Makes the file permanent: flushed to the disk, then renamed to its path, replacing what was there. On failure nothing
// is left.
bool output_close(OutputFile* file, Error* error);

// Removes the unfinished file. Harmless after output_close().
void output_abandon(OutputFile* file);

#endif
