#include "npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapped_file.h"

static const unsigned char npy_magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

// Is there nothing at `path` that is worth more than what is to be written?
static bool check_replaceable(const char* path, Error* error) {
    MappedFile old;
    if (access(path, F_OK) != 0) return true;       // nothing there, or nothing to be reached: creating it will say so
    if (!map_file(&old, path, error)) return false; // what cannot be looked into is not replaced
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

// ---------------------------------------------------------------------------------------------------------------------
// Reading.

enum { NPY_START = 10 }; // magic, version, length of the dictionary

// Reads the header: the shape, and where the numbers begin. The dictionary is Python's; of its many spellings the one
// is read that numpy and this program write.
static bool read_header(const MappedFile* file, const char* path, size_t* rows, size_t* cols, size_t* begin,
                        Error* error) {
    char dictionary[512], order = 0;
    if (file->size < NPY_START || memcmp(file->bytes, npy_magic, sizeof npy_magic) != 0 || file->bytes[6] != 1) {
        return fail(error, "%s: no .npy file of version 1.0", path);
    }
    size_t length = (size_t)file->bytes[8] | (size_t)file->bytes[9] << 8;
    *begin = NPY_START + length;
    if (length >= sizeof dictionary || *begin > file->size) {
        return fail(error, "%s: its header is cut short or longer than that of a matrix", path);
    }
    memcpy(dictionary, file->bytes + NPY_START, length);
    dictionary[length] = '\0';
    int end = 0;
    sscanf(dictionary, "{'descr': '%cf4', 'fortran_order': False, 'shape': (%zu, %zu)%n", &order, rows, cols, &end);
    char here = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    if (end > 0 && order == here) return true;
    return fail(error, "%s: not a matrix of float32 with contiguous rows in this machine's byte order", path);
}

float* npy_read(const char* path, size_t* rows, size_t* cols, Error* error) {
    MappedFile file;
    size_t begin = 0, count, bytes;
    float* values = NULL;
    if (!map_file(&file, path, error)) return NULL;
    if (read_header(&file, path, rows, cols, &begin, error)) {
        if (__builtin_mul_overflow(*rows, *cols, &count) || __builtin_mul_overflow(count, sizeof *values, &bytes) ||
            bytes != file.size - begin) {
            fail(error, "%s: its size is not that of %zu x %zu numbers; it is cut short or damaged", path, *rows,
                 *cols);
        } else {
            values = allocate(count, sizeof *values, path, error);
            if (values != NULL) memcpy(values, file.bytes + begin, bytes);
        }
    }
    unmap_file(&file);
    return values;
}
