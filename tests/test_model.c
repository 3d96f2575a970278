// The whole model on the CPU: logits against Hugging Face transformers and against float64, and the promise that the
// result does not depend on threads, batch or chunking.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../checkpoint.h"
#include "../cpu_kernels.h"
#include "../gpt2_kernels.h"
#include "../sampler.h"
#include "reference.h"
#include "test.h"

// How far logits may be from the reference's, relative to its largest, by the format of the weights.
static const double bounds[NUM_DTYPES] = {
    [DTYPE_F32] = 1e-4, [DTYPE_BF16] = 2e-2, [DTYPE_F16] = 5e-3, [DTYPE_Q8] = 0.15, [DTYPE_BF16Z] = 2e-2};

typedef struct {
    double error;     // largest difference, relative to the largest reference logit
    int argmax_wrong; // rows whose likeliest token differs although the reference's top two differ by more than the bound
    int argmax_judged; // rows where they do
} Comparison;

// logits and reference (rows, V)
static Comparison compare_logits(const float* logits, const double* reference, size_t rows, size_t V, double bound) {
    Comparison result = {0};
    double largest = 0, worst = 0;
    for (size_t i = 0; i < rows * V; i++) {
        double error = fabs((double)logits[i] - reference[i]);
        largest = fmax(largest, fabs(reference[i]));
        if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
    }
    for (size_t r = 0; r < rows; r++) {
        const double* row = reference + r * V;
        size_t best = 0, second = V > 1 ? 1 : 0;
        for (size_t v = 1; v < V; v++) {
            if (row[v] > row[best]) second = best, best = v;
            else if (v != best && (second == best || row[v] > row[second])) second = v;
        }
        if (V == 1 || row[best] - row[second] <= bound * largest) continue;
        result.argmax_judged++;
        result.argmax_wrong += sampler_argmax(logits + r * V, (int)V) != (int)best;
    }
    result.error = worst / largest;
    return result;
}

static void fill_nan(float* out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = NAN;
}

static void* must(void* memory, const Error* error) {
    if (memory != NULL) return memory;
    fprintf(stderr, "test_model: %s\n", error->text);
    exit(1);
}

static Device* open_cpu(const GPT2Model* model, int batch, int threads, const char* kernels) {
    Error error = {""};
    DeviceOptions options = {
        .max_seq_len = model->config.max_seq_len, .max_batch = batch, .num_threads = threads, .kernels = kernels};
    return must(gpt2_cpu.open(model, &options, &error), &error);
}

// One run in slot `slot`; a failure ends the test program with its message.
static void forward(Device* device, const int* tokens, int slot, int position, int T, int num_logits, float* logits) {
    Error error;
    TokenRun run = {.tokens = tokens, .slots = &slot, .B = 1, .T = T, .position = position};
    if (!gpt2_cpu.forward(device, &run, num_logits, logits, &error)) must(NULL, &error);
}

// ---------------------------------------------------------------------------------------------------------------------
// reference logits that transformers (or llm.c's authors) computed

typedef struct {
    int B, T;
    int* x;        // (B, T)
    float* logits; // (B, T, V)
} DebugState;

// Reads the head of a debug state of llm.c: 256 int32 [20240327, 2, B, T], x (B, T), y (B, T), logits (B, T, V) f32.
static bool read_debug_state(DebugState* s, const char* path, size_t V) {
    FILE* f = fopen(path, "rb");
    int32_t header[256];
    if (f == NULL) return false;
    bool ok = fread(header, sizeof header, 1, f) == 1 && header[0] == 20240327 && header[1] == 2;
    s->B = ok ? header[2] : 0;
    s->T = ok ? header[3] : 0;
    size_t n = (size_t)s->B * (size_t)s->T;
    s->x = malloc(n * sizeof(int) + 1);
    s->logits = malloc(n * V * sizeof(float) + 1);
    ok = ok && fread(s->x, sizeof(int), n, f) == n && fseek(f, (long)(n * sizeof(int)), SEEK_CUR) == 0 &&
         fread(s->logits, sizeof(float), n * V, f) == n * V;
    fclose(f);
    return ok;
}

// Every row of the debug state at `state_path` against the model at `path`, on one variant.
static void compare_with_state(Tests* t, const char* path, const char* state_path, const GPT2Model* model,
                               const char* kernels) {
    size_t V = (size_t)model->config.vocab_size;
    DebugState s = {0};
    if (!test_check(t, read_debug_state(&s, state_path, V), "%s can be read", state_path)) return;
    size_t rows = (size_t)s.B * (size_t)s.T;
    Device* device = open_cpu(model, 1, 2, kernels);
    float* logits = malloc(rows * V * sizeof(float));
    double* reference = malloc(rows * V * sizeof(double));
    fill_nan(logits, rows * V);
    for (size_t i = 0; i < rows * V; i++) reference[i] = (double)s.logits[i];
    for (int b = 0; b < s.B; b++) {
        size_t first = (size_t)b * (size_t)s.T;
        forward(device, s.x + first, 0, 0, s.T, s.T, logits + first * V);
    }
    double bound = bounds[model->dtype];
    Comparison c = compare_logits(logits, reference, rows, V, bound);
    test_check(t, c.error <= bound, "%s, %s: %zu rows of logits are within %.1e of transformers', at most %.0e", path,
               kernels, rows, c.error, bound);
    test_check(t, c.argmax_wrong == 0, "%s, %s: the likeliest token is the same in all %d rows that are decided", path,
               kernels, c.argmax_judged);
    gpt2_cpu.close(device);
    free(logits), free(reference), free(s.x), free(s.logits);
}

static void test_fixture(Tests* t, const char* path, const char* state_path) {
    Error error;
    GPT2Model model;
    if (!checkpoint_load(&model, path, true, DTYPE_F32, &error)) {
        test_check(t, false, "%s loads: %s", path, error.text);
        return;
    }
    const CpuKernels* k;
    for (int i = 0; (k = cpu_kernels_supported(i)) != NULL; i++)
        compare_with_state(t, path, state_path, &model, k->name);
    checkpoint_free(&model);
}

static void test_transformers(Tests* t) {
    test_section("Logits against Hugging Face transformers");
    const char* names[] = {"odd_vocabulary", "one_layer_one_head", "bf16", "unpadded", "wide_bf16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128], state_path[160];
        snprintf(path, sizeof path, "tests/fixtures/%s.bin", names[i]);
        snprintf(state_path, sizeof state_path, "tests/fixtures/%s_debug_state.bin", names[i]);
        test_fixture(t, path, state_path);
    }
#ifdef HAVE_JANSSON
    test_fixture(t, "tests/fixtures/hf_odd", "tests/fixtures/hf_odd_debug_state.bin");
#else
    test_skip(t, "tests/fixtures/hf_odd: built without libjansson");
#endif
    test_fixture(t, "models/fairytales.bin", "tests/fixtures/fairytales_debug_state.bin");
    FILE* real = fopen("gpt2_124M_debug_state.bin", "rb");
    if (real == NULL) {
        test_skip(t, "gpt2_124M.bin and gpt2_124M_debug_state.bin are not here (scripts/download_gpt2.sh brings them)");
        return;
    }
    fclose(real);
    test_fixture(t, "gpt2_124M.bin", "gpt2_124M_debug_state.bin");
}

// ---------------------------------------------------------------------------------------------------------------------
// seeded models of odd shapes against float64

//                                     maxT    V    Vp  L  NH   C
static const GPT2Config odd_shapes[] = {{64, 300, 384, 2, 4, 64},   {40, 101, 101, 3, 2, 30},  {33, 57, 64, 1, 1, 80},
                                        {150, 211, 256, 2, 2, 256}, {20, 257, 257, 2, 25, 50}, {1, 5, 5, 1, 1, 1}};
enum { NUM_ODD = sizeof odd_shapes / sizeof *odd_shapes };

static void test_odd_shape(Tests* t, const GPT2Config* config, DType dtype) {
    Error error;
    GPT2Model model;
    size_t T = (size_t)config->max_seq_len, V = (size_t)config->vocab_size;
    int* tokens = malloc(T * sizeof(int));
    double* reference = malloc(T * V * sizeof(double));
    float *whole = malloc(T * V * sizeof(float)), *single = malloc(V * sizeof(float));
    for (size_t i = 0; i < T; i++) tokens[i] = (int)((i * 7919 + 13) % V);
    if (!reference_model(&model, config, dtype, 42, &error) ||
        !reference_forward(reference, &model, tokens, (int)T, &error)) {
        must(NULL, &error);
    }
    const CpuKernels* k;
    for (int i = 0; (k = cpu_kernels_supported(i)) != NULL; i++) {
        Device* device = open_cpu(&model, 2, 2, k->name);
        fill_nan(whole, T * V);
        forward(device, tokens, 1, 0, (int)T, (int)T, whole);
        Comparison c = compare_logits(whole, reference, T, V, bounds[dtype]);
        test_check(t, c.error <= bounds[dtype] && c.argmax_wrong == 0,
                   "%s %s, V %d, L %d, NH %d, C %d: %zu rows of logits are off by %.1e, at most %.0e", k->name,
                   dtype_names[dtype], config->vocab_size, config->num_layers, config->num_heads, config->channels, T,
                   c.error, bounds[dtype]);
        size_t same = 0;
        for (size_t p = 0; p < T; p++) {
            forward(device, tokens + p, 0, (int)p, 1, 1, single);
            same += memcmp(single, whole + p * V, V * sizeof(float)) == 0;
        }
        test_check(t, same == T, "%s %s, C %d: token by token, %zu of %zu rows have the bits of the whole prompt's",
                   k->name, dtype_names[dtype], config->channels, same, T);
        gpt2_cpu.close(device);
    }
    reference_model_free(&model);
    free(tokens), free(reference), free(whole), free(single);
}

// ---------------------------------------------------------------------------------------------------------------------
// the same bits for every number of threads, chunking, batch and slot

static void test_invariance(Tests* t, DType dtype) {
    Error error;
    GPT2Model model;
    const GPT2Config config = {.max_seq_len = 200,
                               .vocab_size = 199,
                               .padded_vocab_size = 256,
                               .num_layers = 2,
                               .num_heads = 3,
                               .channels = 96};
    enum { T = 150, V = 199, B = 3 };
    static float expected[V], got[B * V];
    static int tokens[T], batch[B];
    for (int i = 0; i < T; i++) tokens[i] = (i * 131 + 7) % V;
    if (!reference_model(&model, &config, dtype, 3, &error)) must(NULL, &error);
    Device* device = open_cpu(&model, 1, 1, NULL);
    forward(device, tokens, 0, 0, T, 1, expected);
    gpt2_cpu.close(device);

    int different = 0;
    for (int threads = 1; threads <= 8; threads++) {
        device = open_cpu(&model, 1, threads, NULL);
        forward(device, tokens, 0, 0, T, 1, got);
        different += memcmp(got, expected, sizeof expected) != 0;
        gpt2_cpu.close(device);
    }
    test_check(t, different == 0, "%s: 1 to 8 threads give the same bits (%d differ)", dtype_names[dtype], different);

    device = open_cpu(&model, 1, 16, NULL); // where there are fewer processors it lets threads go meanwhile
    different = 0;
    int runs = 0;
    for (double start = seconds_now(); seconds_now() - start < 0.2; runs++) {
        for (int p = 0; p < T; p++) forward(device, tokens + p, 0, p, 1, p + 1 == T, got);
        different += memcmp(got, expected, sizeof expected) != 0;
    }
    gpt2_cpu.close(device);
    test_check(t, different == 0, "%s: 16 threads, token by token for 0.2 s, give the same bits (%d of %d differ)",
               dtype_names[dtype], different, runs);

    device = open_cpu(&model, 4, 2, NULL);
    different = 0;
    for (int chunk = 1; chunk <= T; chunk = chunk * 2 + 1) {
        for (int p = 0; p < T; p += chunk) forward(device, tokens + p, 2, p, T - p < chunk ? T - p : chunk, 1, got);
        different += memcmp(got, expected, sizeof expected) != 0;
    }
    test_check(t, different == 0, "%s: prompts in chunks of 1 to 127 give the same bits (%d differ)",
               dtype_names[dtype], different);

    // three continuations of one prompt: slot 2 holds it, 0 and 1 get copies; the batch, then each alone
    const int slots[B] = {1, 0, 2};
    forward(device, tokens, 2, 0, T, 0, NULL);
    for (int b = 0; b < 2; b++) {
        if (!gpt2_cpu.copy_cache(device, slots[b], 2, T, &error)) must(NULL, &error);
    }
    for (int b = 0; b < B; b++) batch[b] = b * 50 + 1;
    TokenRun run = {.tokens = batch, .slots = slots, .B = B, .T = 1, .position = T};
    if (!gpt2_cpu.forward(device, &run, 1, got, &error)) must(NULL, &error);
    different = 0;
    for (int b = 0; b < B; b++) {
        forward(device, tokens, 3, 0, T, 0, NULL);
        forward(device, batch + b, 3, T, 1, 1, expected);
        different += memcmp(got + b * V, expected, sizeof expected) != 0;
    }
    test_check(t, different == 0, "%s: a batch of 3 that shares its prompt gives the bits of 3 single runs (%d differ)",
               dtype_names[dtype], different);

    // two prompts side by side, logits of the last two positions of each
    static int pair[2 * 10];
    static float both[2 * 2 * V], alone[2 * V];
    const int pair_slots[2] = {3, 0};
    for (int i = 0; i < 20; i++) pair[i] = (i * 37 + 5) % V;
    run = (TokenRun){.tokens = pair, .slots = pair_slots, .B = 2, .T = 10, .position = 0};
    if (!gpt2_cpu.forward(device, &run, 2, both, &error)) must(NULL, &error);
    different = 0;
    for (int b = 0; b < 2; b++) {
        forward(device, pair + b * 10, 1, 0, 10, 2, alone);
        different += memcmp(both + b * 2 * V, alone, sizeof alone) != 0;
    }
    test_check(t, different == 0, "%s: two prompts side by side give the bits of each alone (%d differ)",
               dtype_names[dtype], different);

    // three prompts of 100 tokens, in chunks of 50: logits of all positions, and of the last n alone
    enum { LONG = 100 };
    static int prompts[B * LONG];
    static float all[B * LONG * V], last[B * LONG * V];
    const int wanted[] = {1, 2, 49, 50, 60, 99};
    for (int i = 0; i < B * LONG; i++) prompts[i] = (i * 53 + 11) % V;
    run = (TokenRun){.tokens = prompts, .slots = slots, .B = B, .T = LONG, .position = 0};
    if (!gpt2_cpu.forward(device, &run, LONG, all, &error)) must(NULL, &error);
    different = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        size_t n = (size_t)wanted[i];
        fill_nan(last, sizeof last / sizeof *last);
        if (!gpt2_cpu.forward(device, &run, wanted[i], last, &error)) must(NULL, &error);
        for (size_t b = 0; b < B; b++) {
            different += memcmp(last + b * n * V, all + ((b + 1) * LONG - n) * V, n * V * sizeof *last) != 0;
        }
    }
    test_check(t, different == 0,
               "%s: the logits of the last 1 to 99 positions have the bits of all positions' (%d differ)",
               dtype_names[dtype], different);
    gpt2_cpu.close(device);
    reference_model_free(&model);
}

// Packed weights are the same weights: the logits of a prompt and of tokens after it, by every variant.
static void test_packed(Tests* t, const GPT2Config* config) {
    Error error;
    GPT2Model models[2];
    const DType dtypes[2] = {DTYPE_BF16, DTYPE_BF16Z};
    size_t T = (size_t)config->max_seq_len, V = (size_t)config->vocab_size, differ = 0, compared = 0;
    int* tokens = malloc(T * sizeof *tokens);
    float* logits[2] = {malloc(T * V * sizeof(float)), malloc(T * V * sizeof(float))};
    for (size_t i = 0; i < T; i++) tokens[i] = (int)((i * 4391 + 5) % V);
    for (int m = 0; m < 2; m++) {
        if (!reference_model(&models[m], config, dtypes[m], 77, &error)) must(NULL, &error);
    }
    const CpuKernels* k;
    for (int i = 0; (k = cpu_kernels_supported(i)) != NULL; i++) {
        for (int m = 0; m < 2; m++) {
            Device* device = open_cpu(&models[m], 1, 2, k->name);
            size_t prompt = (T + 1) / 2;
            fill_nan(logits[m], T * V);
            forward(device, tokens, 0, 0, (int)prompt, (int)prompt, logits[m]);
            for (size_t p = prompt; p < T; p++) forward(device, tokens + p, 0, (int)p, 1, 1, logits[m] + p * V);
            gpt2_cpu.close(device);
        }
        for (size_t j = 0; j < T * V; j++) differ += memcmp(&logits[0][j], &logits[1][j], sizeof(float)) != 0;
        compared += T * V;
    }
    test_check(t, differ == 0 && compared > 0,
               "bf16z, C %d: %zu of %zu logits differ from bf16's, %zu weights are rare", config->channels, differ,
               compared, models[1].packed.num_rare);
    for (int m = 0; m < 2; m++) {
        reference_model_free(&models[m]);
        free(logits[m]);
    }
    free(tokens);
}

// ---------------------------------------------------------------------------------------------------------------------
// what the device refuses, and a checker that can fail

static void test_refusals(Tests* t) {
    Error error;
    GPT2Model model;
    int tokens[8] = {0}, bad_token = 5, slot = 0, bad_slot = 1;
    float logits[40];
    if (!reference_model(&model, &(GPT2Config){8, 5, 5, 1, 1, 4}, DTYPE_F32, 1, &error)) must(NULL, &error);
    Device* device = open_cpu(&model, 1, 1, NULL);
    const struct {
        const char* what;
        TokenRun run;
        int num_logits;
    } cases[] = {
        {"a run past the context", {tokens, &slot, 1, 8, 1}, 1},
        {"a token outside the vocabulary", {&bad_token, &slot, 1, 1, 0}, 1},
        {"a slot that does not exist", {tokens, &bad_slot, 1, 1, 0}, 1},
        {"more logits than tokens", {tokens, &slot, 1, 2, 0}, 3},
        {"no token", {tokens, &slot, 1, 0, 0}, 0},
        {"a negative position", {tokens, &slot, 1, 1, -1}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        error.text[0] = '\0';
        bool refused = !gpt2_cpu.forward(device, &cases[i].run, cases[i].num_logits, logits, &error);
        test_check(t, refused && error.text[0] != '\0', "%s is refused: %s", cases[i].what, error.text);
    }
    gpt2_cpu.close(device);
    reference_model_free(&model);
}

static void test_comparison(Tests* t) {
    const double reference[4] = {1, 4, 2, 3};
    float logits[4] = {1, 4, 2, 3};
    Comparison right = compare_logits(logits, reference, 1, 4, 1e-4);
    logits[3] = 3.001f;
    Comparison off = compare_logits(logits, reference, 1, 4, 1e-4);
    logits[3] = 4.5f;
    Comparison wrong = compare_logits(logits, reference, 1, 4, 2e-2);
    logits[3] = NAN;
    Comparison poisoned = compare_logits(logits, reference, 1, 4, 2e-2);
    test_check(t,
               right.error == 0 && right.argmax_judged == 1 && right.argmax_wrong == 0 && off.error > 1e-4 &&
                   wrong.argmax_wrong == 1 && poisoned.error > 1,
               "the checker of logits accepts equal ones and refuses %.1e, another likeliest token, and NaN",
               off.error);
}

void test_model(Tests* t) {
    test_section("The checker of logits");
    test_comparison(t);
    test_transformers(t);
    test_section("Logits of seeded models of odd shapes against float64");
    for (int i = 0; i < NUM_ODD; i++) {
        for (int dtype = 0; dtype < NUM_DTYPES; dtype++) test_odd_shape(t, &odd_shapes[i], (DType)dtype);
    }
    for (int i = 0; i < NUM_ODD; i++) test_packed(t, &odd_shapes[i]);
    test_section("The same bits for every number of threads, chunking and batch");
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) test_invariance(t, (DType)dtype);
    test_section("What the device refuses");
    test_refusals(t);
}
