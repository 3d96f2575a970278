#include "llmc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "file_header.h"
#include "weights.h"

enum { LLMC_MAGIC = 20240326, LLMC_PAD_VOCAB = 128 };
enum { LLMC_F32_UNPADDED = 1, LLMC_BF16_MIXED = 2, LLMC_F32 = 3, LLMC_BF16_MIXED_PADDED = 4, LLMC_BF16 = 5 };

bool is_llmc(const MappedFile* file) {
    return has_magic(file, LLMC_MAGIC);
}

static bool check_version(int version, const char* path, Error* error) {
    switch (version) {
    case LLMC_F32_UNPADDED:
    case LLMC_F32:
    case LLMC_BF16: return true;
    case LLMC_BF16_MIXED:
    case LLMC_BF16_MIXED_PADDED:
        return fail(error,
                    "%s: version %d of llm.c's format (bf16 with f32 LayerNorm) was never settled and is not read; "
                    "export the model again with a current llm.c, which writes version 5",
                    path, version);
    default:
        return fail(error, "%s: version %d of llm.c's format is unknown; versions 1, 3 and 5 are read", path, version);
    }
}

static bool check_size(const GPT2Model* model, const MappedFile* file, const char* path, Error* error) {
    size_t expected;
    if (__builtin_mul_overflow(gpt2_num_parameters(&model->config), dtype_size(model->file_dtype), &expected) ||
        __builtin_add_overflow(expected, (size_t)HEADER_BYTES, &expected)) {
        return fail(error, "%s: its header promises more bytes than a file can have; the file is damaged", path);
    }
    return header_check_size(file, expected, path, error);
}

static void list_sources(SourceTensor* sources, const GPT2Model* model, const MappedFile* file, const char* path) {
    size_t offset = HEADER_BYTES;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        for (size_t layer = 0; layer < shape.layers; layer++) {
            sources[source_index(&model->config, id, layer)] = (SourceTensor){
                .tensor = {.dtype = model->file_dtype, .data = file->bytes + offset}, .file = path, .offset = offset};
            offset += shape.rows * shape.cols * dtype_size(model->file_dtype);
        }
    }
}

bool load_llmc(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype, Error* error) {
    FileHeader header;
    if (!header_read(&header, file, path, error)) return false;
    int version = header.field[HEADER_VERSION];
    if (!check_version(version, path, error)) return false;
    model->config = header_config(&header);
    if (version == LLMC_F32_UNPADDED) model->config.padded_vocab_size = model->config.vocab_size;
    model->file_dtype = version == LLMC_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if (!gpt2_config_check(&model->config, path, error) || !check_size(model, file, path, error)) return false;
    if (model->contents != NULL) {
        snprintf(model->contents->format, sizeof model->contents->format, "llm.c checkpoint, version %d (%s%s)",
                 version, dtype_names[model->file_dtype],
                 version == LLMC_F32_UNPADDED ? ", vocabulary not padded" : "");
        snprintf(model->contents->configuration, sizeof model->contents->configuration, "header of %s", path);
    }
    SourceTensor* sources = weights_new_sources(&model->config, path, error);
    if (sources == NULL) return false;
    list_sources(sources, model, file, path);
    bool ok = weights_from_file(model, sources, file, keep_dtype, dtype, path, error);
    free(sources);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

// Writes `rows` rows of a parameter, those that the model does not have as zeros. row (cols) and narrow (cols) are
// scratch.
static bool write_parameter(OutputFile* out, const GPT2Model* model, ParameterId id, size_t rows, float* row,
                            void* narrow, Error* error) {
    ParameterShape shape = gpt2_parameter_shape(id, &model->config);
    size_t held = shape.layers * shape.rows, cols = shape.cols;
    for (size_t r = 0; r < rows; r++) {
        memset(row, 0, cols * sizeof *row);
        if (r < held) gpt2_matrix_row(row, &model->tensors[id], r, cols);
        size_t unfit = first_unfit(row, model->dtype, cols);
        if (unfit < cols) {
            return fail(error, "%s: %s holds %g, which %s cannot express; save as f32", out->path, shape.name,
                        (double)row[unfit], dtype_names[model->dtype]);
        }
        row_from_f32(narrow, NULL, row, model->dtype, cols);
        if (!output_write(out, narrow, cols * dtype_size(model->dtype), error)) return false;
    }
    return true;
}

bool llmc_write(OutputFile* out, const GPT2Model* model, Error* error) {
    GPT2Config config = model->config;
    config.padded_vocab_size = (config.vocab_size + LLMC_PAD_VOCAB - 1) / LLMC_PAD_VOCAB * LLMC_PAD_VOCAB;
    FileHeader header = header_make(LLMC_MAGIC, model->dtype == DTYPE_BF16 ? LLMC_BF16 : LLMC_F32, &config);
    size_t longest = 4 * (size_t)config.channels;
    float* scratch = allocate(2 * longest, sizeof *scratch, out->path, error);
    if (scratch == NULL) return false;
    bool ok = output_write(out, &header, sizeof header, error);
    for (int id = 0; ok && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &config);
        ok = write_parameter(out, model, (ParameterId)id, shape.layers * shape.rows, scratch, scratch + longest, error);
    }
    free(scratch);
    return ok;
}
