// Looking inside: what --top K --all, --verify, --profile, --estimate and --info are made of, and what they print.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../gpt2_kernels.h"
#include "../npy.h"
#include "../operation_table.h"
#include "../trace.h"
#include "reference.h"
#include "test.h"
#include "toy_checkpoint.h"

static const char MODEL[] = "models/fairytales.bin";

static void must(bool ok, const Error* error) {
    if (ok) return;
    fprintf(stderr, "test_inside: %s\n", error->text);
    exit(1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Costs.

static void test_costs(Tests* t) {
    const GPT2Config small = {1024, 50257, 50304, 12, 12, 768};
    OperationCost qkv = operation_cost(OPERATION_QKV, &small, DTYPE_BF16, (CallShape){1, 64, 0});
    test_check(t, qkv.M == 64 && qkv.N == 2304 && qkv.K == 768 && qkv.flops == 2.0 * 64 * 2304 * 768,
               "qkv of 64 tokens of GPT-2 124M is %.0f x %.0f x %.0f, %.0f operations", qkv.M, qkv.N, qkv.K, qkv.flops);
    // 768 x 2304 weights of 2 bytes, 2304 + 2 x 768 vector elements, 64 rows in and out of 4 bytes
    double bytes = 2.0 * 768 * 2304 + 4.0 * (2304 + 2 * 768) + 4.0 * 64 * (768 + 2304);
    test_check(t, qkv.bytes == bytes, "and moves %.0f bytes", qkv.bytes);
    // queries 0, 1, 2 after 5 positions see 6, 7, 8 keys; each costs 4 C operations
    OperationCost attention = operation_cost(OPERATION_ATTENTION, &small, DTYPE_BF16, (CallShape){2, 3, 5});
    test_check(t, attention.flops == 2 * 4.0 * 768 * (6 + 7 + 8) && attention.N == 7,
               "attention of 2 x 3 tokens after 5 looks at %.0f keys on average, %.0f operations", attention.N,
               attention.flops);
    double weights = 0, activations = 0;
    for (int o = 0; o < NUM_OPERATIONS; o++) {
        OperationCost one = operation_cost((Operation)o, &small, DTYPE_Q8, (CallShape){1, 1, 0});
        OperationCost two = operation_cost((Operation)o, &small, DTYPE_Q8, (CallShape){1, 2, 0});
        double each = two.bytes - one.bytes; // activations grow with the tokens, weights do not
        if (o == OPERATION_EMBED || o == OPERATION_ATTENTION) continue;
        weights += (o == OPERATION_HEAD ? 1 : small.num_layers) * (one.bytes - each);
        activations += each;
    }
    size_t expected = gpt2_bytes_per_token_in(DTYPE_Q8, &small);
    double looked_up = 2.0 * (double)dtype_row_bytes(DTYPE_Q8, 768);
    test_check(t, activations > 0 && weights + looked_up == (double)expected,
               "the weights of all products and the embedding make the %zu bytes of a token", expected);
}

// ---------------------------------------------------------------------------------------------------------------------
// The recording.

static void test_recording(Tests* t) {
    const GPT2Config config = {16, 32, 32, 2, 1, 8};
    const double seconds[3] = {3, 1, 2};
    Profile profile;
    Error error;
    ProfileRow* rows;
    size_t n;
    must(profile_open(&profile, 2, &error), &error);
    for (int i = 0; i < 3; i++) {
        profile_add(&profile, 0, OPERATION_FC, (CallShape){1, 1, i}, seconds[i], 0.5);
        profile_add(&profile, 1, OPERATION_FC, (CallShape){1, 1, i}, seconds[i], 0.1);
    }
    for (int lane = 0; lane < 2; lane++) profile_add(&profile, lane, OPERATION_FC, (CallShape){1, 4, 0}, 7, 0);
    bool ok = profile_rows(&rows, &n, &profile, &config, DTYPE_F32, &error);
    test_check(t, ok && n == 2 && rows[0].calls == 3 && rows[0].seconds == 6 && rows[0].median == 2,
               "calls of 3, 1 and 2 s become a row of %.0f s with the median %.0f s", ok ? rows[0].seconds : 0,
               ok ? rows[0].median : 0);
    test_check(t, ok && fabs(rows[0].waited - 0.9) < 1e-12 && rows[1].cost.M == 4 && rows[1].seconds == 7,
               "the wait is the threads' together in proportion, %.1f s; another number of rows is another row",
               ok ? rows[0].waited : 0);
    free(rows);
    profile_add(&profile, 1, OPERATION_HEAD, (CallShape){1, 1, 0}, 1, 0);
    ok = profile_rows(&rows, &n, &profile, &config, DTYPE_F32, &error);
    test_check(t, !ok, "threads that do not agree are refused: %s", error.text);
    profile_close(&profile);
    const Roof rates = {.bandwidth = 10, .f32 = 100, .products = 1000};
    const ProfileRow slow = {.operation = OPERATION_FC, .cost = {.flops = 500, .bytes = 20}},
                     dense = {.operation = OPERATION_FC, .cost = {.flops = 50000, .bytes = 20}};
    test_check(t, row_roof(&slow, &rates) == 2 && row_roof(&dense, &rates) == 50,
               "the roof is %.0f s by bytes, or %.0f s by arithmetic", row_roof(&slow, &rates),
               row_roof(&dense, &rates));
}

// One forward pass of B sequences of T tokens; logits (B, V) of their last tokens. Returns its seconds.
static double pass(const GPT2Model* model, DeviceOptions options, const int* tokens, int B, int T, float* logits) {
    Error error;
    const int slots[3] = {2, 0, 1};
    options.max_seq_len = model->config.max_seq_len;
    options.max_batch = 3;
    Device* device = gpt2_cpu.open(model, &options, &error);
    must(device != NULL, &error);
    TokenRun run = {.tokens = tokens, .slots = slots, .B = B, .T = T, .position = 0};
    double start = seconds_now();
    must(gpt2_cpu.forward(device, &run, 1, logits, &error), &error);
    double seconds = seconds_now() - start;
    gpt2_cpu.close(device);
    return seconds;
}

static void test_profile_of_a_pass(Tests* t, const GPT2Model* model, const int* tokens) {
    enum { B = 2, T = 140, THREADS = 2 };
    size_t V = (size_t)model->config.vocab_size, L = (size_t)model->config.num_layers, n = 0, expected, calls = 0;
    Error error;
    Profile profile;
    ProfileRow* rows;
    float *plain = allocate(B, V * sizeof *plain, "logits", &error),
          *timed = allocate(B, V * sizeof *timed, "logits", &error);
    must(plain != NULL && timed != NULL && profile_open(&profile, THREADS, &error), &error);
    pass(model, (DeviceOptions){.num_threads = THREADS}, tokens, B, T, plain);
    double wall = pass(model, (DeviceOptions){.num_threads = THREADS, .profile = &profile}, tokens, B, T, timed);
    must(profile_rows(&rows, &n, &profile, &model->config, model->dtype, &error), &error);
    double sum = 0, waited = 0;
    for (size_t r = 0; r < n; r++) sum += rows[r].seconds, waited += rows[r].waited, calls += rows[r].calls;
    test_check(t, memcmp(plain, timed, B * V * sizeof *plain) == 0, "a profile does not change a bit of the logits");
    // 140 tokens of 2 sequences in chunks of at most 256 rows: 70 and 70 tokens. The first has no logits and needs of the
    // last layer the keys and values only.
    expected = (1 + 5 * L - 4) + (1 + 5 * L + 1);
    test_check(t, calls == expected, "two chunks of %d layers are %zu calls (%zu expected)", model->config.num_layers,
               calls, expected);
    test_check(t, sum > 0 && sum <= wall && waited >= 0 && waited <= sum,
               "the operations' %.3f ms, %.3f ms of it waiting, lie within the pass of %.3f ms", 1e3 * sum,
               1e3 * waited, 1e3 * wall);
    free(rows);
    profile_close(&profile);
    free(plain);
    free(timed);
}

// ---------------------------------------------------------------------------------------------------------------------
// The residual stream and its comparison.

static double largest_embedding_error(const GPT2Model* model, const float* residuals, const int* tokens, int T) {
    size_t C = (size_t)model->config.channels;
    float wte[256], wpe[256];
    double worst = 0;
    for (int p = 0; p < T; p++) {
        gpt2_matrix_row(wte, &model->tensors[WTE], (size_t)tokens[p], C);
        gpt2_matrix_row(wpe, &model->tensors[WPE], (size_t)p, C);
        for (size_t c = 0; c < C; c++) {
            double off = fabs((double)wte[c] + (double)wpe[c] - (double)residuals[(size_t)p * C + c]);
            worst = off > worst ? off : worst; // fmax() here stops gcc 12 for aarch64 with an internal error
        }
    }
    return worst;
}

static void test_residuals(Tests* t, const GPT2Model* model, const int* tokens) {
    enum { T = 140 };
    const GPT2Config* c = &model->config;
    size_t C = (size_t)c->channels, L = (size_t)c->num_layers, V = (size_t)c->vocab_size;
    size_t slot = (size_t)c->max_seq_len * C, level = 3 * slot, n = (L + 1) * level; // 3 slots
    Error error;
    float* stream = allocate(n, sizeof *stream, "residuals", &error);
    float *logits = allocate(1, V * sizeof *logits, "logits", &error),
          *cut = allocate(1, V * sizeof *cut, "logits", &error);
    must(stream != NULL && logits != NULL && cut != NULL, &error);
    memset(stream, 0, n * sizeof *stream);
    pass(model, (DeviceOptions){.num_threads = 3, .residuals = stream}, tokens, 1, T, logits);
    const float* first = stream + 2 * slot; // the run is in slot 2
    double apart = largest_embedding_error(model, first, tokens, T);
    test_check(t, apart < 1e-6, "its first level is wte + wpe of all %d positions (%.1e apart)", T, apart);
    size_t outside = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_inside = i % level >= 2 * slot && i % slot < T * C;
        outside += !is_inside && stream[i] != 0;
    }
    test_check(t, outside == 0, "nothing is written for slots and positions that are not run (%zu numbers)", outside);
    // a model cut to its first layers leaves the same stream there
    GPT2Model shorter = *model;
    shorter.config.num_layers = 1;
    float* of_cut = allocate(2 * level, sizeof *of_cut, "residuals", &error);
    must(of_cut != NULL, &error);
    pass(&shorter, (DeviceOptions){.num_threads = 1, .residuals = of_cut}, tokens, 1, T, cut);
    bool same = memcmp(of_cut + level + 2 * slot, stream + level + 2 * slot, T * C * sizeof *stream) == 0;
    test_check(t, same && memcmp(cut, logits, V * sizeof *cut) != 0,
               "level 1 is what a model of one layer hands to its head, bit for bit");
    free(stream), free(of_cut), free(logits), free(cut);
}

// Two runs alike: T = 2 positions, V = 3, C = 2, L = 2.
typedef struct {
    float logits[2][3], residuals[3][2][2];
} TinyTrace;

static Difference compare(const TinyTrace* a, const TinyTrace* b, double tolerance, double* worst_layer) {
    Error error;
    Difference d;
    TinyTrace copies[2] = {*a, *b};
    Trace x = {2, 3, 2, 2, copies[0].logits[0], copies[0].residuals[0][0]}, y = x;
    y.logits = copies[1].logits[0];
    y.residuals = copies[1].residuals[0][0];
    const double tolerances[4] = {tolerance, tolerance, tolerance, tolerance};
    must(trace_compare(&d, &x, &y, tolerances, &error), &error);
    if (worst_layer != NULL) *worst_layer = 0;
    for (int l = 0; l < 3 && worst_layer != NULL; l++) {
        if (d.layers[l].relative > *worst_layer) *worst_layer = d.layers[l].relative;
    }
    free(d.layers);
    d.layers = NULL;
    return d;
}

static void test_comparison(Tests* t) {
    const TinyTrace good = {{{1, 2, 3}, {3, 1, 2}}, {{{3, 4}, {1, 0}}, {{5, 12}, {2, 0}}, {{8, 15}, {4, 3}}}};
    TinyTrace bad = good;
    Difference d = compare(&good, &good, 1e-9, NULL);
    test_check(t, d.first_bad == -1 && d.largest == 0 && d.kl_largest == 0 && d.same_argmax == 2,
               "equal runs differ by nothing");
    bad.logits[1][0] = 1.5f; // of 3, 1, 2: the mean is 2, the largest distance from it 1
    d = compare(&good, &bad, 1e-2, NULL);
    double p[3] = {exp(3), exp(1), exp(2)}, q[3] = {exp(1.5), exp(1), exp(2)}, kl = 0;
    double sp = p[0] + p[1] + p[2], sq = q[0] + q[1] + q[2];
    for (int i = 0; i < 3; i++) kl += p[i] / sp * log(p[i] / sp / (q[i] / sq));
    test_check(t, d.largest == 1.5 && d.relative == 1.5 && d.mean == 0.25 && d.same_argmax == 1 && d.first_bad == 3,
               "a logit that is 1.5 away: relative %.2f, mean %.2f, %d of 2 argmax, first bad after the layers",
               d.relative, d.mean, d.same_argmax);
    test_check(t, fabs(d.kl_largest - kl) < 1e-12 && fabs(d.kl_mean - kl / 2) < 1e-12,
               "its divergence is %.6f nats, as by the definition", d.kl_largest);
    for (int l = 0; l < 3; l++) {
        bad = good;
        bad.residuals[l][1][0] *= 1.1f;
        d = compare(&good, &bad, 1e-2, NULL);
        int loose = compare(&good, &bad, 0.2, NULL).first_bad;
        test_check(t, d.first_bad == l && loose == -1,
                   "a change of 10 %% at level %d is found there (%d), and passes at 20 %%", l, d.first_bad);
    }
    // the first position: after (3, 4) the first layer adds (2, 8) and leaves (5, 12); the other run adds (-2, -8)
    bad = good;
    bad.residuals[1][0][0] = 1, bad.residuals[1][0][1] = -4;
    bad.residuals[2][0][0] = 4, bad.residuals[2][0][1] = -1; // and the second the same as in the good run
    double worst, expected = 2 * sqrt(68) / (sqrt(68) + 13.0 / 16);
    d = compare(&good, &bad, 1, &worst);
    test_check(
        t, d.first_bad == 1 && fabs(worst - expected) < 1e-6,
        "a layer that adds the opposite is %.4f away from what it adds (%.4f); the next, which adds the same, is not",
        worst, expected);
    bad = good;
    bad.residuals[2][1][1] = NAN;
    test_check(t, compare(&good, &bad, 1e9, NULL).first_bad == 2, "a NaN in the stream is beyond every tolerance");
    bad = good;
    bad.logits[0][0] = NAN;
    d = compare(&good, &bad, 1e9, NULL);
    test_check(t, isinf(d.largest) && d.first_bad == 3, "a NaN is infinitely far away");
}

static void test_npy(Tests* t) {
    char directory[256], path[300];
    Error error;
    OutputFile writer;
    const float values[6] = {1, -2, 3, 4.5f, 0, 1e-9f};
    size_t rows = 0, cols = 0;
    make_directory(directory);
    snprintf(path, sizeof path, "%s/a.npy", directory);
    must(npy_open(&writer, path, 2, 3, &error) && output_write(&writer, values, sizeof values, &error) &&
             output_close(&writer, &error),
         &error);
    float* read = npy_read(path, &rows, &cols, &error);
    test_check(t, read != NULL && rows == 2 && cols == 3 && memcmp(read, values, sizeof values) == 0,
               "a .npy file of (2, 3) is read as it was written: (%zu, %zu)", rows, cols);
    free(read);
    Bytes file = read_file(path);
    int refused = 0;
    for (size_t cut = 0; cut < file.size; cut += 7) {
        write_file(path, file.data, cut);
        read = npy_read(path, &rows, &cols, &error);
        refused += read == NULL;
        free(read);
    }
    test_check(t, refused == (int)((file.size + 6) / 7), "cut short anywhere it is refused, %d times: %s", refused,
               error.text);
    memcpy(memmem(file.data, file.size, "<f4", 3), "<f8", 3);
    write_file(path, file.data, file.size);
    test_check(t, npy_read(path, &rows, &cols, &error) == NULL, "numbers of 8 bytes are refused: %s", error.text);
    free(file.data);
    remove_directory(directory);
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

typedef struct {
    int status;
    char out[1 << 16];
} Result;

// Runs the program with arguments as the shell reads them, on one thread.
static const Result* run(const char* arguments) {
    static Result r;
    char command[2048];
    const char* program = getenv("GPT2_PROGRAM");
    snprintf(command, sizeof command, "%s -t 1 %s 2>/dev/null </dev/null", program != NULL ? program : "./gpt2",
             arguments);
    fflush(stdout);
    FILE* pipe = popen(command, "r");
    size_t length = pipe != NULL ? fread(r.out, 1, sizeof r.out - 1, pipe) : 0;
    r.out[length] = '\0';
    int status = pipe != NULL ? pclose(pipe) : -1;
    r.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return &r;
}

// The number behind the n-th "key": of a JSON text, NAN without one.
static double number(const char* text, const char* key, int n) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    while ((text = strstr(text, quoted)) != NULL) {
        text += strlen(quoted);
        if (n-- == 0) return strtod(text, NULL);
    }
    return NAN;
}

static void test_perplexity(Tests* t) {
    FILE* file = fopen("tests/fixtures/perplexity_reference.txt", "r");
    char line[256];
    if (file == NULL) {
        test_skip(t, "tests/fixtures/perplexity_reference.txt is not there");
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        int context, stride, judged;
        double mean, guide;
        char arguments[256];
        if (sscanf(line, "%d %d %d %lf %lf", &context, &stride, &judged, &mean, &guide) != 5) continue;
        snprintf(arguments, sizeof arguments,
                 "-m %s -f tests/fixtures/perplexity.txt --perplexity --ctx %d --stride %d --json", MODEL, context,
                 stride);
        const Result* r = run(arguments);
        double own = number(r->out, "perplexity", 0), own_guide = number(r->out, "perplexity_window_means", 0);
        double judged_here = number(r->out, "judged", 0);
        // where windows adjoin, their first tokens are judged here too, by the window before; the guide leaves them out
        bool is_comparable = judged_here == judged;
        bool ok = r->status == 0 && fabs(own_guide / guide - 1) < 5e-5;
        ok = ok && (!is_comparable ? stride == context : fabs(own / exp(mean) - 1) < 5e-5);
        test_check(t, ok, "context %d, stride %d: perplexity %.5g, by windows %.5g; transformers has %.5g and %.5g",
                   context, stride, own, own_guide, exp(mean), guide);
    }
    fclose(file);
    const Result* r = run("-m models/fairytales.bin -p 'Once upon a time' --top 2 --all --json");
    double sum = 0;
    for (int i = 0; i < 3; i++) sum += number(r->out, "nll", i) / 3;
    test_check(t, r->status == 0 && fabs(sum - number(r->out, "mean_nll", 0)) < 1e-5 && isnan(number(r->out, "nll", 3)),
               "--top 2 --all: the mean of the 3 tokens' -ln is %.6f, as told", sum);
    r = run("-m models/fairytales.bin -p 'Once upon a time' --top 2 --all");
    test_check(t, strstr(r->out, "0 after 'Once': next ' upon'") != NULL && strstr(r->out, ", rank ") != NULL,
               "the table names each token, the one that follows, and its rank");
}

// A copy of the model with the signs of attprojw of one layer turned; an llm.c file of version 5.
static void write_flipped(const char* path, size_t layer) {
    Bytes file = read_file(MODEL);
    const int* header = (const int*)(const void*)file.data;
    const GPT2Config config = {header[2], header[3], header[7], header[4], header[5], header[6]};
    size_t offset = 1024;
    for (int id = 0; id < ATTPROJW; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &config);
        offset += 2 * shape.layers * shape.rows * shape.cols;
    }
    size_t size = (size_t)config.channels * (size_t)config.channels;
    for (size_t i = 0; i < size; i++) file.data[offset + 2 * (layer * size + i) + 1] ^= 0x80;
    write_file(path, file.data, file.size);
    free(file.data);
}

static void test_verify(Tests* t) {
    char directory[256], path[300], arguments[1024];
    const Result* r =
        run("-m models/fairytales.bin -p 'What is nature of our existence?' --layers 2 --dtype f16 --verify");
    test_check(t, r->status == 0 && strstr(r->out, "\nPASSED\n") != NULL && strstr(r->out, "FAILED") == NULL,
               "two layers in f16 against f32: PASSED, exit status %d", r->status);
    r = run("-m models/fairytales.bin --layers 2 --dtype q8 --verify --tolerance 1e-5");
    test_check(t, r->status == 1 && strstr(r->out, "\nFAILED\n") != NULL, "q8 within 1e-5: FAILED, exit status %d",
               r->status);
    make_directory(directory);
    snprintf(path, sizeof path, "%s/flipped.bin", directory);
    write_flipped(path, 3);
    snprintf(arguments, sizeof arguments, "-m %s -T models/fairytales_tokenizer.bin --dtype bf16 --verify=%s", path,
             MODEL);
    r = run(arguments);
    test_check(
        t, r->status == 1 && strstr(r->out, "FAILED, first at layer 3\n") != NULL && strstr(r->out, "PASSED") == NULL,
        "a checkpoint with one flipped matrix against the good one: FAILED, first at layer 3; exit status %d",
        r->status);
    snprintf(arguments, sizeof arguments, "-m %s -T models/fairytales_tokenizer.bin --dtype q8 --verify=%s", path,
             MODEL);
    r = run(arguments);
    test_check(t, r->status == 1 && strstr(r->out, "FAILED, first at layer 3\n") != NULL,
               "so it is with what q8 may round; exit status %d", r->status);
    snprintf(arguments, sizeof arguments, "-m %s -p Once -n 0 --logits %s/good.npy", MODEL, directory);
    run(arguments);
    snprintf(arguments, sizeof arguments, "-m %s -p Once --dtype bf16 --verify=%s/good.npy", MODEL, directory);
    bool good = run(arguments)->status == 0;
    snprintf(arguments, sizeof arguments,
             "-m %s -T models/fairytales_tokenizer.bin -p Once --dtype bf16 --verify=%s/good.npy", path, directory);
    r = run(arguments);
    test_check(t, good && r->status == 1 && strstr(r->out, "\nFAILED\n") != NULL,
               "against the good one's logits file the good one passes, the flipped one fails");
    snprintf(arguments, sizeof arguments, "-m %s -p 'Once upon' --verify=%s/good.npy", MODEL, directory);
    test_check(t, run(arguments)->status == 1, "logits of another prompt are refused");
    remove_directory(directory);
}

// Random numbers as f32, the same rounded to bf16, and with another seed.
static void test_verify_rounding(Tests* t) {
    const GPT2Config config = {32, 4096, 4096, 2, 3, 48};
    char directory[256], arguments[1024];
    const int versions[3] = {3, 5, 5};
    make_directory(directory);
    for (int i = 0; i < 3; i++) {
        char path[300];
        Toy toy = toy_make(config, i < 2 ? 7 : 8, false);
        Bytes file = toy_llmc(&toy, versions[i]);
        snprintf(path, sizeof path, "%s/%d.bin", directory, i);
        write_file(path, file.data, file.size);
        free(file.data);
        toy_free(&toy);
    }
    for (int i = 1; i < 3; i++) {
        snprintf(arguments, sizeof arguments,
                 "-m %s/%d.bin -T models/fairytales_tokenizer.bin -p 'Once upon a time' --verify=%s/0.bin", directory,
                 i, directory);
        const Result* r = run(arguments);
        bool passed = r->status == 0 && strstr(r->out, "FAILED") == NULL;
        bool failed = r->status == 1 && strstr(r->out, "PASSED") == NULL;
        test_check(t, i == 1 ? passed : failed, "%s",
                   i == 1 ? "a checkpoint passes for its rounding to bf16, in every weight type"
                          : "another one does not, in any");
    }
    remove_directory(directory);
}

static void test_profile_and_estimate(Tests* t) {
    const Result* r = run("-m models/fairytales.bin -p 'Once upon a time' -n 3 --profile=json");
    // of the last layer, attention and the three products behind it have rows for the last token of the prompt
    const int rows[2] = {NUM_OPERATIONS + 4, NUM_OPERATIONS};
    for (int phase = 0; phase < 2; phase++) {
        double wall = number(r->out, "wall_ms", phase), operations = number(r->out, "operations_ms", phase);
        double overhead = number(r->out, "overhead_ms", phase), sum = 0, share = 0;
        for (int i = 0; i < rows[phase]; i++) {
            sum += number(r->out, "ms", phase * rows[0] + i);
            share += number(r->out, "share", phase * rows[0] + i);
        }
        bool ok = r->status == 0 && fabs(sum + overhead - wall) < 1e-5 * wall && overhead >= 0;
        test_check(t, ok && fabs(operations - sum) < 1e-5 * wall && fabs(share - operations / wall) < 1e-4,
                   "%s: operations of %.4f ms and an overhead of %.4f ms make the wall time of %.4f ms",
                   phase == 0 ? "prefill" : "decode", sum, overhead, wall);
    }
    double calls = number(r->out, "calls", rows[0] + OPERATION_QKV), profiled[MAX_PASS_PARTS], flops = 0;
    test_check(t, calls == 24, "3 tokens of 8 layers call qkv %.0f times", calls);
    for (int i = 0; i < rows[0]; i++) profiled[i] = number(r->out, "flops", i);
    r = run("-m models/fairytales.bin -p 'Once upon a time' -n 0 --estimate 100 1000 --json");
    int different = 0;
    for (int i = 0; i < rows[0]; i++) different += number(r->out, "flops", i) != profiled[i];
    test_check(t, different == 0, "the estimate of a prompt has the arithmetic of its profile, row by row (%d differ)",
               different);
    double bytes = 0;
    for (int o = 0; o < NUM_OPERATIONS; o++) bytes += number(r->out, "bytes", rows[0] + o);
    double token = number(r->out, "operations_ms", 1), prefill = number(r->out, "operations_ms", 0);
    test_check(t, r->status == 0 && fabs(token - bytes / 100e6) < 1e-5 * token,
               "a token of %.0f bytes at 100 GB/s is estimated at %.4f ms", bytes, token);
    for (int i = 0; i < rows[0]; i++) flops += number(r->out, "flops", i);
    test_check(t, prefill >= flops / 1000e6 && strstr(r->out, "gfx942") != NULL,
               "a prompt of %.0f operations at 1000 GFLOP/s at %.4f ms, no less; known chips follow", flops, prefill);
}

static void test_info(Tests* t) {
    struct stat file;
    const Result* r = run("-m models/fairytales.bin --info -v --json");
    double end = 1024;
    int tensors = 0, adjoining = 0;
    for (; !isnan(number(r->out, "offset", tensors)); tensors++) {
        adjoining += number(r->out, "offset", tensors) == end;
        end = number(r->out, "offset", tensors) + number(r->out, "bytes", tensors);
    }
    bool ok = r->status == 0 && stat(MODEL, &file) == 0 && end == (double)file.st_size;
    test_check(t, ok && tensors == NUM_PARAMETERS && adjoining == tensors,
               "--info: %d tensors, %d of them where the one before ends, reach the end of the file at %.0f", tensors,
               adjoining, end);
    test_check(t, number(r->out, "nan", 0) == 0 && number(r->out, "minimum", 0) < number(r->out, "mean", 0),
               "the first has values from %g to %g", number(r->out, "minimum", 0), number(r->out, "maximum", 0));
    char directory[256], path[300], arguments[512];
    make_directory(directory);
    snprintf(path, sizeof path, "%s/nan.bin", directory);
    Bytes bytes = read_file(MODEL);
    bytes.data[1024] = 0xff, bytes.data[1025] = 0x7f; // the first weight of wte, bf16
    write_file(path, bytes.data, bytes.size);
    free(bytes.data);
    snprintf(arguments, sizeof arguments, "-m %s -T models/fairytales_tokenizer.bin --info -v --json", path);
    r = run(arguments);
    test_check(t, number(r->out, "nan", 0) == 1 && number(r->out, "nan", 1) == 0, "a NaN in wte is counted there");
    snprintf(arguments, sizeof arguments, "-m %s --info --json", path);
    r = run(arguments);
    bool says_none = r->status == 0 && strstr(r->out, "\"tokenizer\": null") != NULL;
    snprintf(arguments, sizeof arguments, "-m %s -p Once --estimate", path);
    test_check(t, says_none && run(arguments)->status == 1,
               "a checkpoint with no tokenizer beside it is described without one; a prompt needs one");
    remove_directory(directory);
}

void test_inside(Tests* t) {
    Error error;
    GPT2Model model;
    static int tokens[280];
    const GPT2Config config = {160, 199, 256, 3, 3, 96};
    test_section("Looking inside: costs, profile, residual stream, comparison");
    test_costs(t);
    test_recording(t);
    must(reference_model(&model, &config, DTYPE_BF16, 5, &error), &error);
    for (int i = 0; i < 280; i++) tokens[i] = (i * 131 + 7) % 199;
    test_profile_of_a_pass(t, &model, tokens);
    test_residuals(t, &model, tokens);
    reference_model_free(&model);
    test_comparison(t);
    test_npy(t);
    const char* program = getenv("GPT2_PROGRAM");
    if (access(program != NULL ? program : "./gpt2", X_OK) != 0 || access(MODEL, R_OK) != 0) {
        test_skip(t, "the program and %s are needed, in the working directory", MODEL);
        return;
    }
    test_section("What the program prints of it");
    test_perplexity(t);
    test_verify(t);
    test_verify_rounding(t);
    test_profile_and_estimate(t);
    test_info(t);
}
