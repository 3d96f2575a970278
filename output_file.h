// Files that appear whole or not at all.
#ifndef OUTPUT_FILE_H
#define OUTPUT_FILE_H

#include <stdio.h>

#include "utils.h"

// A file being written, under the name PATH.tmp until it is whole. Where PATH is a symbolic link, its target is
// replaced, and the unfinished file is beside the target.
typedef struct {
    FILE* stream;
    char* path;
    char* temporary;
} OutputFile;

// Begins a file for `path`. What is there already must be a regular file, and not the one that standard output goes to:
// a device, a pipe or a directory cannot be replaced by a file. An existing PATH.tmp is an error too, since another
// program may be writing it. End with output_close() or output_abandon(); after a failure neither is needed.
bool output_open(OutputFile* file, const char* path, Error* error);

// Writes n bytes. After a failure the caller calls output_abandon().
bool output_write(OutputFile* file, const void* bytes, size_t n, Error* error);

// Makes the file permanent: flushes it to the disk, then renames it to its path, replacing what was there. On failure
// the unfinished file is removed.
bool output_close(OutputFile* file, Error* error);

// Removes the unfinished file. Harmless after output_close().
void output_abandon(OutputFile* file);

#endif
