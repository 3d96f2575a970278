// The CPU device: GPT-2's forward pass with OpenMP.
//
// One parallel region runs a whole chunk of tokens, from embedding to logits. Inside it every thread executes the same
// sequence of stages, each on its own share of rows, heads or columns, with a barrier where one stage reads what
// another thread wrote in the stage before.
#include "gpt2_kernels.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu_kernels.h"
#include "cpu_variants.h"
#include "openmp.h"
#include "processors.h"
#include "team.h"

// Tokens of a prompt that pass through the layers together, at most. Weights are read once per chunk, which with 256
// rows takes a small part of the arithmetic's time.
enum { CHUNK = 256 };

// Up to this many rows each thread packs all activations for itself: cheaper than sharing the work and then waiting. No
// tall product has so few.
enum { ROWS_PACKED_ALONE = 4 };

// ---------------------------------------------------------------------------------------------------------------------
// kernel variants

#define DECLARE_VARIANT(name, condition) extern const CpuKernels cpu_kernels_##name;
CPU_VARIANTS(DECLARE_VARIANT)

const CpuKernels* cpu_kernels_supported(int i) {
#define RETURN_VARIANT(name, condition)                                                                                \
    if ((condition) && i-- == 0) return &cpu_kernels_##name;
    CPU_VARIANTS(RETURN_VARIANT)
    return NULL;
}

const CpuKernels* cpu_kernels_select(const char* name) {
    const CpuKernels* kernels;
    for (int i = 0; (kernels = cpu_kernels_supported(i)) != NULL; i++) {
        if (name == NULL || strcmp(kernels->name, name) == 0) return kernels;
    }
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// the device

struct Device {
    const GPT2Model* model;
    const CpuKernels* kernels;
    int num_threads, max_seq_len, max_batch;
    size_t max_rows;               // R: rows of activations that pass through the layers together
    DType cache_dtype;             // f16, but f32 for f32 weights: its rounding would show
    size_t key_bytes, value_bytes; // of one head's cache
    char* cache;                   // (max_batch, L, NH) head caches of keys, then values
    // activations of R rows
    float* x;     // (R, C) the residual stream
    float* qkv;   // (R, 3C)
    float* att;   // (R, C) what the heads found
    float* fc;    // (R rounded up to groups, 4C)
    char* packed; // (R rounded up to groups) packed rows of up to 4C elements
    // scratch of each thread
    float* row;    // (num_threads, 4C) one normalised row
    char* alone;   // (num_threads, alone_rows) packed rows, ROWS_PACKED_ALONE or a group of them
    float* scores; // (num_threads, ATTENTION_MAX_QUERIES, maxT rounded up)
    char* tile;    // (num_threads) scratch of the product for many rows, or NULL
    size_t packed_bytes, scores_floats, tile_bytes, alone_rows;
    Team team;
    double ended;     // the last run, as seconds_now() counts
    Profile* profile; // or NULL
    float* residuals; // (L + 1, max_batch, maxT, C) of the caller, or NULL
    char description[96];
};

static void cpu_close(Device* d) {
    if (d == NULL) return;
    void* blocks[] = {d->cache, d->x, d->qkv, d->att, d->fc, d->packed, d->row, d->alone, d->scores, d->tile};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]);
    team_close(&d->team);
    free(d);
}

static size_t round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Sizes follow from the model and the options; every block is checked, none is touched before it is used.
static bool cpu_allocate(Device* d, Error* error) {
    const GPT2Config* c = &d->model->config;
    size_t C = (size_t)c->channels, hs = C / (size_t)c->num_heads, T = (size_t)d->max_seq_len;
    size_t heads = (size_t)d->max_batch * (size_t)c->num_layers * (size_t)c->num_heads;
    size_t chunk = T < CHUNK ? T : CHUNK, R = (size_t)d->max_batch > chunk ? (size_t)d->max_batch : chunk;
    size_t threads = (size_t)d->num_threads, grouped = round_up(R, d->kernels->rows_of_group);
    d->max_rows = R;
    d->cache_dtype = d->model->dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_F16;
    d->key_bytes = round_up(round_up(T, KEY_BLOCK) * hs * dtype_size(d->cache_dtype), 64);
    d->value_bytes = round_up(T * padded_head_size(hs) * dtype_size(d->cache_dtype), 64);
    size_t short_row = d->kernels->packed_row_bytes(d->model->dtype, C);
    size_t long_row = d->kernels->packed_row_bytes(d->model->dtype, 4 * C);
    d->packed_bytes = short_row > long_row ? short_row : long_row;
    d->scores_floats = ATTENTION_MAX_QUERIES * round_up(T, KEY_BLOCK);
    d->alone_rows = d->kernels->rows_of_group > ROWS_PACKED_ALONE ? d->kernels->rows_of_group : ROWS_PACKED_ALONE;
    size_t short_tile = d->kernels->tile_bytes(d->model->dtype, C);
    size_t long_tile = d->kernels->tile_bytes(d->model->dtype, 4 * C);
    size_t tile = short_tile > long_tile ? short_tile : long_tile;
    d->tile_bytes = d->kernels->rows_for_tall(d->model->dtype, R) > 0 ? tile : 0;
    return (d->cache = allocate(heads, d->key_bytes + d->value_bytes, "KV cache (a smaller -n, --ctx or -b needs less)",
                                error)) &&
           (d->x = allocate(R, C * sizeof(float), "activations", error)) &&
           (d->qkv = allocate(R, 3 * C * sizeof(float), "activations", error)) &&
           (d->att = allocate(R, C * sizeof(float), "activations", error)) &&
           (d->fc = allocate(grouped, 4 * C * sizeof(float), "activations", error)) &&
           (d->packed = allocate(grouped, d->packed_bytes, "activations", error)) &&
           (d->row = allocate(threads, 4 * C * sizeof(float), "activations", error)) &&
           (d->alone = allocate(threads * d->alone_rows, d->packed_bytes, "activations", error)) &&
           (d->tile_bytes == 0 || (d->tile = allocate(threads, d->tile_bytes, "tiles of weights", error))) &&
           (d->scores = allocate(threads, d->scores_floats * sizeof(float),
                                 "attention scores (a smaller --ctx or -t needs less)", error));
}

static Device* cpu_open(const GPT2Model* model, const DeviceOptions* options, Error* error) {
    const CpuKernels* kernels = cpu_kernels_select(options->kernels);
    if (kernels == NULL) {
        fail(error, "CPU: this processor has no kernels named %s", options->kernels);
        return NULL;
    }
    Device* d = allocate(1, sizeof *d, "CPU device", error);
    if (d == NULL) return NULL;
    memset(d, 0, sizeof *d);
    d->model = model;
    d->kernels = kernels;
    d->max_seq_len = options->max_seq_len;
    d->max_batch = options->max_batch;
    d->profile = options->profile;
    d->residuals = options->residuals;
#ifdef _OPENMP
    d->num_threads = options->num_threads;
#else
    d->num_threads = 1;
#endif
    snprintf(d->description, sizeof d->description, "CPU, %d thread%s, %s", d->num_threads,
             d->num_threads == 1 ? "" : "s", kernels->name);
    if (!team_open(&d->team, d->num_threads, error) || !cpu_allocate(d, error)) {
        cpu_close(d);
        return NULL;
    }
    return d;
}

static const char* cpu_describe(const Device* d) {
    return d->description;
}

static HeadCache head_cache(const Device* d, int slot, int layer, int head) {
    size_t L = (size_t)d->model->config.num_layers, NH = (size_t)d->model->config.num_heads;
    size_t index = ((size_t)slot * L + (size_t)layer) * NH + (size_t)head;
    char* start = d->cache + index * (d->key_bytes + d->value_bytes);
    return (HeadCache){.dtype = d->cache_dtype, .keys = start, .values = start + d->key_bytes};
}

static bool cpu_copy_cache(Device* d, int to, int from, int length, Error* error) {
    const GPT2Config* c = &d->model->config;
    if (to < 0 || to >= d->max_batch || from < 0 || from >= d->max_batch || length < 0 || length > d->max_seq_len) {
        return fail(error, "CPU: cannot copy %d positions of KV cache %d to %d: there are %d caches of %d positions",
                    length, from, to, d->max_batch, d->max_seq_len);
    }
    size_t hs = (size_t)(c->channels / c->num_heads);
    size_t size = dtype_size(d->cache_dtype);
    size_t keys = round_up((size_t)length, KEY_BLOCK) * hs * size,
           values = (size_t)length * padded_head_size(hs) * size;
    for (int layer = 0; layer < c->num_layers; layer++) {
        for (int head = 0; head < c->num_heads; head++) {
            HeadCache source = head_cache(d, from, layer, head), target = head_cache(d, to, layer, head);
            memmove(target.keys, source.keys, keys);
            memmove(target.values, source.values, values);
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// stages: what one thread does of them

// A thread's view of one chunk: rows b * T + t for B sequences of T new tokens that follow `position` others.
typedef struct {
    Device* d;
    const int* tokens; // token of (b, t) at tokens[b * token_stride + t]
    size_t token_stride;
    const int* slots;
    int B, T, position;
    int thread, num_threads;
} Stage;

static size_t stage_rows(const Stage* s) {
    return (size_t)s->B * (size_t)s->T;
}

// This thread's share [begin, end) of n things, in units of `unit`.
static void share(const Stage* s, size_t n, size_t unit, size_t* begin, size_t* end) {
    size_t units = (n + unit - 1) / unit, threads = (size_t)s->num_threads, thread = (size_t)s->thread;
    *begin = units * thread / threads * unit;
    *end = units * (thread + 1) / threads * unit;
    if (*begin > n) *begin = n;
    if (*end > n) *end = n;
}

// Returns the seconds that this thread has waited for the others.
static double stage_barrier(const Stage* s) {
    double waited = team_wait(&s->d->team, s->num_threads);
    if (s->d->profile != NULL) profile_waited(s->d->profile, s->thread, waited);
    return waited;
}

// Every thread ends its part of an operation with this, after the barrier.
static void operation_done(const Stage* s, Operation operation, int B, int T) {
    if (s->d->profile != NULL) profile_end(s->d->profile, s->thread, operation, (CallShape){B, T, s->position});
}

// Hands out the residual stream after `layer` layers. Called after a barrier, by one thread: the others cannot write to
// x before this one has come to the barriers that follow.
static void keep_residual(const Stage* s, int layer) {
    const Device* d = s->d;
    if (d->residuals == NULL || s->thread != 0) return;
    size_t C = (size_t)d->model->config.channels, maxT = (size_t)d->max_seq_len, T = (size_t)s->T;
    for (size_t b = 0; b < (size_t)s->B; b++) {
        size_t row = ((size_t)layer * (size_t)d->max_batch + (size_t)s->slots[b]) * maxT + (size_t)s->position;
        memcpy(d->residuals + row * C, d->x + b * T * C, T * C * sizeof(float));
    }
}

// x = wte[token] + wpe[position]
static void embed(const Stage* s) {
    const GPT2Model* m = s->d->model;
    size_t C = (size_t)m->config.channels, begin, end;
    Tensor wte = gpt2_tensor(m, WTE, 0), wpe = gpt2_tensor(m, WPE, 0);
    float* position = s->d->row + (size_t)s->thread * 4 * C; // (C)
    share(s, stage_rows(s), 1, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        size_t b = r / (size_t)s->T, t = r % (size_t)s->T;
        float* x = s->d->x + r * C; // (C)
        gpt2_matrix_row(x, &wte, (size_t)s->tokens[b * s->token_stride + t], C);
        gpt2_matrix_row(position, &wpe, (size_t)s->position + t, C);
        for (size_t c = 0; c < C; c++) x[c] += position[c];
    }
}

// A LayerNorm to apply to rows before they are packed; without one (NULL weight) they are packed as they are.
typedef struct {
    const float *weight, *bias; // (C)
} Norm;

// What a product takes: R rows of C floats, of which the first ones may already be in groups.
typedef struct {
    const float* rows;
    Norm norm;
    bool in_groups; // those that pass through the product for many rows
} Input;

// Packs row r of inp (R, C), normalised, into out.
static void pack_row(const Stage* s, void* out, const Input* inp, size_t r, size_t C) {
    const Device* d = s->d;
    const float* in = inp->rows + r * C;
    Norm norm = inp->norm;
    float* row = d->row + (size_t)s->thread * 4 * (size_t)d->model->config.channels; // (C)
    if (norm.weight != NULL) d->kernels->layernorm(row, in, norm.weight, norm.bias, C);
    d->kernels->pack_row(out, norm.weight != NULL ? row : in, d->model->dtype, C);
}

// Packs R rows of inp (R, C), normalised, for a product with the model's matrices. Few rows: every thread packs all of
// them into its own scratch. Many: each packs its share into the common block, the first `tall` of them in groups for a
// tall product, and waits for the others. Rows that are in groups are left alone. Returns where the packed rows are.
static const char* pack(const Stage* s, const Input* inp, size_t R, size_t C, size_t tall) {
    Device* d = s->d;
    DType dtype = d->model->dtype;
    bool alone = R <= ROWS_PACKED_ALONE;
    char* mine = d->alone + (size_t)s->thread * d->alone_rows * d->packed_bytes;
    char* out = alone ? mine : d->packed;
    size_t start = inp->in_groups ? tall : 0, begin = 0, end = R - start;
    size_t bytes = d->kernels->packed_row_bytes(dtype, C), group = start < tall ? d->kernels->rows_of_group : 1;
    if (start == R) return out;
    if (!alone) share(s, R - start, group, &begin, &end);
    begin += start, end += start;
    for (size_t first = begin; first < end; first += group) {
        size_t n = end - first < group ? end - first : group;
        bool is_grouped = first < tall;
        char* packed = is_grouped ? mine : out + first * bytes;
        for (size_t r = 0; r < n; r++) pack_row(s, packed + r * bytes, inp, first + r, C);
        if (is_grouped) d->kernels->group_rows(out + first * bytes, mine, n, dtype, C);
    }
    if (!alone) stage_barrier(s);
    return out;
}

// This thread's share of a tall product. Columns in units, and for each of them the groups of rows, are dealt out in
// one row, so that many threads find work in few columns too: a share may begin and end within a unit.
static void matmul_tall(const Stage* s, float* out, const char* packed, const Tensor* weight, const float* bias,
                        size_t R, size_t C, size_t OC, Epilogue epilogue) {
    const Device* d = s->d;
    const size_t unit = TALL_PRODUCT_COLUMNS, group = d->kernels->rows_of_group, groups = (R + group - 1) / group;
    size_t bytes = d->kernels->packed_row_bytes(d->model->dtype, C), at, end;
    void* tile = d->tile_bytes > 0 ? d->tile + (size_t)s->thread * d->tile_bytes : NULL;
    share(s, (OC + unit - 1) / unit * groups, 1, &at, &end);
    while (at < end) {
        size_t column = at / groups * unit, row = at % groups * group, n = groups - at % groups, units = 1;
        if (row == 0 && end - at > groups) units = (end - at) / groups;
        if (n > end - at) n = end - at;
        size_t rows = R - row < n * group ? R - row : n * group;
        size_t last = OC - column < units * unit ? OC : column + units * unit;
        d->kernels->matmul_tall(out + row * OC, packed + row * bytes, weight, bias, rows, C, OC, column, last, epilogue,
                                tile);
        at += units * n;
    }
}

// out (R, OC) = epilogue(norm(inp) (R, C) · weightᵀ + bias): this thread's columns, then the barrier. With
// EPILOGUE_GELU_IN_GROUPS the rows of the tall product are left in groups, the others are rows after them.
static void linear(const Stage* s, float* out, Input inp, const Tensor* weight, const float* bias, size_t R, size_t C,
                   size_t OC, Epilogue epilogue) {
    const Device* d = s->d;
    size_t tall = d->kernels->rows_for_tall(d->model->dtype, R), begin, end;
    const char* packed = pack(s, &inp, R, C, tall);
    const char* groups = inp.in_groups ? (const char*)inp.rows : packed;
    if (tall > 0) matmul_tall(s, out, groups, weight, bias, tall, C, OC, epilogue);
    if (tall < R) {
        const char* rest = packed + tall * d->kernels->packed_row_bytes(d->model->dtype, C);
        team_part(&d->team, s->thread, s->num_threads, OC, 4, &begin, &end); // tiles of 4 columns
        if (epilogue == EPILOGUE_GELU_IN_GROUPS) epilogue = EPILOGUE_GELU;
        d->kernels->matmul(out + tall * OC, rest, weight, bias, R - tall, C, OC, begin, end, epilogue);
    }
    double waited = stage_barrier(s);
    if (tall == 0) team_waited(&s->d->team, s->thread, waited);
}

// Attention works on one head of one sequence at a time: number i of B * NH.
typedef struct {
    HeadCache cache;
    const float* qkv; // q of (b, 0), the head's first channel; k and v follow C and 2C later, rows 3C apart
    float* att;       // of (b, 0), rows C apart
} HeadView;

static HeadView head_view(const Stage* s, int layer, size_t i) {
    const Device* d = s->d;
    size_t C = (size_t)d->model->config.channels, NH = (size_t)d->model->config.num_heads, hs = C / NH;
    size_t b = i / NH, h = i % NH, T = (size_t)s->T;
    return (HeadView){.cache = head_cache(d, s->slots[b], layer, (int)h),
                      .qkv = d->qkv + b * T * 3 * C + h * hs,
                      .att = d->att + b * T * C + h * hs};
}

// Head i looks back over its cache for tile number `tile` of the new tokens, ATTENTION_MAX_QUERIES at most.
static void attend_tile(const Stage* s, int layer, size_t i, size_t tile) {
    const Device* d = s->d;
    size_t C = (size_t)d->model->config.channels, hs = C / (size_t)d->model->config.num_heads;
    size_t t = tile * ATTENTION_MAX_QUERIES, Q = (size_t)s->T - t;
    HeadView head = head_view(s, layer, i);
    d->kernels->attention(head.att + t * C, C, head.qkv + t * 3 * C, 3 * C, &head.cache, hs, (size_t)s->position + t,
                          Q < ATTENTION_MAX_QUERIES ? Q : ATTENTION_MAX_QUERIES,
                          d->scores + (size_t)s->thread * d->scores_floats);
}

// Keys and values of the new tokens go to the caches: thread i stores those of heads i, i + num_threads, ...
static void store_keys_and_values(const Stage* s, int layer) {
    const Device* d = s->d;
    size_t C = (size_t)d->model->config.channels, NH = (size_t)d->model->config.num_heads, hs = C / NH;
    size_t heads = (size_t)s->B * NH;
    for (size_t i = (size_t)s->thread; i < heads; i += (size_t)s->num_threads) {
        HeadView head = head_view(s, layer, i);
        d->kernels->cache_store(&head.cache, head.qkv + C, head.qkv + 2 * C, 3 * C, hs, (size_t)s->position,
                                (size_t)s->T);
    }
}

// Every head looks back over its cache. Heads are dealt out to the threads; the last ones, when they are not enough for
// all, tile by tile. With one tile a thread attends to the heads whose keys it has stored itself.
static void attend(const Stage* s, int layer) {
    size_t T = (size_t)s->T, heads = (size_t)s->B * (size_t)s->d->model->config.num_heads;
    size_t thread = (size_t)s->thread, threads = (size_t)s->num_threads;
    size_t tiles = (T + ATTENTION_MAX_QUERIES - 1) / ATTENTION_MAX_QUERIES, whole = heads / threads * threads;
    if (tiles > 1) stage_barrier(s);
    for (size_t i = thread; i < whole; i += threads) {
        for (size_t tile = 0; tile < tiles; tile++) attend_tile(s, layer, i, tile);
    }
    for (size_t i = thread, rest = heads - whole; i < rest * tiles; i += threads) {
        attend_tile(s, layer, whole + i % rest, i / rest);
    }
    stage_barrier(s);
}

// The last `wanted` tokens of each sequence go on without the others: their rows of x, and of qkv the queries, move to
// the front. Returns the view of them.
static Stage go_on_with(const Stage* s, int wanted) {
    const Device* d = s->d;
    size_t C = (size_t)d->model->config.channels, T = (size_t)s->T, n = (size_t)wanted;
    Stage last = *s;
    last.T = wanted;
    last.position = s->position + s->T - wanted;
    stage_barrier(s); // all have stored their keys and values
    for (size_t r = 0; s->thread == 0 && r < (size_t)s->B * n; r++) {
        size_t from = r / n * T + T - n + r % n;
        memmove(d->x + r * C, d->x + from * C, C * sizeof(float));
        memmove(d->qkv + r * 3 * C, d->qkv + from * 3 * C, C * sizeof(float));
    }
    stage_barrier(s);
    return last;
}

static Input normalised(const GPT2Model* m, const float* rows, ParameterId weight, ParameterId bias, int layer) {
    return (Input){.rows = rows, .norm = {gpt2_vector(m, weight, layer), gpt2_vector(m, bias, layer)}};
}

// One transformer block (GPT-2's pre-norm form):
//   x = x + attproj(attention(qkv(LayerNorm1(x))))
//   x = x + fcproj(GELU(fc(LayerNorm2(x))))
// Only the last `wanted` tokens of each sequence come out of it; of the others it takes the keys and values. Returns
// the view of those that do, if any.
static Stage block_forward(const Stage* s, int layer, int wanted) {
    Device* d = s->d;
    const GPT2Model* m = d->model;
    size_t C = (size_t)m->config.channels;
    Tensor qkvw = gpt2_tensor(m, QKVW, layer), attprojw = gpt2_tensor(m, ATTPROJW, layer);
    Tensor fcw = gpt2_tensor(m, FCW, layer), fcprojw = gpt2_tensor(m, FCPROJW, layer);
    linear(s, d->qkv, normalised(m, d->x, LN1W, LN1B, layer), &qkvw, gpt2_vector(m, QKVB, layer), stage_rows(s), C,
           3 * C, EPILOGUE_STORE);
    operation_done(s, OPERATION_QKV, s->B, s->T);
    store_keys_and_values(s, layer);
    if (wanted == 0) return *s;
    Stage last = wanted < s->T ? go_on_with(s, wanted) : *s;
    size_t R = stage_rows(&last);
    attend(&last, layer);
    operation_done(&last, OPERATION_ATTENTION, last.B, last.T);
    linear(&last, d->x, (Input){.rows = d->att}, &attprojw, gpt2_vector(m, ATTPROJB, layer), R, C, C, EPILOGUE_ADD);
    operation_done(&last, OPERATION_ATTPROJ, last.B, last.T);
    bool in_groups = d->kernels->leaves_groups(m->dtype, C, 4 * C); // then fcproj need not pack them
    linear(&last, d->fc, normalised(m, d->x, LN2W, LN2B, layer), &fcw, gpt2_vector(m, FCB, layer), R, C, 4 * C,
           in_groups ? EPILOGUE_GELU_IN_GROUPS : EPILOGUE_GELU);
    operation_done(&last, OPERATION_FC, last.B, last.T);
    linear(&last, d->x, (Input){.rows = d->fc, .in_groups = in_groups}, &fcprojw, gpt2_vector(m, FCPROJB, layer), R,
           4 * C, C, EPILOGUE_ADD);
    operation_done(&last, OPERATION_FCPROJ, last.B, last.T);
    return last;
}

// logits (n, V) of rows [first, first + n) of x: LayerNorm, then the dot product with every token's embedding.
static void head_forward(const Stage* s, float* logits, size_t first, size_t n) {
    const GPT2Model* m = s->d->model;
    size_t C = (size_t)m->config.channels, V = (size_t)m->config.vocab_size;
    Tensor wte = gpt2_tensor(m, WTE, 0);
    linear(s, logits, normalised(m, s->d->x + first * C, LNFW, LNFB, 0), &wte, NULL, n, C, V, EPILOGUE_STORE);
    operation_done(s, OPERATION_HEAD, 1, (int)n);
}

// ---------------------------------------------------------------------------------------------------------------------
// the forward pass

// One chunk through all layers. The last `wanted` of its T tokens get logits; sequence b's go to
// logits + b * logits_stride. The last layer's attention and MLP work for those alone, unless someone asked for all of
// the residual stream.
static void chunk_forward(const Stage* s, float* logits, size_t logits_stride, int wanted) {
    const Device* d = s->d;
    int L = d->model->config.num_layers;
    Stage stage = *s;
    if (d->profile != NULL) profile_start(d->profile, s->thread);
    embed(s);
    stage_barrier(s);
    operation_done(s, OPERATION_EMBED, s->B, s->T);
    keep_residual(s, 0);
    for (int layer = 0; layer < L; layer++) {
        bool are_few = layer == L - 1 && d->residuals == NULL;
        stage = block_forward(&stage, layer, are_few ? wanted : s->T);
        keep_residual(&stage, layer + 1);
    }
    if (wanted == 0) return;
    if (stage.T == wanted && logits_stride == (size_t)wanted * (size_t)d->model->config.vocab_size) {
        head_forward(&stage, logits, 0, stage_rows(&stage)); // all rows, one after the other: one product for all
        return;
    }
    for (int b = 0; b < s->B; b++) {
        size_t first = (size_t)b * (size_t)stage.T + (size_t)(stage.T - wanted);
        head_forward(&stage, logits + (size_t)b * logits_stride, first, (size_t)wanted);
    }
}

static bool cpu_forward(Device* d, const TokenRun* run, int num_logits, float* logits, Error* error) {
    if (!token_run_check(run, d->model, d->max_batch, d->max_seq_len, num_logits, error)) return false;
    size_t V = (size_t)d->model->config.vocab_size;
    int longest = (int)d->max_rows / run->B, first_wanted = run->T - num_logits;
    int chunks = (run->T + longest - 1) / longest; // about equally long
    longest = (run->T + chunks - 1) / chunks;
    for (int t = 0; t < run->T; t += longest) {
        int T = run->T - t < longest ? run->T - t : longest;
        int skipped = first_wanted > t ? first_wanted - t : 0; // tokens of this chunk without logits
        int wanted = skipped < T ? T - skipped : 0;
        float* out = wanted > 0 ? logits + (size_t)(t + skipped - first_wanted) * V : NULL;
        Stage stage = {.d = d,
                       .tokens = run->tokens + t,
                       .token_stride = (size_t)run->T,
                       .slots = run->slots,
                       .B = run->B,
                       .T = T,
                       .position = run->position + t};
        double now = seconds_now();
        team_start(&d->team, now);
        if (now - d->ended > 0.001) part_threads(d->team.size); // they may have slept
        double start = seconds_now();
#pragma omp parallel num_threads(d->team.size) firstprivate(stage)
        {
            stage.thread = omp_get_thread_num();
            stage.num_threads = omp_get_num_threads(); // may be fewer than asked for
            chunk_forward(&stage, out, (size_t)num_logits * V, wanted);
        }
        d->ended = seconds_now();
        team_adapt(&d->team, start, d->ended, d->profile != NULL); // a profile shows the threads that were asked for
    }
    return true;
}

bool cpu_head(float* logits, const float* hidden, int R, const GPT2Model* model, int num_threads, Error* error) {
    const CpuKernels* kernels = cpu_kernels_select(NULL);
    size_t C = (size_t)model->config.channels, V = (size_t)model->config.vocab_size, rows = (size_t)R;
    size_t bytes = kernels->packed_row_bytes(model->dtype, C);
    char* packed = allocate(rows, bytes, "hidden states", error);
    if (packed == NULL) return false;
    for (size_t r = 0; r < rows; r++) kernels->pack_row(packed + r * bytes, hidden + r * C, model->dtype, C);
    size_t shares = (size_t)num_threads;
#pragma omp parallel for num_threads(num_threads)
    for (size_t share = 0; share < shares; share++) {
        size_t units = (V + 15) / 16, begin = units * share / shares * 16, end = units * (share + 1) / shares * 16;
        if (end > V) end = V;
        if (begin < end) {
            kernels->matmul(logits, packed, &model->tensors[WTE], NULL, rows, C, V, begin, end, EPILOGUE_STORE);
        }
    }
    free(packed);
    return true;
}

const DeviceApi gpt2_cpu = {.open = cpu_open,
                            .forward = cpu_forward,
                            .copy_cache = cpu_copy_cache,
                            .describe = cpu_describe,
                            .close = cpu_close};
