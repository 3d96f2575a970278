#include "npy.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool fail_file(const NpyWriter* writer, const char* what, Error* error) {
    return fail(error, "%s: %s: %s", writer->temporary, what, strerror(errno));
}

// The header of NPY 1.0: magic, version, the length of a Python dictionary as 16 bits little-endian, the dictionary.
// It is padded with blanks so that the data begins at a multiple of 64.
static bool write_header(NpyWriter* writer, size_t rows, size_t cols, Error* error) {
    const char* order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "<" : ">";
    char dictionary[118 + 1], shape[64];
    snprintf(shape, sizeof shape, "(%zu, %zu)", rows, cols);
    int length = snprintf(dictionary, sizeof dictionary, "{'descr': '%sf4', 'fortran_order': False, 'shape': %s, }",
                          order, shape);
    memset(dictionary + length, ' ', 117 - (size_t)length);
    dictionary[117] = '\n';
    const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0};
    if (fwrite(start, 1, sizeof start, writer->file) != sizeof start ||
        fwrite(dictionary, 1, 118, writer->file) != 118) {
        return fail_file(writer, "cannot write", error);
    }
    return true;
}

bool npy_open(NpyWriter* writer, const char* path, size_t rows, size_t cols, Error* error) {
    *writer = (NpyWriter){.path = strdup(path)};
    size_t length = strlen(path) + sizeof ".tmp";
    writer->temporary = malloc(length);
    if (writer->path == NULL || writer->temporary == NULL) {
        npy_abandon(writer);
        return fail(error, "%s: no memory for its name", path);
    }
    snprintf(writer->temporary, length, "%s.tmp", path);
    writer->file = fopen(writer->temporary, "wb");
    if (writer->file == NULL) fail_file(writer, "cannot create", error);
    if (writer->file != NULL && write_header(writer, rows, cols, error)) return true;
    npy_abandon(writer);
    return false;
}

bool npy_write(NpyWriter* writer, const float* values, size_t count, Error* error) {
    return fwrite(values, sizeof *values, count, writer->file) == count || fail_file(writer, "cannot write", error);
}

bool npy_close(NpyWriter* writer, Error* error) {
    FILE* file = writer->file;
    bool is_written = fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (!is_written) fail_file(writer, "cannot write", error);
    if (is_written && rename(writer->temporary, writer->path) != 0) {
        is_written = fail(error, "%s: cannot take its place: %s", writer->path, strerror(errno));
    }
    if (is_written) {
        free(writer->temporary);
        writer->temporary = NULL; // nothing to remove any more
    }
    npy_abandon(writer);
    return is_written;
}

void npy_abandon(NpyWriter* writer) {
    if (writer->file != NULL) fclose(writer->file);
    if (writer->file != NULL && writer->temporary != NULL) unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    *writer = (NpyWriter){0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading.

// Reads the header and sets the shape. The dictionary is Python's; of its many spellings the one is read that numpy and
// this program write.
static bool read_header(FILE* file, const char* path, size_t* rows, size_t* cols, Error* error) {
    unsigned char start[10];
    char dictionary[512], order;
    if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, "\x93NUMPY\1\0", 8) != 0) {
        return fail(error, "%s: no .npy file of version 1.0", path);
    }
    size_t length = (size_t)start[8] | (size_t)start[9] << 8;
    if (length >= sizeof dictionary || fread(dictionary, 1, length, file) != length) {
        return fail(error, "%s: its header is cut short or longer than that of a matrix", path);
    }
    dictionary[length] = '\0';
    int end = 0;
    sscanf(dictionary, "{'descr': '%cf4', 'fortran_order': False, 'shape': (%zu, %zu)%n", &order, rows, cols, &end);
    char here = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    if (end > 0 && order == here) return true;
    return fail(error, "%s: not a matrix of float32 with contiguous rows in this machine's byte order", path);
}

// The file must be as long as the shape says before memory is taken for it.
static float* read_values(FILE* file, const char* path, size_t rows, size_t cols, Error* error) {
    size_t count, bytes;
    long begin = ftell(file);
    if (__builtin_mul_overflow(rows, cols, &count) || __builtin_mul_overflow(count, sizeof(float), &bytes) ||
        bytes > LONG_MAX / 2 || fseek(file, 0, SEEK_END) != 0 || ftell(file) != begin + (long)bytes ||
        fseek(file, begin, SEEK_SET) != 0) {
        fail(error, "%s: its size is not that of %zu x %zu numbers; it is cut short or damaged", path, rows, cols);
        return NULL;
    }
    float* values = allocate(count, sizeof *values, path, error);
    if (values != NULL && fread(values, sizeof *values, count, file) != count) {
        fail(error, "%s: cannot be read: %s", path, strerror(errno));
        free(values);
        return NULL;
    }
    return values;
}

float* npy_read(const char* path, size_t* rows, size_t* cols, Error* error) {
    FILE* file = fopen(path, "rb");
    if (file == NULL) {
        fail(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    float* values = read_header(file, path, rows, cols, error) ? read_values(file, path, *rows, *cols, error) : NULL;
    fclose(file);
    return values;
}
