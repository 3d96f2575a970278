#include "toy_checkpoint.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static void* require(void* pointer, const char* what) {
    if (pointer != NULL) return pointer;
    perror(what);
    exit(1);
}

static void require_that(bool ok, const char* what) {
    require(ok ? (void*)what : NULL, what);
}

// ---------------------------------------------------------------------------------------------------------------------
// Toys

// xorshift64*
static unsigned long long next_random(unsigned long long* state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

Toy toy_make(GPT2Config config, unsigned long long seed, bool is_exact) {
    Toy toy = {config, NULL};
    size_t n = gpt2_num_parameters(&config);
    toy.weights = require(malloc(n * sizeof(float)), "toy");
    for (size_t i = 0; i < n; i++) {
        long long step = (long long)(next_random(&seed) >> 40) - (1 << 23); // -2^23 .. 2^23 - 1
        toy.weights[i] = is_exact ? (float)(step % 128) / 64 : (float)step * 0x1p-25f;
    }
    return toy;
}

void toy_free(Toy* toy) {
    free(toy->weights);
    *toy = (Toy){0};
}

float* toy_tensor(const Toy* toy, ParameterId wanted, size_t layer) {
    float* tensor = toy->weights;
    for (int id = 0; id < (int)wanted; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy->config);
        tensor += shape.layers * shape.rows * shape.cols;
    }
    ParameterShape shape = gpt2_parameter_shape(wanted, &toy->config);
    return tensor + layer * shape.rows * shape.cols;
}

size_t toy_differences(const Toy* toy, const GPT2Model* model) {
    GPT2Config unpadded = model->config;
    unpadded.padded_vocab_size = unpadded.vocab_size;
    if (memcmp(&unpadded, &toy->config, sizeof unpadded) != 0) return gpt2_num_parameters(&toy->config);
    size_t differences = 0;
    float* row = require(malloc(4 * (size_t)toy->config.channels * sizeof *row), "row");
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy->config);
        const float* expected = toy_tensor(toy, (ParameterId)id, 0);
        for (size_t r = 0; r < shape.layers * shape.rows; r++) {
            gpt2_matrix_row(row, &model->tensors[id], r, shape.cols);
            for (size_t i = 0; i < shape.cols; i++) differences += f32_bits(row[i]) != f32_bits(*expected++);
        }
    }
    free(row);
    return differences;
}

// ---------------------------------------------------------------------------------------------------------------------
// Bytes

static void put_u16(FILE* out, unsigned value) {
    fputc((int)(value & 0xff), out);
    fputc((int)(value >> 8 & 0xff), out);
}

static void put_u32(FILE* out, uint32_t value) {
    put_u16(out, value & 0xffff);
    put_u16(out, value >> 16);
}

// A float in F32, or truncated to BF16 or F16, from its definition: a number that the format holds is kept.
static void put_float(FILE* out, float value, const char* dtype) {
    if (strcmp(dtype, "F32") == 0) {
        put_u32(out, f32_bits(value));
    } else if (strcmp(dtype, "BF16") == 0) {
        put_u16(out, f32_bits(value) >> 16);
    } else {
        int exponent;
        double mantissa = frexp(fabs((double)value), &exponent); // 0.5 .. 1, or 0
        unsigned sign = signbit(value) ? 0x8000 : 0;
        unsigned magnitude = value == 0 ? 0 : (unsigned)((exponent + 14) << 10) + (unsigned)(mantissa * 2048) - 1024;
        put_u16(out, sign | magnitude);
    }
}

Bytes toy_llmc(const Toy* toy, int version) {
    Bytes bytes;
    const GPT2Config* config = &toy->config;
    int padded = version == 1 ? config->vocab_size : (config->vocab_size + 127) / 128 * 128;
    int header[256] = {20240326,           version,           config->max_seq_len, config->vocab_size,
                       config->num_layers, config->num_heads, config->channels,    version == 1 ? 0 : padded};
    FILE* out = require(open_memstream((char**)&bytes.data, &bytes.size), "open_memstream");
    for (int i = 0; i < 256; i++) put_u32(out, (uint32_t)header[i]);
    size_t channels = (size_t)config->channels, n = gpt2_num_parameters(config);
    for (size_t i = 0; i < n; i++) {
        const char* dtype = version == 5 ? "BF16" : "F32";
        if (i == (size_t)config->vocab_size * channels) { // the end of wte
            for (size_t j = 0; j < (size_t)(padded - config->vocab_size) * channels; j++) put_float(out, 0, dtype);
        }
        put_float(out, toy->weights[i], dtype);
    }
    require_that(fclose(out) == 0, "open_memstream");
    return bytes;
}

// An image on its way.
typedef struct {
    FILE* out;
    uint32_t* rare;
    uint32_t num_rare;
} ImageWriter;

// Every part of an image begins at a multiple of 64 bytes.
static void put_gap(FILE* out) {
    while (ftell(out) % 64 != 0) fputc(0, out);
}

// The upper bytes that are common, positive ones; bit 3 of a place is the sign.
static const uint8_t common[8] = {0x3c, 0x3e, 0x3f, 0x00, 0x10, 0x11, 0x12, 0x13};

// 128 weights of a row, `col` being the first and `n` how many of them the row has.
static void put_packed(ImageWriter* w, const float* in, size_t col, size_t n) {
    uint8_t block[192] = {0};
    for (size_t i = 0; i < n; i++) {
        unsigned bits = f32_bits(in[i]) >> 16, high = bits >> 8, place = 0;
        size_t slot = i / 64 * 64 + i / 8 % 4 * 16 + i / 32 % 2 * 8 + i % 8;
        while (place < 8 && common[place] != (high & 127)) place++;
        if (place == 8) w->rare[w->num_rare++] = (uint32_t)(col + i) << 8 | high;
        else place |= high >> 7 << 3;
        block[slot] = (uint8_t)bits;
        block[128 + slot % 64] |= (uint8_t)((place & 15) << slot / 64 * 4);
    }
    fwrite(block, 1, sizeof block, w->out);
}

static void put_matrix_packed(ImageWriter* w, const float* in, size_t rows, size_t cols) {
    uint32_t* starts = require(malloc((rows + 1) * sizeof *starts), "starts");
    for (size_t r = 0; r < rows; r++) {
        starts[r] = w->num_rare;
        for (size_t col = 0; col < cols; col += 128) {
            put_packed(w, in + r * cols + col, col, cols - col < 128 ? cols - col : 128);
        }
    }
    starts[rows] = w->num_rare;
    put_gap(w->out);
    for (int i = 0; i < 16; i++) fputc(common[i % 8] | i / 8 << 7, w->out);
    put_gap(w->out);
    for (size_t r = 0; r <= rows; r++) put_u32(w->out, starts[r]);
    free(starts);
}

static void put_matrix_q8(FILE* out, const float* in, size_t rows, size_t cols) {
    size_t stride = (cols + 31) / 32 * 32, num_scales = rows * (stride / 32);
    int8_t* row = require(malloc(stride), "row");
    uint16_t* scales = require(malloc(num_scales * sizeof *scales), "scales");
    for (size_t r = 0; r < rows; r++) {
        row_from_f32(row, scales + r * (stride / 32), in + r * cols, DTYPE_Q8, cols);
        fwrite(row, 1, stride, out);
    }
    put_gap(out);
    for (size_t i = 0; i < num_scales; i++) put_u16(out, scales[i]);
    free(scales);
    free(row);
}

Bytes toy_image(const Toy* toy, DType dtype) {
    Bytes bytes;
    const GPT2Config* c = &toy->config;
    ImageWriter w = {.rare = require(malloc(gpt2_num_parameters(c) * sizeof(uint32_t)), "rare weights")};
    FILE* out = w.out = require(open_memstream((char**)&bytes.data, &bytes.size), "open_memstream");
    int header[256] = {20261121,     1,           c->max_seq_len, c->vocab_size, c->num_layers,
                       c->num_heads, c->channels, c->vocab_size,  (int)dtype /* 3 is Q8 */};
    for (int i = 0; i < 256; i++) put_u32(out, (uint32_t)header[i]);
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, c);
        const float* weights = toy_tensor(toy, (ParameterId)id, 0);
        size_t rows = shape.layers * shape.rows, n = rows * shape.cols;
        bool is_plain = shape.kind == VECTOR || dtype == DTYPE_F16;
        put_gap(out);
        for (size_t i = 0; is_plain && i < n; i++) put_float(out, weights[i], shape.kind == VECTOR ? "F32" : "F16");
        if (!is_plain && dtype == DTYPE_Q8) put_matrix_q8(out, weights, rows, shape.cols);
        if (!is_plain && dtype == DTYPE_BF16Z) put_matrix_packed(&w, weights, rows, shape.cols);
    }
    put_gap(out);
    for (uint32_t i = 0; i < w.num_rare; i++) put_u32(out, w.rare[i]);
    require_that(fclose(out) == 0, "open_memstream");
    memcpy(bytes.data + 36, &w.num_rare, sizeof w.num_rare);
    free(w.rare);
    return bytes;
}

// What a .safetensors file is written with.
typedef struct {
    FILE *header, *data;
    long offset;     // bytes of data so far
    int num_tensors; // counted for the style's dtypes and shards
    const SafetensorsStyle* style;
} Writer;

// One tensor of `rows` x `cols` (rows 0: a vector), transposed on the way when is_transposed.
static void put_tensor(Writer* w, const char* name, const float* weights, size_t rows, size_t cols,
                       bool is_transposed) {
    int i = w->num_tensors++;
    if (i % w->style->num_shards != w->style->shard) return;
    const char* dtype = w->style->dtypes[i % 3];
    size_t n = (rows > 0 ? rows : 1) * cols;
    long bytes = (long)n * (strcmp(dtype, "F32") == 0 ? 4 : 2);
    fprintf(w->header, ",\"%s%s\":{\"dtype\":\"%s\",\"shape\":[", w->style->prefix, name, dtype);
    if (rows > 0) fprintf(w->header, "%zu,%zu", is_transposed ? cols : rows, is_transposed ? rows : cols);
    else fprintf(w->header, "%zu", cols);
    fprintf(w->header, "],\"data_offsets\":[%ld,%ld]}", w->offset, w->offset + bytes);
    w->offset += bytes;
    for (size_t k = 0; k < n; k++) {
        put_float(w->data, weights[is_transposed ? k % rows * cols + k / rows : k], dtype);
    }
}

static void put_layer(Writer* w, const Toy* toy, ParameterId id, size_t layer) {
    ParameterShape shape = gpt2_parameter_shape(id, &toy->config);
    char name[64];
    if (shape.per_layer) snprintf(name, sizeof name, "h.%zu.%s", layer, shape.hf_name);
    else snprintf(name, sizeof name, "%s", shape.hf_name);
    size_t rows = shape.kind == VECTOR ? 0 : shape.rows;
    put_tensor(w, name, toy_tensor(toy, id, layer), rows, shape.cols, shape.kind == LINEAR);
}

// The masks of old files: F32 (1,1,maxT,maxT) and a scalar.
static void put_masks(Writer* w, const GPT2Config* config, int layer) {
    int maxT = config->max_seq_len;
    long bytes = 4L * maxT * maxT;
    fprintf(w->header,
            ",\"%sh.%d.attn.bias\":{\"dtype\":\"F32\",\"shape\":[1,1,%d,%d],\"data_offsets\":[%ld,%ld]}"
            ",\"%sh.%d.attn.masked_bias\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[%ld,%ld]}",
            w->style->prefix, layer, maxT, maxT, w->offset, w->offset + bytes, w->style->prefix, layer,
            w->offset + bytes, w->offset + bytes + 4);
    for (int i = 0; i < maxT * maxT + 1; i++) put_u32(w->data, 0xdeadbeef);
    w->offset += bytes + 4;
}

Safetensors toy_safetensors(const Toy* toy, const SafetensorsStyle* style) {
    Safetensors file;
    size_t header_size;
    Writer w = {.style = style};
    w.header = require(open_memstream(&file.header, &header_size), "open_memstream");
    w.data = require(open_memstream((char**)&file.data.data, &file.data.size), "open_memstream");
    fprintf(w.header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; style->has_masks && i < toy->config.num_layers; i++) put_masks(&w, &toy->config, i);
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        size_t layers = gpt2_parameter_shape((ParameterId)id, &toy->config).layers;
        for (size_t layer = 0; layer < layers; layer++) put_layer(&w, toy, (ParameterId)id, layer);
    }
    if (style->has_head) {
        SafetensorsStyle bare = *style; // the head's name has no prefix, and its dtype is that of wte
        bare.prefix = "";
        w.style = &bare;
        w.num_tensors = 0;
        put_tensor(&w, "lm_head.weight", toy->weights, (size_t)toy->config.vocab_size, (size_t)toy->config.channels,
                   false);
    }
    fprintf(w.header, "}");
    require_that(fclose(w.header) == 0 && fclose(w.data) == 0, "open_memstream");
    return file;
}

void safetensors_release(Safetensors* file) {
    free(file->header);
    free(file->data.data);
    *file = (Safetensors){0};
}

Bytes safetensors_bytes(const Safetensors* file) {
    size_t length = strlen(file->header);
    Bytes bytes = {.size = 8 + length + file->data.size};
    bytes.data = require(malloc(bytes.size), "safetensors");
    for (int i = 0; i < 8; i++) bytes.data[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes.data + 8, file->header, length);
    memcpy(bytes.data + 8 + length, file->data.data, file->data.size);
    return bytes;
}

void safetensors_write(const char* path, const Safetensors* file) {
    Bytes bytes = safetensors_bytes(file);
    write_file(path, bytes.data, bytes.size);
    free(bytes.data);
}

void toy_write_safetensors(const char* path, const Toy* toy, const SafetensorsStyle* style) {
    Safetensors file = toy_safetensors(toy, style);
    safetensors_write(path, &file);
    safetensors_release(&file);
}

char* toy_write_shards(const Toy* toy, const char* directory, int n) {
    char *text = NULL, path[512];
    size_t size;
    FILE* out = require(open_memstream(&text, &size), "open_memstream");
    const char* separator = "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {";
    for (int shard = 0; shard < n; shard++) {
        SafetensorsStyle style = {"", {"F32", "F32", "F32"}, false, false, shard, n};
        Safetensors file = toy_safetensors(toy, &style);
        snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", directory, shard + 1, n);
        safetensors_write(path, &file);
        const char* at = file.header;
        while ((at = strstr(at, ",\"")) != NULL) { // ,"NAME":{"dtype" or ,"shape" or ,"data_offsets"
            int length = (int)strcspn(at + 2, "\"");
            if (strncmp(at + 2 + length, "\":{", 3) == 0) {
                fprintf(out, "%s\"%.*s\": \"%s\"", separator, length, at + 2, strrchr(path, '/') + 1);
                separator = ", ";
            }
            at += 2;
        }
        safetensors_release(&file);
    }
    fprintf(out, "}}");
    require_that(fclose(out) == 0, "open_memstream");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
    write_file(path, text, size);
    return text;
}

char* toy_config_json(const Toy* toy) {
    char* text = NULL;
    const GPT2Config* config = &toy->config;
    int length = asprintf(&text,
                          "{\"model_type\": \"gpt2\", \"activation_function\": \"gelu_new\", \"n_inner\": null,\n"
                          " \"vocab_size\": %d, \"n_positions\": %d, \"n_ctx\": %d, \"n_embd\": %d, \"n_layer\": %d, "
                          "\"n_head\": %d,\n \"layer_norm_epsilon\": 1e-05, \"scale_attn_weights\": true, "
                          "\"scale_attn_by_inverse_layer_idx\": false,\n \"reorder_and_upcast_attn\": false, "
                          "\"add_cross_attention\": false, \"tie_word_embeddings\": true}\n",
                          config->vocab_size, config->max_seq_len, config->max_seq_len, config->channels,
                          config->num_layers, config->num_heads);
    require_that(length > 0, "config.json");
    return text;
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

void make_directory(char directory[256]) {
    const char* base = getenv("TMPDIR");
    snprintf(directory, 256, "%s/gpt2_test_XXXXXX", base != NULL ? base : "/tmp");
    require(mkdtemp(directory), directory);
}

static int remove_one(const char* path, const struct stat* status, int kind, struct FTW* walk) {
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

void remove_directory(const char* directory) {
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void write_file(const char* path, const void* data, size_t size) {
    FILE* out = require(fopen(path, "wb"), path);
    require_that(fwrite(data, 1, size, out) == size && fclose(out) == 0, path);
}

Bytes read_file(const char* path) {
    Bytes bytes;
    struct stat status;
    FILE* in = require(fopen(path, "rb"), path);
    require_that(fstat(fileno(in), &status) == 0, path);
    bytes.size = (size_t)status.st_size;
    bytes.data = require(malloc(bytes.size + 1), path);
    require_that(fread(bytes.data, 1, bytes.size, in) == bytes.size, path);
    fclose(in);
    return bytes;
}

char* replaced(const char* text, const char* from, const char* to) {
    char* result = NULL;
    const char* at = strstr(text, from);
    require_that(at != NULL, from);
    require_that(asprintf(&result, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) >= 0, "asprintf");
    return result;
}
