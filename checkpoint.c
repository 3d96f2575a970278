#include "checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "huggingface.h"
#include "mapped_file.h"
#include "output_file.h"
#include "pack.h"
#include "safetensors.h"
#include "weights.h"

// ---------------------------------------------------------------------------------------------------------------------
// llm.c's format: 256 little-endian int32, then the tensors of GPT2_PARAMETERS in their order, all layers of a
// parameter together, weights as (out, in). The header: magic, version, maxT, V, L, NH, C, Vp (versions 3 and up).

enum { LLMC_MAGIC = 20240326, LLMC_HEADER_BYTES = 1024, LLMC_PAD_VOCAB = 128 };
enum { LLMC_F32_UNPADDED = 1, LLMC_BF16_MIXED = 2, LLMC_F32 = 3, LLMC_BF16_MIXED_PADDED = 4, LLMC_BF16 = 5 };

static uint32_t read_u32(const unsigned char* bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static int header_field(const unsigned char* header, size_t i) {
    return (int)(int32_t)read_u32(header + 4 * i);
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

// Reads and checks the header; sets config and file_dtype.
static bool read_llmc_header(GPT2Model* model, const MappedFile* file, const char* path, Error* error) {
    if (file->size < LLMC_HEADER_BYTES) {
        return fail(error, "%s: is cut short: %zu bytes, the header alone has %d; download or copy it again", path,
                    file->size, LLMC_HEADER_BYTES);
    }
    int version = header_field(file->bytes, 1);
    if (!check_version(version, path, error)) return false;
    model->config = (GPT2Config){
        .max_seq_len = header_field(file->bytes, 2),
        .vocab_size = header_field(file->bytes, 3),
        .padded_vocab_size = header_field(file->bytes, version == LLMC_F32_UNPADDED ? 3 : 7),
        .num_layers = header_field(file->bytes, 4),
        .num_heads = header_field(file->bytes, 5),
        .channels = header_field(file->bytes, 6),
    };
    model->file_dtype = version == LLMC_BF16 ? DTYPE_BF16 : DTYPE_F32;
    return gpt2_config_check(&model->config, path, error);
}

static bool check_llmc_size(const GPT2Model* model, const MappedFile* file, const char* path, Error* error) {
    size_t expected;
    if (__builtin_mul_overflow(gpt2_num_parameters(&model->config), dtype_size(model->file_dtype), &expected) ||
        __builtin_add_overflow(expected, (size_t)LLMC_HEADER_BYTES, &expected)) {
        return fail(error, "%s: its header promises more bytes than a file can have; the file is damaged", path);
    }
    if (file->size == expected) return true;
    return fail(error, "%s: has %zu bytes where its header promises %zu; it is %s, download or copy it again", path,
                file->size, expected, file->size < expected ? "cut short" : "damaged or something was appended");
}

// Takes over the mapping when the model uses it.
static bool load_llmc(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype,
                      Error* error) {
    if (!read_llmc_header(model, file, path, error) || !check_llmc_size(model, file, path, error)) return false;
    size_t num_sources = (size_t)NUM_PARAMETERS * (size_t)model->config.num_layers;
    SourceTensor* sources = allocate(num_sources, sizeof *sources, path, error);
    if (sources == NULL) return false;
    const unsigned char* data = file->bytes + LLMC_HEADER_BYTES;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        for (size_t layer = 0; layer < shape.layers; layer++) {
            sources[source_index(&model->config, id, layer)] = (SourceTensor){
                .data = data, .dtype = model->file_dtype, .file = path, .offset = (size_t)(data - file->bytes)};
            data += shape.rows * shape.cols * dtype_size(model->file_dtype);
        }
    }
    if (model->contents != NULL) {
        int version = header_field(file->bytes, 1);
        snprintf(model->contents->format, sizeof model->contents->format, "llm.c checkpoint, version %d (%s%s)",
                 version, dtype_names[model->file_dtype],
                 version == LLMC_F32_UNPADDED ? ", vocabulary not padded" : "");
        snprintf(model->contents->configuration, sizeof model->contents->configuration, "header of %s", path);
    }
    if (keep_dtype) dtype = model->file_dtype;
    bool use_in_place = dtype_unpacked(dtype) == model->file_dtype;
    bool ok = weights_from_sources(model, sources, dtype, use_in_place, path, error);
    if (ok && dtype == model->file_dtype) {
        model->mapping = (void*)file->bytes;
        model->mapping_bytes = file->size;
        *file = (MappedFile){0};
    }
    free(sources);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Which format is it?

static bool load_file(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    MappedFile file;
    if (!map_file(&file, path, error)) return false;
    bool ok;
    if (file.size >= 4 && read_u32(file.bytes) == LLMC_MAGIC) {
        ok = load_llmc(model, &file, path, keep_dtype, dtype, error);
    } else if (is_safetensors(&file, path)) {
        ok = load_safetensors(model, &file, path, keep_dtype, dtype, error);
    } else {
        ok = fail(error, "%s: not a checkpoint: %s", path, guess_file_kind(&file));
    }
    unmap_file(&file);
    return ok;
}

// From the file or directory into a model that holds nothing yet but, perhaps, a place for its contents.
static bool load_path(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    struct stat status;
    bool is_directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    bool ok = is_directory ? load_hf_directory(model, path, keep_dtype, dtype, error)
                           : load_file(model, path, keep_dtype, dtype, error);
    if (!ok) checkpoint_free(model);
    return ok;
}

bool checkpoint_load(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    *model = (GPT2Model){0};
    return load_path(model, path, keep_dtype, dtype, error);
}

bool checkpoint_load_contents(GPT2Model* model, CheckpointContents* contents, const char* path, Error* error) {
    *contents = (CheckpointContents){0};
    *model = (GPT2Model){.contents = contents};
    if (load_path(model, path, true, DTYPE_F32, error)) return true;
    checkpoint_contents_free(contents);
    return false;
}

void checkpoint_contents_free(CheckpointContents* contents) {
    for (size_t i = 0; i < contents->num_files; i++) free(contents->files[i]);
    free(contents->files);
    free(contents->places);
    *contents = (CheckpointContents){0};
}

void checkpoint_free(GPT2Model* model) {
    if (model->mapping != NULL) munmap(model->mapping, model->mapping_bytes);
    free(model->block);
    pack_free(model);
    *model = (GPT2Model){0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing llm.c's format

static bool write_llmc_header(OutputFile* out, const GPT2Config* config, DType dtype, Error* error) {
    int32_t header[LLMC_HEADER_BYTES / 4] = {
        LLMC_MAGIC,          dtype == DTYPE_BF16 ? LLMC_BF16 : LLMC_F32,
        config->max_seq_len, config->vocab_size,
        config->num_layers,  config->num_heads,
        config->channels,    config->padded_vocab_size,
    };
    return output_write(out, header, sizeof header, error);
}

// Writes `rows` rows of a parameter, those that the model does not have as zeros. row (cols) and narrow (cols) are
// scratch.
static bool write_parameter(OutputFile* out, const GPT2Model* model, ParameterId id, size_t rows, DType dtype,
                            float* row, void* narrow, Error* error) {
    ParameterShape shape = gpt2_parameter_shape(id, &model->config);
    size_t held = shape.layers * shape.rows, cols = shape.cols;
    for (size_t r = 0; r < rows; r++) {
        memset(row, 0, cols * sizeof *row);
        if (r < held) gpt2_matrix_row(row, &model->tensors[id], r, cols);
        size_t unfit = first_unfit(row, dtype, cols);
        if (unfit < cols) {
            return fail(error, "%s: %s holds %g, which %s cannot express; save as f32", out->path, shape.name,
                        (double)row[unfit], dtype_names[dtype]);
        }
        row_from_f32(narrow, NULL, row, dtype, cols);
        if (!output_write(out, narrow, cols * dtype_size(dtype), error)) return false;
    }
    return true;
}

static bool write_llmc(OutputFile* out, const GPT2Model* model, DType dtype, Error* error) {
    GPT2Config config = model->config;
    config.padded_vocab_size = (config.vocab_size + LLMC_PAD_VOCAB - 1) / LLMC_PAD_VOCAB * LLMC_PAD_VOCAB;
    size_t longest = 4 * (size_t)config.channels;
    float* scratch = allocate(2 * longest, sizeof *scratch, out->path, error);
    if (scratch == NULL) return false;
    bool ok = write_llmc_header(out, &config, dtype, error);
    for (int id = 0; ok && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &config);
        ok = write_parameter(out, model, (ParameterId)id, shape.layers * shape.rows, dtype, scratch, scratch + longest,
                             error);
    }
    free(scratch);
    return ok;
}

bool checkpoint_save_llmc(const GPT2Model* model, const char* path, DType dtype, Error* error) {
    if (dtype != DTYPE_F32 && dtype != DTYPE_BF16) {
        return fail(error, "%s: llm.c's format holds f32 or bf16, not %s", path, dtype_names[dtype]);
    }
    OutputFile out;
    if (!output_open(&out, path, error)) return false;
    if (write_llmc(&out, model, dtype, error)) return output_close(&out, error);
    output_abandon(&out);
    return false;
}
