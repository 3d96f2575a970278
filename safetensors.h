// The .safetensors format: 8 bytes of header length (little-endian), a header in JSON that gives every tensor's dtype,
// shape and place, then the data. Strictly checked; nothing is copied.
// JSON is read by libjansson. A build without it (HAVE_JANSSON undefined) has only is_safetensors().
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stddef.h>

#include "mapped_file.h"

enum { SAFETENSORS_MAX_RANK = 8 };

typedef struct {
    const char* name;          // owned by the file's header
    const char* dtype;         // "F32", "BF16", ...
    const unsigned char* data; // row major, little-endian; at any alignment: headers may have odd length
    size_t offset;             // of the data in the file
    size_t bytes;
    size_t rank;
    size_t shape[SAFETENSORS_MAX_RANK];
} SafetensorsEntry;

typedef struct {
    struct json_t* header;
    SafetensorsEntry* entries; // (num_entries), in the order of their data
    size_t num_entries;
} SafetensorsFile;

// Is it meant to be a .safetensors file, judged by its first bytes or its name?
bool is_safetensors(const MappedFile* file, const char* path);

// Reads and checks the header: at most 4 MiB, an object without duplicate keys; every tensor has a known dtype, a shape
// whose checked product times the dtype's size is its number of bytes, and an offset that is a multiple of that size;
// the tensors fill the data without gap, overlap or remainder. The entries point into `file`. Release with
// safetensors_free().
bool safetensors_parse(SafetensorsFile* tensors, const MappedFile* file, const char* path, Error* error);

void safetensors_free(SafetensorsFile* tensors);

// Parses one JSON object of `size` bytes, with no duplicate keys and no more than 4 MiB (a parsed text can take 80
// times its size, and the header of the largest GPT-2 has 63 kB). Release with json_decref(). NULL with the error,
// which names `path`, filled in.
struct json_t* parse_json_object(const void* bytes, size_t size, const char* path, Error* error);

// A copy of `name` that is fit for an error message: at most 79 bytes, control and non-ASCII characters as '?'.
typedef struct {
    char text[80];
} PrintableName;

PrintableName printable(const char* name);

#endif
