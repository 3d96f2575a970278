// Files in memory, and what a file that is not the expected one seems to be.
#ifndef MAPPED_FILE_H
#define MAPPED_FILE_H

#include "utils.h"

// A regular file, mapped read-only and private. Another process that shortens the file while it is in use takes the
// pages away (SIGBUS); writers that rename a new file into place, as this program does, are harmless.
typedef struct {
    const unsigned char* bytes; // NULL when the file is empty
    size_t size;
} MappedFile;

// Maps `path`; the descriptor is closed again. A directory, a pipe or a device is an error. Release with unmap_file().
bool map_file(MappedFile* file, const char* path, Error* error);

void unmap_file(MappedFile* file);

// Part of a mapped file has been read and will not be needed soon: its whole pages need no memory of this process until
// they are touched again. Of memory that is no file's the contents are lost.
void release_pages(const void* memory, size_t size);

// A wish that memory, of a mapped file or allocated, may lie in pages of 2 MB; without it all works the same.
void prefer_huge_pages(const void* memory, size_t size);

// What a file that is no checkpoint seems to be and what to do about it, as half a sentence: "it is compressed with
// gzip; run gunzip on it". The text is static.
const char* guess_file_kind(const MappedFile* file);

#endif
