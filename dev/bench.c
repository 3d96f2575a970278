// make bench: what a token and a prompt cost on this machine, beside what its memory allows.
//
//   bench [-t THREADS] [-r REPEATS] [--dtype f32|bf16|f16|q8] [--kernels VARIANT] [--shape 124M|355M|774M|1558M]
//
// The weights are random, in the shape of GPT-2: speed does not depend on their values. The read bandwidth is measured
// between the rows, with the same threads, over as many bytes as a token reads, because it changes from minute to
// minute on a shared machine. Every figure is a median of REPEATS, with the fastest and slowest behind it.
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "../cpu_kernels.h"
#include "../gpt2_kernels.h"

enum { MAX_REPEATS = 99 };

typedef struct {
    int threads, repeats;
    DType dtype;
    const char* kernels;
    const char* shape;
} BenchOptions;

static const struct {
    const char* name;
    GPT2Config config;
} shapes[] = {
    {"124M", {1024, 50257, 50304, 12, 12, 768}},
    {"355M", {1024, 50257, 50304, 24, 16, 1024}},
    {"774M", {1024, 50257, 50304, 36, 20, 1280}},
    {"1558M", {1024, 50257, 50304, 48, 25, 1600}},
};

static void die(const Error* error) {
    fprintf(stderr, "bench: %s\n", error->text);
    exit(1);
}

// ---------------------------------------------------------------------------------------------------------------------
// a random model

// Small values of both signs: every weight is scale * (a number in [-1, 1)) from a multiplicative hash of its index.
static void fill_random(void* out, uint16_t* scales, DType dtype, size_t rows, size_t cols, float scale) {
    size_t row_bytes = dtype_row_stride(dtype, cols) * dtype_size(dtype);
#pragma omp parallel for
    for (size_t r = 0; r < rows; r++) {
        float row[8192];
        for (size_t c = 0; c < cols; c++) {
            uint32_t hash = (uint32_t)(r * cols + c) * 2654435761u;
            hash ^= hash >> 15;
            row[c] = scale * ((float)(hash * 2246822519u >> 8) * 0x1p-23f - 1.0f);
        }
        row_from_f32((char*)out + r * row_bytes, scales == NULL ? NULL : scales + r * q8_num_scales(cols), row, dtype,
                     cols);
    }
}

static void random_model(GPT2Model* model, const GPT2Config* config, DType dtype, Error* error) {
    *model = (GPT2Model){.config = *config, .dtype = dtype, .file_dtype = dtype};
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        DType kept = shape.kind == VECTOR ? DTYPE_F32 : dtype;
        size_t rows = shape.layers * shape.rows, elements = rows * dtype_row_stride(kept, shape.cols);
        char* data = allocate(elements, dtype_size(kept), "weights", error);
        uint16_t* scales =
            kept == DTYPE_Q8 ? allocate(rows * q8_num_scales(shape.cols), sizeof *scales, "scales", error) : NULL;
        if (data == NULL || (kept == DTYPE_Q8 && scales == NULL)) die(error);
        fill_random(data, scales, kept, rows, shape.cols, 0.05f);
        model->tensors[id] = (Tensor){kept, data, scales};
    }
}

static void free_model(GPT2Model* model) {
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        free((void*)model->tensors[id].data);
        free((void*)model->tensors[id].scales);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// measuring

typedef struct {
    double seconds[MAX_REPEATS];
    int n;
} Times;

static int compare_doubles(const void* a, const void* b) {
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

static void times_sort(Times* t) {
    qsort(t->seconds, (size_t)t->n, sizeof *t->seconds, compare_doubles);
}

static double times_median(const Times* t) {
    return t->seconds[t->n / 2];
}

// Reads n bytes once with every thread on its own contiguous share, as a token reads its weights; bytes per second.
static double read_bandwidth(const char* buffer, size_t n, int threads) {
    double start = seconds_now();
    uint64_t total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        typedef uint64_t Line __attribute__((vector_size(64)));
        size_t begin = n / 64 * (size_t)t / (size_t)threads, end = n / 64 * (size_t)(t + 1) / (size_t)threads;
        const Line* lines = (const Line*)(const void*)buffer;
        Line sum[4] = {{0}};
        for (size_t i = begin; i + 4 <= end; i += 4) {
            for (int j = 0; j < 4; j++) {
                __builtin_prefetch((const char*)(lines + i + j) + 4096);
                sum[j] += lines[i + (size_t)j];
            }
        }
        sum[0] += sum[1] + sum[2] + sum[3];
        for (int j = 0; j < 8; j++) total += sum[0][j];
    }
    double seconds = seconds_now() - start;
    volatile uint64_t keep = total; // the sums must be computed
    (void)keep;
    return (double)n / seconds;
}

typedef struct {
    const GPT2Model* model;
    Device* device;
    float* logits; // (V)
    int* tokens;   // (maxT)
    const BenchOptions* options;
    char* buffer; // for the bandwidth
    size_t buffer_bytes;
} Bench;

// Seconds for T tokens in one run at `position`, logits of the last.
static double run_seconds(const Bench* b, int position, int T) {
    Error error;
    int slot = 0;
    TokenRun run = {.tokens = b->tokens, .slots = &slot, .B = 1, .T = T, .position = position};
    double start = seconds_now();
    if (!gpt2_cpu.forward(b->device, &run, 1, b->logits, &error)) die(&error);
    return seconds_now() - start;
}

// Seconds per token of n tokens, one after the other, from `position` on.
static double decode_seconds(const Bench* b, int position, int n) {
    double seconds = 0;
    for (int i = 0; i < n; i++) seconds += run_seconds(b, position + i, 1);
    return seconds / n;
}

static void print_spread(const Times* t, double scale) {
    printf("  [%.2f .. %.2f]", scale * t->seconds[0], scale * t->seconds[t->n - 1]);
}

// One row of the table: n tokens decoded at `depth`; beside it the bandwidth measured between the repeats.
static void bench_decode(const Bench* b, const char* what, int depth, int n) {
    Times token = {.n = b->options->repeats}, bandwidth = token;
    const GPT2Config* c = &b->model->config;
    if (depth > 0) run_seconds(b, 0, depth);
    decode_seconds(b, depth, 2);
    for (int i = 0; i < token.n; i++) {
        bandwidth.seconds[i] = read_bandwidth(b->buffer, b->buffer_bytes, b->options->threads);
        token.seconds[i] = decode_seconds(b, depth, n);
    }
    times_sort(&token);
    times_sort(&bandwidth);
    // keys and values of all layers at the middle of the run
    double cache = 2.0 * c->num_layers * c->channels * (depth + n / 2.0) * (b->model->dtype == DTYPE_F32 ? 4 : 2);
    double bytes = (double)gpt2_bytes_per_token(&b->model->config, b->model->dtype) + cache, rate = bytes / times_median(&token);
    printf("%-28s %8.1f tokens/s %8.3f ms", what, 1 / times_median(&token), 1e3 * times_median(&token));
    print_spread(&token, 1e3);
    printf("  %5.1f GB/s, %3.0f %% of %.1f\n", 1e-9 * rate, 100 * rate / times_median(&bandwidth),
           1e-9 * times_median(&bandwidth));
}

static void bench_prefill(const Bench* b, int T) {
    Times t = {.n = b->options->repeats};
    run_seconds(b, 0, T);
    for (int i = 0; i < t.n; i++) t.seconds[i] = run_seconds(b, 0, T);
    times_sort(&t);
    ParameterShape qkvw = gpt2_parameter_shape(QKVW, &b->model->config);
    // multiply-adds per token: 12 C² per layer (3 qkv + 1 attproj + 4 fc + 4 fcproj)
    double macs = 12.0 * (double)qkvw.layers * (double)qkvw.cols * (double)qkvw.cols * T;
    printf("prefill %-20d %8.1f tokens/s %8.1f ms", T, T / times_median(&t), 1e3 * times_median(&t));
    print_spread(&t, 1e3);
    printf("  %.0f Gop/s in the matrix products\n", 2e-9 * macs / times_median(&t));
}

static BenchOptions parse_options(int argc, char** argv) {
    BenchOptions o = {
        .threads = cpu_physical_cores(), .repeats = 9, .dtype = DTYPE_BF16, .kernels = NULL, .shape = "124M"};
    const struct option flags[] = {{"threads", 1, NULL, 't'}, {"repeats", 1, NULL, 'r'}, {"dtype", 1, NULL, 'd'},
                                   {"kernels", 1, NULL, 'k'}, {"shape", 1, NULL, 's'},   {0}};
    for (int flag; (flag = getopt_long(argc, argv, "t:r:", flags, NULL)) != -1;) {
        bool known = true;
        switch (flag) {
        case 't': o.threads = atoi(optarg), known = o.threads > 0; break;
        case 'r': o.repeats = atoi(optarg), known = o.repeats > 0 && o.repeats <= MAX_REPEATS; break;
        case 'k': o.kernels = optarg; break;
        case 's': o.shape = optarg; break;
        case 'd':
            for (o.dtype = 0; o.dtype < NUM_DTYPES && strcmp(optarg, dtype_names[o.dtype]) != 0;) o.dtype++;
            known = o.dtype < NUM_DTYPES;
            break;
        default: known = false;
        }
        if (!known) {
            fprintf(stderr, "bench: see the head of dev/bench.c for its options\n");
            exit(2);
        }
    }
    return o;
}

int main(int argc, char** argv) {
    Error error;
    BenchOptions options = parse_options(argc, argv);
    const GPT2Config* config = NULL;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].name, options.shape) == 0) config = &shapes[i].config;
    }
    if (config == NULL) return fprintf(stderr, "bench: no shape %s\n", options.shape), 2;
    GPT2Model model;
    random_model(&model, config, options.dtype, &error);
    DeviceOptions device_options = {
        .max_seq_len = config->max_seq_len, .max_batch = 1, .num_threads = options.threads, .kernels = options.kernels};
    Bench b = {.model = &model, .options = &options, .buffer_bytes = gpt2_bytes_per_token(&model.config, model.dtype)};
    b.device = gpt2_cpu.open(&model, &device_options, &error);
    b.logits = allocate((size_t)config->vocab_size, sizeof *b.logits, "logits", &error);
    b.tokens = allocate((size_t)config->max_seq_len, sizeof *b.tokens, "tokens", &error);
    b.buffer = allocate(b.buffer_bytes, 1, "buffer", &error);
    if (b.device == NULL || b.logits == NULL || b.tokens == NULL || b.buffer == NULL) die(&error);
    for (int i = 0; i < config->max_seq_len; i++)
        b.tokens[i] = (int)((unsigned)i * 7919u % (unsigned)config->vocab_size);
    memset(b.buffer, 1, b.buffer_bytes);

    printf("GPT-2 %s, %s weights, %s; %.1f MB per token; medians of %d [fastest .. slowest]\n", options.shape,
           dtype_names[options.dtype], gpt2_cpu.describe(b.device), 1e-6 * (double)b.buffer_bytes, options.repeats);
    bench_decode(&b, "decode 20 from empty", 0, 20);
    bench_decode(&b, "decode 128 from empty", 0, 128);
    bench_decode(&b, "decode 20 at depth 512", 512, 20);
    bench_decode(&b, "decode 20 at depth 900", 900, 20);
    bench_prefill(&b, 64);
    bench_prefill(&b, 512);
    gpt2_cpu.close(b.device);
    free_model(&model);
    free(b.logits);
    free(b.tokens);
    free(b.buffer);
    return 0;
}
