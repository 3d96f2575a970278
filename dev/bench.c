// make bench: what a token and a prompt cost on this machine, beside what its memory and its processor allow.
//
//   bench [options]
//     -t, --threads N        default: physical cores       -r, --repeats N   1 to 99 (9)
//     --dtype f32|bf16|f16|q8|bf16z (bf16)                 --kernels NAME    variant of the kernels
//     --shape 124M|355M|774M|1558M (124M)
//     --rows NAME,NAME...    decode20 decode128 depth512 depth900 prefill64 prefill512 threads process tokenizer; also
//                            depths, a token's time at nine depths, for the plot. Default: all but depths, and
//                            tokenizer when it has its files
//     --json FILE            append every row to FILE, one JSON object per line
//     --program PATH         for the row process (./gpt2)
//     --tokenizer FILE.bin --corpus FILE   for the row tokenizer: GPT-2's tokenizer and a plain text
//     --peer LLAMA_BENCH --peer-model FILE.gguf   llama.cpp's benchmark, alternating with decode and prefill rows, with
//                            the flags that are best for it in each row
//     --peer-process COMMAND a shell command, alternating with the row process
//
// The weights are random, in the shape of GPT-2: speed does not depend on their values. The limits change from minute
// to minute on a shared machine, so they are measured between the repeats of a row, with the same threads: the read
// bandwidth over as many bytes as a token reads, and the peak rate of the prompt's arithmetic. Every figure is a
// median, with the fastest and the slowest behind it; the share of a limit and the comparison with a peer are medians
// of the quotients of what was measured side by side.
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "../cpu_kernels.h"
#include "../processors.h"
#include "bench.h"
#include "bench_model.h"

// ---------------------------------------------------------------------------------------------------------------------
// the report

// What share of `limit`, a rate, was used where each measurement takes `seconds` for `work`: the median of the pairs.
static double median_share(double work, const Times* seconds, const Times* limit) {
    Times least = {.n = 0}; // seconds at the limit
    for (int i = 0; i < limit->n; i++) times_add(&least, work / limit->values[i]);
    return times_median_quotient(&least, seconds);
}

static void print_limit(const Row* row) {
    double seconds = times_median(&row->seconds);
    if (row->bandwidth.n > 0) {
        printf("  %5.1f GB/s, %3.0f %% of %.1f", 1e-9 * row->bytes / seconds,
               100 * median_share(row->bytes, &row->seconds, &row->bandwidth), 1e-9 * times_median(&row->bandwidth));
    }
    if (row->handover.n > 0) printf(", handover %.0f ns", 1e9 * times_median(&row->handover));
    if (row->operations > 0) printf("  %.0f Gop/s", 1e-9 * row->operations / seconds);
    if (row->peak.n > 0) {
        printf(", %.0f %% of %.0f", 100 * median_share(row->operations, &row->seconds, &row->peak),
               1e-9 * times_median(&row->peak));
    }
    if (row->predicted > 0) printf("  predicted %.3f ms", 1e3 * row->predicted);
    if (row->megabytes > 0) printf("  %.0f MB at most", row->megabytes);
    if (row->note[0] != '\0') printf("  %s", row->note);
}

static void print_times(const char* name, const Row* row, const Times* seconds) {
    printf("%-30s", name);
    if (row->per_second > 0) printf(" %8.1f %-8s", row->per_second / times_median(seconds), row->unit);
    else printf(" %17s", "");
    printf(" %9.3f ms [%.3f .. %.3f]", 1e3 * times_median(seconds), 1e3 * times_least(seconds),
           1e3 * times_most(seconds));
}

static void write_times(FILE* json, const char* key, const Times* t) {
    fprintf(json, ", \"%s\": [", key);
    for (int i = 0; i < t->n; i++) fprintf(json, "%s%.9g", i > 0 ? ", " : "", t->values[i]);
    fprintf(json, "]");
}

static void write_json(const Bench* b, const Row* row) {
    const BenchOptions* o = b->options;
    fprintf(b->json, "{\"program\": \"gpt2 " GPT2_VERSION "\", \"row\": \"%s\", \"shape\": \"%s\", \"dtype\": \"%s\"",
            row->name, o->shape, dtype_names[o->dtype]);
    fprintf(b->json, ", \"threads\": %d, \"depth\": %d, \"tokens\": %d, \"rate_of\": %.9g", o->threads, row->depth,
            row->tokens, row->per_second);
    fprintf(b->json, ", \"bytes\": %.0f, \"operations\": %.0f", row->bytes, row->operations);
    fprintf(b->json, ", \"predicted\": %.9g", row->predicted);
    fprintf(b->json, ", \"megabytes\": %.1f, \"peer_megabytes\": %.1f, \"peer_flags\": \"%s\", \"note\": \"%s\"",
            row->megabytes, row->peer_megabytes, row->peer_flags, row->note);
    write_times(b->json, "seconds", &row->seconds);
    write_times(b->json, "bandwidth", &row->bandwidth);
    write_times(b->json, "handover", &row->handover);
    write_times(b->json, "peak", &row->peak);
    write_times(b->json, "peer_seconds", &row->peer);
    fprintf(b->json, "}\n");
    fflush(b->json);
}

void bench_report(const Bench* b, const Row* row) {
    char name[80];
    print_times(row->name, row, &row->seconds);
    print_limit(row);
    printf("\n");
    if (row->peer.n > 0) {
        snprintf(name, sizeof name, "  peer %s", row->peer_flags);
        print_times(name, row, &row->peer);
        if (row->peer_megabytes > 0) printf("  %.0f MB at most", row->peer_megabytes);
        printf("  ours is %.2f x as fast\n", times_median_quotient(&row->peer, &row->seconds));
    }
    fflush(stdout);
    if (b->json != NULL) write_json(b, row);
}

// ---------------------------------------------------------------------------------------------------------------------
// decode and prefill

// Seconds for T tokens in one run at `position`, logits of the last.
static double run_seconds(const Bench* b, Device* device, int position, int T) {
    Error error;
    int slot = 0;
    TokenRun run = {.tokens = b->tokens, .slots = &slot, .B = 1, .T = T, .position = position};
    double start = seconds_now();
    if (!gpt2_cpu.forward(device, &run, 1, b->logits, &error)) die(&error);
    return seconds_now() - start;
}

// After a pause, such as a peer's run, threads and clocks need some time before a run takes what it takes: for tens of
// milliseconds two threads may share a processor.
static void warm_up(const Bench* b, Device* device, int position, int T) {
    const double least = 0.1; // seconds
    double begin = seconds_now();
    do run_seconds(b, device, position, T);
    while (seconds_now() - begin < least);
}

double bench_decode_seconds(const Bench* b, Device* device, int position, int n) {
    double seconds = 0;
    warm_up(b, device, position, 1);
    for (int i = 0; i < n; i++) seconds += run_seconds(b, device, position + i, 1);
    return seconds / n;
}

// Seconds of a pass of T tokens at `position`, as gpt2 --estimate predicts it.
static double predict(const Bench* b, double bandwidth, int position, int T) {
    Roof roof = b->roof;
    roof.bandwidth = bandwidth;
    return pass_roof(&b->model.config, b->model.dtype, (CallShape){.B = 1, .T = T, .position = position}, &roof);
}

// What a token reads that sees so many positions: the weights, and the keys and values of all layers.
static double bytes_read(const Bench* b, double positions) {
    const GPT2Config* c = &b->model.config;
    double cache = 2.0 * c->num_layers * c->channels * positions * (b->model.dtype == DTYPE_F32 ? 4 : 2);
    return (double)gpt2_bytes_per_token(&b->model, b->model.dtype) + cache;
}

// Bytes per second of reading so many, as many as a token does, for the fourth time: what caches hold from one token to
// the next they hold here.
static double read_again(const Bench* b, double bytes) {
    const char* variant = cpu_kernels_select(b->options->kernels)->name;
    for (int i = 0; i < 3; i++) machine_read_rate(variant, b->buffer, (size_t)bytes, 1, b->options->threads);
    return machine_read_rate(variant, b->buffer, (size_t)bytes, 1, b->options->threads);
}

// n tokens decoded at `depth`; the bandwidth and the peer are measured between the repeats.
static void bench_decode(Bench* b, int depth, int n) {
    const BenchOptions* o = b->options;
    char name[48];
    snprintf(name, sizeof name, depth > 0 ? "decode %d at depth %d" : "decode %d from empty", n, depth);
    Row row = {.name = name, .depth = depth, .tokens = n, .per_second = 1, .unit = "tokens/s"};
    row.bytes = bytes_read(b, depth + n / 2.0); // at the middle of the run
    if (o->peer != NULL) peer_choose_flags(o, row.peer_flags, 0, n, depth);
    if (depth > 0) run_seconds(b, b->device, 0, depth);
    for (int i = 0; i < o->repeats; i++) {
        times_add(&row.seconds, bench_decode_seconds(b, b->device, depth, n));
        times_add(&row.bandwidth, read_again(b, row.bytes));
        if (o->threads > 1) times_add(&row.handover, machine_handover());
        if (o->peer != NULL) times_add(&row.peer, peer_seconds(o, row.peer_flags, 0, n, depth));
    }
    row.predicted = predict(b, times_median(&row.bandwidth), depth + n / 2, 1);
    if (depth == 0 && n == 20) b->token_seconds = times_median(&row.seconds);
    bench_report(b, &row);
}

// A token's time from the first position to the last, for the plot.
static void bench_depths(Bench* b, int unused, int n) {
    (void)unused;
    int maxT = b->model.config.max_seq_len;
    for (int i = 0; i <= 8; i++) bench_decode(b, i < 8 ? maxT / 8 * i : maxT - n, n);
}

static void bench_prefill(Bench* b, int unused, int T) {
    (void)unused;
    const BenchOptions* o = b->options;
    const GPT2Config* c = &b->model.config;
    char name[48];
    snprintf(name, sizeof name, "prefill %d", T);
    Row row = {.name = name, .tokens = T, .per_second = T, .unit = "tokens/s"};
    // multiply-adds per token: 12 C² per layer (3 qkv + 1 attproj + 4 fc + 4 fcproj), but 3 C² in the last one for all
    // tokens without logits; attention is not counted
    double square = (double)c->channels * c->channels;
    row.operations = 2 * square * (12.0 * (c->num_layers - 1) * T + 3.0 * T + 9);
    if (o->peer != NULL) peer_choose_flags(o, row.peer_flags, T, 0, 0);
    for (int i = 0; i < o->repeats; i++) {
        warm_up(b, b->device, 0, T);
        times_add(&row.seconds, run_seconds(b, b->device, 0, T));
        times_add(&row.peak, machine_product_rate(cpu_kernels_select(o->kernels)->name, b->model.dtype, o->threads));
        if (o->peer != NULL) times_add(&row.peer, peer_seconds(o, row.peer_flags, T, 0, 0));
    }
    row.predicted = predict(b, read_again(b, bytes_read(b, T)), 0, T);
    bench_report(b, &row);
}

static void call_threads(Bench* b, int unused, int unused_too) {
    (void)unused, (void)unused_too;
    bench_threads(b);
}

// ---------------------------------------------------------------------------------------------------------------------
// rows and options

// Rows that need the model in memory, by the names of --rows.
static const struct {
    const char* name;
    void (*run)(Bench* b, int depth, int n);
    int depth, n;
    bool in_default;
} rows[] = {
    {"decode20", bench_decode, 0, 20, true},     {"decode128", bench_decode, 0, 128, true},
    {"depth512", bench_decode, 512, 20, true},   {"depth900", bench_decode, 900, 20, true},
    {"depths", bench_depths, 0, 8, false},       {"prefill64", bench_prefill, 0, 64, true},
    {"prefill512", bench_prefill, 0, 512, true}, {"threads", call_threads, 0, 0, true},
};

enum { ROWS = sizeof rows / sizeof *rows };

static const char* const rows_without_model[] = {"process", "tokenizer"};

static bool is_listed(const char* list, const char* name) {
    size_t n = strlen(name);
    for (const char* at = list; at != NULL; at = strchr(at, ',') != NULL ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0')) return true;
    }
    return false;
}

static bool is_wanted(const BenchOptions* o, const char* name, bool in_default) {
    return o->rows == NULL ? in_default : is_listed(o->rows, name);
}

static void wrong_usage(const char* what, const char* value) {
    fprintf(stderr, "bench: %s %s; the head of dev/bench.c lists the options\n", what, value);
    exit(2);
}

// Every name in the list must be a row's.
static void check_rows(const char* list) {
    char copy[512];
    if ((size_t)snprintf(copy, sizeof copy, "%s", list) >= sizeof copy) wrong_usage("too many", "--rows");
    for (char* name = strtok(copy, ","); name != NULL; name = strtok(NULL, ",")) {
        bool known = is_listed(name, rows_without_model[0]) || is_listed(name, rows_without_model[1]);
        for (int i = 0; i < ROWS; i++) known = known || strcmp(name, rows[i].name) == 0;
        if (!known) wrong_usage("there is no row", name);
    }
}

static int read_number(const char* option, const char* text, int most) {
    char* end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || n < 1 || n > most) wrong_usage(option, text);
    return (int)n;
}

static DType read_dtype(const char* text) {
    int dtype = 0;
    while (dtype < NUM_DTYPES && strcmp(text, dtype_names[dtype]) != 0) dtype++;
    if (dtype == NUM_DTYPES) wrong_usage("there is no --dtype", text);
    return (DType)dtype;
}

// The options that are kept as they are written, with the place for each.
static const char** text_option(BenchOptions* o, int flag) {
    switch (flag) {
    case 'k': return &o->kernels;
    case 's': return &o->shape;
    case 'R': return &o->rows;
    case 'j': return &o->json;
    case 'g': return &o->program;
    case 'T': return &o->tokenizer;
    case 'c': return &o->corpus;
    case 'p': return &o->peer;
    case 'm': return &o->peer_model;
    case 'P': return &o->peer_process;
    default: return NULL;
    }
}

static void check_options(const BenchOptions* o) {
    bool tokenizer_row = o->rows != NULL && is_listed(o->rows, "tokenizer");
    if (o->rows != NULL) check_rows(o->rows);
    if (bench_shape(o->shape) == NULL) wrong_usage("there is no --shape", o->shape);
    if (o->kernels != NULL && cpu_kernels_select(o->kernels) == NULL) wrong_usage("not here: --kernels", o->kernels);
    if ((o->peer == NULL) != (o->peer_model == NULL)) wrong_usage("--peer and --peer-model", "go together");
    if ((o->tokenizer == NULL) != (o->corpus == NULL)) wrong_usage("--tokenizer and --corpus", "go together");
    if (tokenizer_row && o->corpus == NULL) wrong_usage("--rows tokenizer needs", "--tokenizer and --corpus");
}

static BenchOptions parse_options(int argc, char** argv) {
    BenchOptions o = {
        .threads = cpu_physical_cores(), .repeats = 9, .dtype = DTYPE_BF16, .shape = "124M", .program = "./gpt2"};
    static const struct option flags[] = {{"threads", 1, NULL, 't'},      {"repeats", 1, NULL, 'r'},
                                          {"dtype", 1, NULL, 'd'},        {"kernels", 1, NULL, 'k'},
                                          {"shape", 1, NULL, 's'},        {"rows", 1, NULL, 'R'},
                                          {"json", 1, NULL, 'j'},         {"program", 1, NULL, 'g'},
                                          {"tokenizer", 1, NULL, 'T'},    {"corpus", 1, NULL, 'c'},
                                          {"peer", 1, NULL, 'p'},         {"peer-model", 1, NULL, 'm'},
                                          {"peer-process", 1, NULL, 'P'}, {0}};
    for (int flag; (flag = getopt_long(argc, argv, "t:r:", flags, NULL)) != -1;) {
        switch (flag) {
        case 't': o.threads = read_number("--threads", optarg, 256); break;
        case 'r': o.repeats = read_number("--repeats", optarg, MAX_REPEATS); break;
        case 'd': o.dtype = read_dtype(optarg); break;
        case '?': exit(2); // getopt_long has said why
        default: *text_option(&o, flag) = optarg;
        }
    }
    if (optind < argc) wrong_usage("what is", argv[optind]);
    check_options(&o);
    return o;
}

// ---------------------------------------------------------------------------------------------------------------------

static void bench_open(Bench* b) {
    const BenchOptions* o = b->options;
    Error error;
    if (!bench_model_random(&b->model, bench_shape(o->shape), o->dtype, &error)) die(&error);
    const GPT2Config* c = &b->model.config;
    DeviceOptions options = {
        .max_seq_len = c->max_seq_len, .max_batch = 1, .num_threads = o->threads, .kernels = o->kernels};
    b->device = gpt2_cpu.open(&b->model, &options, &error);
    b->logits = allocate((size_t)c->vocab_size, sizeof *b->logits, "logits", &error);
    b->tokens = allocate((size_t)c->max_seq_len, sizeof *b->tokens, "tokens", &error);
    b->buffer = machine_read_buffer((size_t)bytes_read(b, c->max_seq_len), &error);
    if (b->device == NULL || b->logits == NULL || b->tokens == NULL || b->buffer == NULL) die(&error);
    for (int i = 0; i < c->max_seq_len; i++) b->tokens[i] = (int)((unsigned)i * 7919u % (unsigned)c->vocab_size);
    printf("GPT-2 %s, %s weights, %s; %.1f MB per token; medians of %d [fastest .. slowest]\n", o->shape,
           dtype_names[o->dtype], gpt2_cpu.describe(b->device), 1e-6 * bytes_read(b, 0), o->repeats);
    Times f32 = {.n = 0}, products = {.n = 0};
    for (int i = 0; i < o->repeats; i++) {
        const char* variant = cpu_kernels_select(o->kernels)->name;
        times_add(&f32, machine_f32_rate(variant, o->threads));
        times_add(&products, machine_product_rate(variant, o->dtype, o->threads));
    }
    b->roof = (Roof){.f32 = times_median(&f32), .products = times_median(&products), .attention = times_median(&f32)};
    printf("peak rates: f32 %.0f, products with %s weights %.0f Gop/s\n", 1e-9 * b->roof.f32, dtype_names[o->dtype],
           1e-9 * b->roof.products);
}

static void bench_close(Bench* b) {
    gpt2_cpu.close(b->device);
    bench_model_free(&b->model);
    free(b->logits);
    free(b->tokens);
    free(b->buffer);
}

int main(int argc, char** argv) {
    BenchOptions options = parse_options(argc, argv);
    Bench b = {.options = &options};
    if (options.json != NULL && (b.json = fopen(options.json, "a")) == NULL) {
        return fprintf(stderr, "bench: %s: %s\n", options.json, strerror(errno)), 1;
    }
    bool needs_model = false;
    for (int i = 0; i < ROWS; i++) needs_model = needs_model || is_wanted(&options, rows[i].name, rows[i].in_default);
    if (needs_model) {
        bench_open(&b);
        for (int i = 0; i < ROWS; i++) {
            if (is_wanted(&options, rows[i].name, rows[i].in_default)) rows[i].run(&b, rows[i].depth, rows[i].n);
        }
        bench_close(&b);
    }
    if (is_wanted(&options, "process", true)) bench_process(&b);
    if (is_wanted(&options, "tokenizer", options.corpus != NULL)) bench_tokenizer(&b);
    if (b.json != NULL && fclose(b.json) != 0)
        return fprintf(stderr, "bench: %s: %s\n", options.json, strerror(errno)), 1;
    return 0;
}
