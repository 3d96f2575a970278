// Images: a model's weights in a file as they lie in memory, so that loading is mapping. For the types of which llm.c's
// format has no version: F16, Q8 and BF16Z.
//
// A header (file_header.h) of magic 20261121 and version 1, whose own fields are 8 the DType of the matrices and 9 the
// number of rare weights. Then the tensors in the order of GPT2_PARAMETERS, each as gpt2_place_tensor() lays it out, then
// the rare weights: every part at a multiple of 64 bytes, zeros between them, nothing behind the last.
#ifndef IMAGE_H
#define IMAGE_H

#include "gpt2.h"
#include "mapped_file.h"
#include "output_file.h"

bool is_image(const MappedFile* file);

// See checkpoint_load(). Takes the mapping over when the model uses it. Of BF16Z everything that kernels follow, where
// rare weights begin and where they stand, is checked.
bool load_image(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype, Error* error);

// Writes a model in F16, Q8 or BF16Z.
bool image_write(OutputFile* out, const GPT2Model* model, Error* error);

#endif
