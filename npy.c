#include "npy.h"

#include <string.h>

#include "mapped_file.h"

static const unsigned char npy_magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

// Is there nothing at `path` that is worth more than what is to be written?
static bool check_replaceable(const char* path, Error* error) {
    MappedFile old;
    Error ignored;
    if (!map_file(&old, path, &ignored)) return true; // nothing there, or what output_open() refuses
    size_t magic = sizeof npy_magic;
    bool ok = old.size == 0 || (old.size >= magic && memcmp(old.bytes, npy_magic, magic) == 0);
    unmap_file(&old);
    return ok || fail(error, "%s: is there and no .npy file; remove it first, or name another file", path);
}

// The header of NPY 1.0: magic, version, the length of a Python dictionary as 16 bits little-endian, the dictionary.
// It is padded with blanks so that the data begins at a multiple of 64.
static bool write_header(OutputFile* file, size_t rows, size_t cols, Error* error) {
    const char* order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "<" : ">";
    char dictionary[118 + 1], shape[64];
    snprintf(shape, sizeof shape, "(%zu, %zu)", rows, cols);
    int length = snprintf(dictionary, sizeof dictionary, "{'descr': '%sf4', 'fortran_order': False, 'shape': %s, }",
                          order, shape);
    memset(dictionary + length, ' ', 117 - (size_t)length);
    dictionary[117] = '\n';
    const unsigned char version_and_length[4] = {1, 0, 118, 0};
    return output_write(file, npy_magic, sizeof npy_magic, error) &&
           output_write(file, version_and_length, sizeof version_and_length, error) &&
           output_write(file, dictionary, 118, error);
}

bool npy_open(OutputFile* file, const char* path, size_t rows, size_t cols, Error* error) {
    if (!check_replaceable(path, error) || !output_open(file, path, error)) return false;
    if (write_header(file, rows, cols, error)) return true;
    output_abandon(file);
    return false;
}
