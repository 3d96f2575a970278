#include "gpt2.h"

ParameterShape gpt2_parameter_shape(ParameterId id, const GPT2Config* config) {
    size_t Vp = (size_t)config->padded_vocab_size, maxT = (size_t)config->max_seq_len, C = (size_t)config->channels;
    size_t L = (size_t)config->num_layers;
    switch (id) {
#define SHAPE_CASE(id, name, hf_name, kind, layers, rows, cols)                                                        \
    case id: return (ParameterShape){name, hf_name, kind, #layers[0] == 'L', layers, rows, cols};
        GPT2_PARAMETERS(SHAPE_CASE)
#undef SHAPE_CASE
    default: return (ParameterShape){0};
    }
}

// Limits far above any GPT-2 (1558M has C = 1600) that keep every product of sizes below within 62 bits.
enum { MAX_SEQ_LEN = 1 << 20, MAX_VOCAB = 1 << 24, MAX_LAYERS = 1 << 12, MAX_CHANNELS = 1 << 16 };

// And one on the whole, eleven times 1558M: a sparse file costs nothing to send and would take minutes for each token.
static const size_t MAX_PARAMETERS = (size_t)1 << 34;

bool gpt2_config_check(const GPT2Config* config, const char* where, Error* error) {
    const struct {
        const char* name;
        int value, limit;
    } sizes[] = {
        {"max_seq_len", config->max_seq_len, MAX_SEQ_LEN},
        {"vocab_size", config->vocab_size, MAX_VOCAB},
        {"padded_vocab_size", config->padded_vocab_size, MAX_VOCAB},
        {"num_layers", config->num_layers, MAX_LAYERS},
        {"num_heads", config->num_heads, MAX_CHANNELS},
        {"channels", config->channels, MAX_CHANNELS},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].limit) {
            return fail(error, "%s: %s is %d, it must be 1 to %d; the file is damaged or not a GPT-2 checkpoint", where,
                        sizes[i].name, sizes[i].value, sizes[i].limit);
        }
    }
    if (config->channels % config->num_heads != 0) {
        return fail(error, "%s: channels (%d) is not a multiple of num_heads (%d); the file is damaged", where,
                    config->channels, config->num_heads);
    }
    if (config->padded_vocab_size < config->vocab_size) {
        return fail(error, "%s: padded_vocab_size (%d) is below vocab_size (%d); the file is damaged", where,
                    config->padded_vocab_size, config->vocab_size);
    }
    size_t parameters = gpt2_num_parameters(config);
    if (parameters <= MAX_PARAMETERS) return true;
    return fail(error, "%s: would have %zu parameters, at most %zu are taken; the file is damaged or no GPT-2", where,
                parameters, MAX_PARAMETERS);
}

size_t gpt2_num_parameters(const GPT2Config* config) {
    size_t n = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        n += shape.layers * shape.rows * shape.cols;
    }
    return n;
}

Tensor gpt2_tensor_layer(const Tensor* tensor, const ParameterShape* shape, size_t layer) {
    Tensor t = *tensor;
    size_t row = layer * shape->rows;
    t.data = (const char*)t.data + row * dtype_stride_bytes(t.dtype, shape->cols);
    if (t.scales != NULL) t.scales += row * q8_num_scales(shape->cols);
    if (t.rare_starts != NULL) t.rare_starts += row;
    return t;
}

Tensor gpt2_tensor(const GPT2Model* model, ParameterId id, int layer) {
    ParameterShape shape = gpt2_parameter_shape(id, &model->config);
    return gpt2_tensor_layer(&model->tensors[id], &shape, (size_t)layer);
}

const float* gpt2_vector(const GPT2Model* model, ParameterId id, int layer) {
    return gpt2_tensor(model, id, layer).data;
}

void gpt2_matrix_row(float* out, const Tensor* matrix, size_t row, size_t cols) {
    const char* data = (const char*)matrix->data + row * dtype_stride_bytes(matrix->dtype, cols);
    if (matrix->dtype == DTYPE_Q8) {
        q8_row_to_f32(out, (const int8_t*)data, matrix->scales + row * q8_num_scales(cols), cols);
    } else if (matrix->dtype == DTYPE_BF16Z) {
        const uint32_t* starts = matrix->rare_starts + row;
        bf16z_row_to_f32(out, (const uint8_t*)data, matrix->common, matrix->rare + starts[0], matrix->rare + starts[1],
                         cols);
    } else {
        row_to_f32(out, data, matrix->dtype, cols);
    }
}

TensorBytes gpt2_tensor_bytes(const ParameterShape* shape, DType dtype) {
    size_t rows = shape->layers * shape->rows;
    if (shape->kind == VECTOR) dtype = DTYPE_F32;
    return (TensorBytes){
        .data = rows * dtype_stride_bytes(dtype, shape->cols),
        .scales = dtype == DTYPE_Q8 ? rows * q8_num_scales(shape->cols) * sizeof(uint16_t) : 0,
        .common = dtype == DTYPE_BF16Z ? BF16Z_COMMON : 0,
        .rare_starts = dtype == DTYPE_BF16Z ? (rows + 1) * sizeof(uint32_t) : 0,
    };
}

static const void* place_part(const char* block, size_t* offset, size_t bytes) {
    size_t start = *offset;
    *offset = (start + bytes + 63) / 64 * 64;
    return block != NULL && bytes > 0 ? block + start : NULL;
}

Tensor gpt2_place_tensor(const ParameterShape* shape, DType dtype, const void* block, size_t* offset) {
    TensorBytes bytes = gpt2_tensor_bytes(shape, dtype);
    Tensor tensor = {.dtype = shape->kind == VECTOR ? DTYPE_F32 : dtype};
    tensor.data = place_part(block, offset, bytes.data);
    tensor.scales = place_part(block, offset, bytes.scales);
    tensor.common = place_part(block, offset, bytes.common);
    tensor.rare_starts = place_part(block, offset, bytes.rare_starts);
    return tensor;
}

size_t gpt2_bytes_per_token_in(DType dtype, const GPT2Config* config) {
    size_t bytes = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        size_t rows = shape.layers * shape.rows;
        if (id == WTE) rows = (size_t)config->vocab_size + 1; // the head, and one token looked up
        if (id == WPE) rows = 1;
        bytes += rows * dtype_row_bytes(shape.kind == VECTOR ? DTYPE_F32 : dtype, shape.cols);
    }
    return bytes;
}

size_t gpt2_bytes_per_token(const GPT2Model* model, DType dtype) {
    size_t rare = dtype == DTYPE_BF16Z ? model->packed.num_rare * sizeof(uint32_t) : 0;
    return gpt2_bytes_per_token_in(dtype, &model->config) + rare;
}
