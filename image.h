// Images: files with a model's weights in the layout that they have in memory, so that loading is mapping. They serve
// the types for which llm.c's format has no version: F16, Q8 and BF16Z.
//
// A header (file_header.h) with magic 20261121 and version 1; its own fields are the DType of the matrices (field 8)
// and the number of rare weights (field 9). Then the tensors in the order of GPT2_PARAMETERS, each as
// gpt2_place_tensor() lays it out, then the rare weights: every part at a multiple of 64 bytes, zeros in between,
// nothing after the last.
#ifndef IMAGE_H
#define IMAGE_H

#include "gpt2.h"
#include "mapped_file.h"
#include "output_file.h"

// Does the file begin with an image's magic number? Nothing else is checked.
bool is_image(const MappedFile* file);

// See checkpoint_load(). Takes the mapping over when the model uses it. In BF16Z everything that kernels rely on, where
// the rare weights of a row begin and their columns, is checked.
bool load_image(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype, Error* error);

// Writes a model in F16, Q8 or BF16Z.
bool image_write(OutputFile* out, const GPT2Model* model, Error* error);

#endif
