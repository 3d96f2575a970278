// Matrices of float32 as .npy files, which numpy.load() reads.
#ifndef NPY_H
#define NPY_H

#include <stdbool.h>
#include <stddef.h>
#include "output_file.h"

// Begins a file of shape (rows, cols) at `path`, where only another .npy file or an empty one may be replaced: a
// mistyped name must not cost a model. Format: NumPy's NPY 1.0, the numbers in this machine's byte order, rows
// contiguous. The caller writes rows * cols floats with output_write() and ends with output_close() or
// output_abandon().
bool npy_open(OutputFile* file, const char* path, size_t rows, size_t cols, Error* error);

// Reads a file of float32 with two dimensions and rows contiguous, such as npy_open() writes: values (rows, cols),
// which the caller frees. NULL with the error filled in for anything else.
float* npy_read(const char* path, size_t* rows, size_t* cols, Error* error);

#endif
