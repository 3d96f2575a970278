// The 1024 bytes that llm.c's checkpoints (llmc.h) and this program's images (image.h) begin with: 256 little-endian
// int32, of which the first eight are magic, version, maxT, V, L, NH, C, Vp. The others are the format's own, or 0.
#ifndef FILE_HEADER_H
#define FILE_HEADER_H

#include "gpt2.h"
#include "mapped_file.h"

enum { HEADER_BYTES = 1024, HEADER_MAGIC = 0, HEADER_VERSION = 1, HEADER_OWN = 8, HEADER_FIELDS = 256 };

typedef struct {
    int32_t field[HEADER_FIELDS];
} FileHeader;

// Does the file begin with this number?
bool has_magic(const MappedFile* file, int32_t magic);

// Copies the header. False with the error filled in where the file is too short to have one.
bool header_read(FileHeader* header, const MappedFile* file, const char* path, Error* error);

// What the header says, unchecked.
GPT2Config header_config(const FileHeader* header);

// A header with these fields; the format's own ones are 0. Nothing is checked.
FileHeader header_make(int32_t magic, int32_t version, const GPT2Config* config);

// Does the file have `expected` bytes, the size that follows from its header? If not, the error says so.
bool header_check_size(const MappedFile* file, size_t expected, const char* path, Error* error);

#endif
