// Hugging Face's GPT-2: config.json and one or several .safetensors files.
// A build without libjansson (HAVE_JANSSON undefined) refuses them and says why.
#ifndef HUGGINGFACE_H
#define HUGGINGFACE_H

#include "gpt2.h"
#include "mapped_file.h"

// Loads one .safetensors file, already mapped. The configuration is that of config.json in the same directory; without
// one it follows from the shapes, with heads of 64 channels as in every published GPT-2. Otherwise as
// checkpoint_load(); all weights are copied, so the mapping is not needed afterwards.
bool load_safetensors(GPT2Model* model, const MappedFile* file, const char* path, bool keep_dtype, DType dtype,
                      Error* error);

// Loads a directory with config.json and model.safetensors, or the files that model.safetensors.index.json names.
bool load_hf_directory(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error);

#endif
