// Matrices of float32 as .npy files, which numpy.load() reads.
#ifndef NPY_H
#define NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "utils.h"

// A file being written, under the name PATH.tmp until it is whole.
typedef struct {
    FILE* file;
    char* path;
    char* temporary;
} NpyWriter;

// Begins a file of shape (rows, cols) at `path`. Format: NumPy's NPY 1.0, the numbers in this machine's byte order,
// rows contiguous. Ends with npy_close() or npy_abandon().
bool npy_open(NpyWriter* writer, const char* path, size_t rows, size_t cols, Error* error);

// Appends `count` floats; all calls together must append rows * cols.
bool npy_write(NpyWriter* writer, const float* values, size_t count, Error* error);

// Makes the file permanent: flushed, then renamed to its path, replacing what was there. On failure nothing is left.
bool npy_close(NpyWriter* writer, Error* error);

// Removes the unfinished file. Harmless after npy_close().
void npy_abandon(NpyWriter* writer);

// Reads a file of float32 with two dimensions and rows contiguous, such as npy_open() writes: values (rows, cols), which
// the caller frees. NULL with the error filled in for anything else.
float* npy_read(const char* path, size_t* rows, size_t* cols, Error* error);

#endif
