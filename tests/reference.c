#include "reference.h"

#include <math.h>
#include <stdlib.h>

#include "../pack.h"

// SplitMix64 (Steele, Lea and Flood 2014): 64 fresh bits for every call.
static uint64_t next_bits(uint64_t* state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Nearly normal, mean 0, standard deviation 1: the sum of the four 16-bit quarters of one draw, each uniform on
// (-0.5, 0.5) with variance 1/12. Needs no libm, so it is the same everywhere.
static float next_normal(uint64_t* state) {
    uint64_t bits = next_bits(state);
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += ((double)(bits >> 16 * i & 0xffff) + 0.5) / 65536 - 0.5;
    return (float)(sum * sqrt(3.0));
}

// How a parameter is drawn: mean + std * normal. Matrices are scaled by their fan-in, so that activations keep their
// size whatever C is; the products that end in the residual stream are smaller the more layers add to it.
static void parameter_moments(float* mean, float* std, ParameterId id, const GPT2Config* config) {
    double C = config->channels, residual = 1 / sqrt(2.0 * config->num_layers);
    *mean = 0;
    switch (id) {
    case WTE: *std = (float)(3 / sqrt(C)); return; // a unit vector of LayerNorm times this: logits spread by 3
    case WPE: *std = (float)(1.5 / sqrt(C)); return;
    case LN1W:
    case LN2W:
    case LNFW: *mean = 1, *std = 0.2f; return;
    case QKVW: *std = (float)(1.5 / sqrt(C)); return; // scores spread by about 2: attention that chooses
    case FCW: *std = (float)(1 / sqrt(C)); return;
    case ATTPROJW: *std = (float)(3 / sqrt(C) * residual / sqrt(C) * 4); return;
    case FCPROJW: *std = (float)(3 / sqrt(C) * residual / sqrt(4 * C) * 4); return;
    case ATTPROJB:
    case FCPROJB: *std = (float)(0.3 / sqrt(C)); return;
    default: *std = 0.1f; return; // QKVB, FCB and the biases of LayerNorm
    }
}

// Bytes of one parameter with its scales, rounded up to a multiple of 4 and no more: devices may not count on a
// better alignment than an element's.
static size_t round_up_4(size_t bytes) {
    return (bytes + 3) / 4 * 4;
}

static void parameter_bytes(size_t* data, size_t* scales, const ParameterShape* shape, DType dtype) {
    size_t rows = shape->layers * shape->rows;
    *data = round_up_4(rows * dtype_stride_bytes(dtype, shape->cols));
    *scales = dtype == DTYPE_Q8 ? round_up_4(rows * q8_num_scales(shape->cols) * sizeof(uint16_t)) : 0;
}

static void draw_parameter(Tensor* tensor, char* data, uint16_t* scales, ParameterId id, const GPT2Config* config,
                           float* row, uint64_t* state) {
    ParameterShape shape = gpt2_parameter_shape(id, config);
    float mean, std;
    parameter_moments(&mean, &std, id, config);
    size_t row_bytes = dtype_stride_bytes(tensor->dtype, shape.cols);
    tensor->data = data;
    tensor->scales = scales;
    for (size_t r = 0; r < shape.layers * shape.rows; r++) {
        for (size_t c = 0; c < shape.cols; c++) row[c] = mean + std * next_normal(state);
        row_from_f32(data + r * row_bytes, scales, row, tensor->dtype, shape.cols);
        if (scales != NULL) scales += q8_num_scales(shape.cols);
    }
}

bool reference_model(GPT2Model* model, const GPT2Config* config, DType dtype, uint64_t seed, Error* error) {
    if (!gpt2_config_check(config, "reference_model", error)) return false;
    if (dtype == DTYPE_BF16Z) {
        return reference_model(model, config, DTYPE_BF16, seed, error) && pack_model(model, "reference_model", error);
    }
    *model = (GPT2Model){.config = *config, .dtype = dtype, .file_dtype = dtype};
    model->num_parameters = gpt2_num_parameters(config);
    size_t total = 0, data[NUM_PARAMETERS], scales[NUM_PARAMETERS];
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        model->tensors[id].dtype = shape.kind == VECTOR ? DTYPE_F32 : dtype;
        parameter_bytes(&data[id], &scales[id], &shape, model->tensors[id].dtype);
        total += data[id] + scales[id];
    }
    float* row = allocate(4 * (size_t)config->channels, sizeof(float), "a row of the random model", error);
    char* block = row == NULL ? NULL : allocate(total, 1, "the random model", error);
    if (block == NULL) {
        free(row);
        return false;
    }
    model->block = block;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        uint16_t* scales_at = scales[id] > 0 ? (uint16_t*)(void*)(block + data[id]) : NULL;
        draw_parameter(&model->tensors[id], block, scales_at, (ParameterId)id, config, row, &seed);
        block += data[id] + scales[id];
    }
    free(row);
    return true;
}

void reference_model_free(GPT2Model* model) {
    free(model->block);
    pack_free(model);
    *model = (GPT2Model){0};
}

// out (T, C) = (in - mean) / sqrt(variance + 1e-5) * weight + bias, over each row of in (T, C).
static void layernorm(double* out, const double* in, const float* weight, const float* bias, int T, int C) {
    for (int t = 0; t < T; t++, in += C, out += C) {
        double mean = 0, variance = 0;
        for (int c = 0; c < C; c++) mean += in[c] / C;
        for (int c = 0; c < C; c++) variance += (in[c] - mean) * (in[c] - mean) / C;
        for (int c = 0; c < C; c++) out[c] = (in[c] - mean) / sqrt(variance + 1e-5) * weight[c] + bias[c];
    }
}

// out (T, OC) = in (T, C) times the transpose of weight (OC, C), plus bias (OC) unless NULL. row (C) is scratch.
static void matmul(double* out, const double* in, const Tensor* weight, const float* bias, int T, int C, int OC,
                   float* row) {
    for (int o = 0; o < OC; o++) {
        gpt2_matrix_row(row, weight, (size_t)o, (size_t)C);
        for (int t = 0; t < T; t++) {
            double sum = bias == NULL ? 0 : bias[o];
            for (int c = 0; c < C; c++) sum += in[(size_t)t * C + c] * row[c];
            out[(size_t)t * OC + o] = sum;
        }
    }
}

// out (T, C): per head, softmax over the positions up to t of q_t . k / sqrt(hs), times v. qkv (T, 3C) holds q, k, v
// side by side, and in each of them the heads. scores (T) is scratch.
static void attention(double* out, const double* qkv, int T, int C, int NH, double* scores) {
    int hs = C / NH;
    for (int t = 0; t < T; t++) {
        for (int h = 0; h < NH; h++) {
            const double* q = qkv + (size_t)t * 3 * C + (size_t)h * hs;
            double largest = -INFINITY, sum = 0;
            for (int s = 0; s <= t; s++) {
                const double* k = qkv + (size_t)s * 3 * C + C + (size_t)h * hs;
                scores[s] = 0;
                for (int i = 0; i < hs; i++) scores[s] += q[i] * k[i] / sqrt(hs);
                largest = fmax(largest, scores[s]);
            }
            for (int s = 0; s <= t; s++) sum += scores[s] = exp(scores[s] - largest);
            double* out_th = out + (size_t)t * C + (size_t)h * hs;
            for (int i = 0; i < hs; i++) out_th[i] = 0;
            for (int s = 0; s <= t; s++) {
                const double* v = qkv + (size_t)s * 3 * C + 2 * (size_t)C + (size_t)h * hs;
                for (int i = 0; i < hs; i++) out_th[i] += scores[s] / sum * v[i];
            }
        }
    }
}

// GELU in its tanh form, in place.
static void gelu(double* x, size_t n) {
    const double scale = sqrt(2 / acos(-1.0));
    for (size_t i = 0; i < n; i++) x[i] = 0.5 * x[i] * (1 + tanh(scale * (x[i] + 0.044715 * x[i] * x[i] * x[i])));
}

static void add(double* x, const double* in, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += in[i];
}

bool reference_forward(double* logits, const GPT2Model* model, const int* tokens, int T, Error* error) {
    int C = model->config.channels, NH = model->config.num_heads, V = model->config.vocab_size;
    size_t TC = (size_t)T * (size_t)C;
    // x, normed, out and att are (T, C), qkv (T, 3C), hidden (T, 4C), scores (T), and row 4C floats
    double* x = allocate(11 * TC + (size_t)T + 2 * (size_t)C, sizeof(double), "the float64 reference", error);
    if (x == NULL) return false;
    double *normed = x + TC, *out = normed + TC, *att = out + TC, *qkv = att + TC, *hidden = qkv + 3 * TC;
    double* scores = hidden + 4 * TC;
    float* row = (float*)(void*)(scores + T);

    for (int t = 0; t < T; t++) {
        gpt2_matrix_row(row, &model->tensors[WTE], (size_t)tokens[t], (size_t)C);
        for (int c = 0; c < C; c++) x[(size_t)t * C + c] = row[c];
        gpt2_matrix_row(row, &model->tensors[WPE], (size_t)t, (size_t)C);
        for (int c = 0; c < C; c++) x[(size_t)t * C + c] += row[c];
    }
    for (int l = 0; l < model->config.num_layers; l++) {
        Tensor qkvw = gpt2_tensor(model, QKVW, l), attprojw = gpt2_tensor(model, ATTPROJW, l);
        Tensor fcw = gpt2_tensor(model, FCW, l), fcprojw = gpt2_tensor(model, FCPROJW, l);
        layernorm(normed, x, gpt2_vector(model, LN1W, l), gpt2_vector(model, LN1B, l), T, C);
        matmul(qkv, normed, &qkvw, gpt2_vector(model, QKVB, l), T, C, 3 * C, row);
        attention(att, qkv, T, C, NH, scores);
        matmul(out, att, &attprojw, gpt2_vector(model, ATTPROJB, l), T, C, C, row);
        add(x, out, TC);
        layernorm(normed, x, gpt2_vector(model, LN2W, l), gpt2_vector(model, LN2B, l), T, C);
        matmul(hidden, normed, &fcw, gpt2_vector(model, FCB, l), T, C, 4 * C, row);
        gelu(hidden, 4 * TC);
        matmul(out, hidden, &fcprojw, gpt2_vector(model, FCPROJB, l), T, 4 * C, C, row);
        add(x, out, TC);
    }
    layernorm(normed, x, gpt2_vector(model, LNFW, 0), gpt2_vector(model, LNFB, 0), T, C);
    matmul(logits, normed, &model->tensors[WTE], NULL, T, C, V, row);
    free(x);
    return true;
}
