// llm.c's checkpoints: a header (file_header.h), then the tensors of GPT2_PARAMETERS in their order, all layers of a
// parameter together, weights as (out, in), everything of one type.
#ifndef LLMC_H
#define LLMC_H

#include "gpt2.h"
#include "mapped_file.h"
#include "output_file.h"

// Does the file begin with llm.c's magic number? Nothing else is checked.
bool is_llmc(const MappedFile* file);

// See checkpoint_load(). Takes the mapping over when the model uses it.
bool load_llmc(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype, Error* error);

// Writes a checkpoint of version 3 (a model in F32) or 5 (BF16), the vocabulary padded to a multiple of 128.
bool llmc_write(OutputFile* out, const GPT2Model* model, Error* error);

#endif
