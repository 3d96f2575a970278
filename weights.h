// From the tensors of a file to the tensors of a model: conversion and transposition, shared by the readers of the file
// formats (llmc.c, image.c, huggingface.c).
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "gpt2.h"
#include "mapped_file.h"

// One layer of a parameter in a mapped file, little-endian.
typedef struct {
    Tensor tensor; // data: at any alignment unless it is Q8 or BF16Z, and (cols, rows) when is_transposed
    bool is_transposed;
    const char* file; // its path
    size_t offset;    // of the data in the file
} SourceTensor;

// The index of the source of a parameter's layer in an array of NUM_PARAMETERS * L sources.
static inline size_t source_index(const GPT2Config* config, int id, size_t layer) {
    return (size_t)id * (size_t)config->num_layers + layer;
}

// One source for every layer of every parameter, all zero. NULL with the error filled in when memory is short. Release
// with free().
SourceTensor* weights_new_sources(const GPT2Config* config, const char* where, Error* error);

// Fills in model->tensors, ->block, ->dtype and ->num_parameters from model->config and `sources` (see source_index;
// with use_in_place the layers of one parameter must be adjacent). Matrices become `dtype`, vectors f32. With
// use_in_place the tensors that already have that dtype stay in the mapped file (for BF16Z those in BF16, until they
// are packed); the rest is converted into model->block, on all OpenMP threads. Records in model->contents, if there is
// one, where everything is. A weight that `dtype` cannot express (NaN, infinite, too large) is an error. `where` is the
// file.
bool weights_from_sources(GPT2Model* model, const SourceTensor* sources, DType dtype, bool use_in_place,
                          const char* where, Error* error);

// The same from one file whose matrices all have model->file_dtype and are laid out as in a model: those that keep that
// type, as all do with keep_dtype, stay in place, and the mapping becomes the model's.
bool weights_from_file(GPT2Model* model, const SourceTensor* sources, MappedFile* file, bool keep_dtype, DType dtype,
                       const char* path, Error* error);

// The index of the first of n floats that is not a finite number once it is rounded to `dtype`, or n. For F32 every
// float passes as it is, so always n.
size_t first_unfit(const float* in, DType dtype, size_t n);

// Looks for a weight of the model that is not finite. True with the first one described in `found`: the tensor, the
// number and its position. Reads all weights: for a model whose logits have shown that something is wrong.
bool weights_find_damage(const GPT2Model* model, Error* found);

// The error of a model whose logits are not finite: names the first damaged weight. Always false.
bool weights_fail_damaged(const GPT2Model* model, const char* path, Error* error);

#endif
