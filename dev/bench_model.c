#include "bench_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "../mapped_file.h"
#include "../pack.h"

static const struct {
    const char* name;
    GPT2Config config;
} shapes[] = {
    {"124M", {1024, 50257, 50304, 12, 12, 768}},
    {"355M", {1024, 50257, 50304, 24, 16, 1024}},
    {"774M", {1024, 50257, 50304, 36, 20, 1280}},
    {"1558M", {1024, 50257, 50304, 48, 25, 1600}},
};

const GPT2Config* bench_shape(const char* name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i].config;
    }
    return NULL;
}

// Numbers below 2^24 that look random.
static uint32_t hash(uint32_t i) {
    i *= 2654435761u;
    i ^= i >> 15;
    return i * 2246822519u >> 8;
}

// Every weight is the difference of two numbers in [0, scale) from hashes of its index, rounded to bf16: spread about 0
// much as a normal one, with a standard deviation of scale / 2.45.
static void fill_random(void* out, uint16_t* scales, DType dtype, size_t rows, size_t cols, float scale) {
    size_t row_bytes = dtype_stride_bytes(dtype, cols);
#pragma omp parallel for
    for (size_t r = 0; r < rows; r++) {
        float row[8192]; // 4C of the largest shape is 6400
        for (size_t c = 0; c < cols; c++) {
            uint32_t i = (uint32_t)(r * cols + c);
            float difference = (float)hash(2 * i) - (float)hash(2 * i + 1);
            row[c] = bf16_to_f32(f32_to_bf16(scale * 0x1p-24f * difference));
        }
        row_from_f32((char*)out + r * row_bytes, scales == NULL ? NULL : scales + r * q8_num_scales(cols), row, dtype,
                     cols);
    }
}

// The model's matrices into BF16Z; what they were before is freed.
static bool pack(GPT2Model* model, Error* error) {
    Tensor before[NUM_PARAMETERS];
    memcpy(before, model->tensors, sizeof before);
    model->dtype = DTYPE_BF16;
    if (!pack_model(model, "random weights", error)) {
        bench_model_free(model);
        return false;
    }
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        if (before[id].dtype == DTYPE_BF16) free((void*)before[id].data);
    }
    return true;
}

bool bench_model_random(GPT2Model* model, const GPT2Config* config, DType dtype, Error* error) {
    *model = (GPT2Model){
        .config = *config, .dtype = dtype, .file_dtype = dtype, .num_parameters = gpt2_num_parameters(config)};
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        DType kept = shape.kind == VECTOR ? DTYPE_F32 : dtype_unpacked(dtype);
        size_t rows = shape.layers * shape.rows;
        char* data = allocate(rows, dtype_stride_bytes(kept, shape.cols), "weights", error);
        uint16_t* scales =
            kept == DTYPE_Q8 ? allocate(rows * q8_num_scales(shape.cols), sizeof *scales, "scales", error) : NULL;
        model->tensors[id] = (Tensor){.dtype = kept, .data = data, .scales = scales};
        if (data == NULL || (kept == DTYPE_Q8 && scales == NULL)) {
            bench_model_free(model);
            return false;
        }
        prefer_huge_pages(data, rows * dtype_stride_bytes(kept, shape.cols)); // as loading does
        fill_random(data, scales, kept, rows, shape.cols, 0.05f);
    }
    return dtype != DTYPE_BF16Z || pack(model, error);
}

void bench_model_free(GPT2Model* model) {
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        if (model->tensors[id].dtype != DTYPE_BF16Z) free((void*)model->tensors[id].data);
        free((void*)model->tensors[id].scales);
    }
    pack_free(model);
    *model = (GPT2Model){0};
}

static void put_token(FILE* out, const char* bytes, size_t length) {
    fputc((int)length, out);
    fwrite(bytes, 1, length, out);
}

bool bench_tokenizer_write(const char* path, int V, Error* error) {
    static const char* const merges[] = {"He", "ll", "Hell", "Hello"};
    enum { MERGES = sizeof merges / sizeof *merges };
    const char end[] = "<|endoftext|>";
    int32_t header[256] = {20240328, 2, V, V - 1};
    FILE* out = fopen(path, "wb");
    if (out == NULL) return fail(error, "%s: cannot be created: %s", path, strerror(errno));
    fwrite(header, sizeof header, 1, out);
    for (int i = 0; i < 256; i++) put_token(out, (char[]){(char)i}, 1);
    for (int i = 0; i < MERGES; i++) put_token(out, merges[i], strlen(merges[i]));
    int written = 256 + MERGES;
    for (int pair = 0; written < V - 1; pair++) {
        char bytes[2] = {(char)(pair >> 8), (char)pair};
        if (memcmp(bytes, merges[0], 2) == 0 || memcmp(bytes, merges[1], 2) == 0) continue; // there already
        put_token(out, bytes, 2);
        written++;
    }
    put_token(out, end, sizeof end - 1);
    bool ok = ferror(out) == 0;
    if (fclose(out) != 0 || !ok) return fail(error, "%s: cannot be written: %s", path, strerror(errno));
    return true;
}
