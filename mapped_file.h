// Files mapped into memory, and a guess at what an unexpected file is.
#ifndef MAPPED_FILE_H
#define MAPPED_FILE_H

#include "utils.h"

// A regular file, mapped read-only and private. A process that shortens the file while it is in use takes its pages
// away (SIGBUS); writers that rename a new file into place, as this program does, are harmless.
typedef struct {
    const unsigned char* bytes; // NULL when the file is empty
    size_t size;
} MappedFile;

// Maps `path`; the descriptor is closed again. A directory, a pipe or a device is an error. Release with unmap_file().
bool map_file(MappedFile* file, const char* path, Error* error);

void unmap_file(MappedFile* file);

// Gives back the whole pages of a part of a mapped file that will not be needed soon; they are read again when they are
// touched. Memory that is not a file's loses its contents.
void release_pages(const void* memory, size_t size);

// Hints that memory, of a mapped file or allocated, should use 2 MB pages; results do not depend on it.
void prefer_huge_pages(const void* memory, size_t size);

// Is it a safetensors file by its first bytes: a length below 2^48, then an object?
bool looks_like_safetensors(const MappedFile* file);

// What a file that is not a checkpoint seems to be and what to do about it, as part of a sentence: "it is compressed
// with gzip; run gunzip on it". The text is static.
const char* guess_file_kind(const MappedFile* file);

#endif
