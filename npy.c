#include "npy.h"

#include <errno.h>
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
