#include "image.h"

#include <stdio.h>
#include <stdlib.h>

#include "checkpoint.h"
#include "file_header.h"
#include "weights.h"

enum { IMAGE_MAGIC = 20261121, IMAGE_VERSION = 1, OWN_DTYPE = HEADER_OWN, OWN_RARE };

bool is_image(const MappedFile* file) {
    return has_magic(file, IMAGE_MAGIC);
}

static bool holds(int dtype) {
    return dtype == DTYPE_F16 || dtype == DTYPE_Q8 || dtype == DTYPE_BF16Z;
}

static bool check_header(const FileHeader* header, const char* path, Error* error) {
    int version = header->field[HEADER_VERSION], dtype = header->field[OWN_DTYPE];
    if (version != IMAGE_VERSION) {
        return fail(error, "%s: version %d of gpt2's images is unknown, version %d is read; write it again with --save",
                    path, version, IMAGE_VERSION);
    }
    if (!holds(dtype)) return fail(error, "%s: has weights of the unknown type %d; the file is damaged", path, dtype);
    if (header->field[OWN_RARE] == 0 || dtype == DTYPE_BF16Z) return true;
    return fail(error, "%s: has rare weights, which %s does not know; the file is damaged", path, dtype_names[dtype]);
}

// Points tensors[] into the file. Returns the size that the file must have; with bytes == NULL that is all it is good
// for.
static size_t place(Tensor tensors[NUM_PARAMETERS], const GPT2Model* model, const unsigned char* bytes) {
    size_t offset = HEADER_BYTES;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        tensors[id] = gpt2_place_tensor(&shape, model->file_dtype, bytes, &offset);
    }
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        if (bytes != NULL && tensors[id].dtype == DTYPE_BF16Z)
            tensors[id].rare = (const uint32_t*)(const void*)(bytes + offset);
    }
    return offset + model->packed.num_rare * sizeof(uint32_t);
}

// Kernels follow these numbers without looking: rows' lists lie in the list of all, columns rise and lie in the row.
static bool check_rare(const Tensor* tensor, const ParameterShape* shape, size_t num_rare, const char* path,
                       Error* error) {
    const uint32_t *starts = tensor->rare_starts, *rare = tensor->rare;
    for (size_t r = 0; r < shape->layers * shape->rows; r++) {
        bool ok = starts[r] <= starts[r + 1] && starts[r + 1] <= num_rare;
        for (size_t i = starts[r]; ok && i < starts[r + 1]; i++) {
            size_t column = bf16z_rare_column(rare[i]);
            ok = column < shape->cols && (i == starts[r] || column > bf16z_rare_column(rare[i - 1]));
        }
        if (ok) continue;
        return fail(error, "%s: %s: the rare weights of row %zu are not where they can be; the file is damaged", path,
                    shape->name, r);
    }
    return true;
}

static bool check_tensors(const Tensor* tensors, const GPT2Model* model, const char* path, Error* error) {
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        if (tensors[id].dtype != DTYPE_BF16Z) continue;
        if (!check_rare(&tensors[id], &shape, model->packed.num_rare, path, error)) return false;
    }
    return true;
}

static SourceTensor* list_sources(const Tensor* tensors, const GPT2Model* model, const unsigned char* bytes,
                                  const char* path, Error* error) {
    SourceTensor* sources = weights_new_sources(&model->config, path, error);
    for (int id = 0; sources != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        for (size_t layer = 0; layer < shape.layers; layer++) {
            Tensor tensor = gpt2_tensor_layer(&tensors[id], &shape, layer);
            size_t offset = (size_t)((const unsigned char*)tensor.data - bytes);
            sources[source_index(&model->config, id, layer)] =
                (SourceTensor){.tensor = tensor, .file = path, .offset = offset};
        }
    }
    return sources;
}

bool load_image(GPT2Model* model, MappedFile* file, const char* path, bool keep_dtype, DType dtype, Error* error) {
    FileHeader header;
    if (!header_read(&header, file, path, error) || !check_header(&header, path, error)) return false;
    model->config = header_config(&header);
    model->file_dtype = (DType)header.field[OWN_DTYPE];
    model->packed.num_rare = (uint32_t)header.field[OWN_RARE];
    if (!gpt2_config_check(&model->config, path, error)) return false;
    Tensor tensors[NUM_PARAMETERS];
    if (!header_check_size(file, place(tensors, model, NULL), path, error)) return false;
    place(tensors, model, file->bytes);
    if (!check_tensors(tensors, model, path, error)) return false;
    if (model->contents != NULL) {
        snprintf(model->contents->format, sizeof model->contents->format, "gpt2 image, version %d (%s)", IMAGE_VERSION,
                 dtype_names[model->file_dtype]);
        snprintf(model->contents->configuration, sizeof model->contents->configuration, "header of %s", path);
    }
    SourceTensor* sources = list_sources(tensors, model, file->bytes, path, error);
    bool ok = sources != NULL && weights_from_file(model, sources, file, keep_dtype, dtype, path, error);
    if (ok && model->dtype != DTYPE_BF16Z) model->packed = (Packed){0};
    free(sources);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

// Fills up to a multiple of 64 bytes, then writes a part.
static bool write_part(OutputFile* out, size_t* offset, const void* part, size_t bytes, Error* error) {
    static const char zeros[64] = {0};
    size_t gap = (64 - *offset % 64) % 64;
    *offset += gap + bytes;
    return output_write(out, zeros, gap, error) && (bytes == 0 || output_write(out, part, bytes, error));
}

bool image_write(OutputFile* out, const GPT2Model* model, Error* error) {
    FileHeader header = header_make(IMAGE_MAGIC, IMAGE_VERSION, &model->config);
    header.field[OWN_DTYPE] = (int32_t)model->dtype;
    header.field[OWN_RARE] = (int32_t)(uint32_t)model->packed.num_rare;
    size_t offset = 0;
    bool ok = write_part(out, &offset, &header, sizeof header, error);
    for (int id = 0; ok && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        TensorBytes bytes = gpt2_tensor_bytes(&shape, model->dtype);
        const Tensor* tensor = &model->tensors[id];
        ok = write_part(out, &offset, tensor->data, bytes.data, error) &&
             write_part(out, &offset, tensor->scales, bytes.scales, error) &&
             write_part(out, &offset, tensor->common, bytes.common, error) &&
             write_part(out, &offset, tensor->rare_starts, bytes.rare_starts, error);
    }
    return ok && write_part(out, &offset, model->tensors[WTE].rare, model->packed.num_rare * sizeof(uint32_t), error);
}
