// Rows about the program as a whole: the process from its start to its end, its threads, its tokenizer.
#include <errno.h>
#include <fcntl.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../checkpoint.h"
#include "../processors.h"
#include "../tokenizer.h"
#include "bench.h"
#include "bench_model.h"

enum { PATH_BYTES = 4096 };

// ---------------------------------------------------------------------------------------------------------------------
// the whole process

typedef struct {
    char directory[PATH_BYTES / 2];
    char model[PATH_BYTES], tokenizer[PATH_BYTES];
} Files;

// Removes the files when this process ends, however it ends: a child waits until its pipe to us breaks. Returns our end
// of the pipe, or -1.
static int remove_files_at_end(const Files* files, Error* error) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return fail(error, "pipe: %s", strerror(errno)), -1;
    pid_t pid = fork();
    if (pid < 0) return fail(error, "fork: %s", strerror(errno)), -1;
    if (pid > 0) return close(ends[0]), ends[1];
    char unused;
    setsid(); // an interrupt from the terminal is not for this process
    close(ends[1]);
    while (read(ends[0], &unused, 1) < 0 && errno == EINTR) continue;
    char unfinished[PATH_BYTES + 8];
    snprintf(unfinished, sizeof unfinished, "%s.tmp", files->model);
    unlink(unfinished);
    unlink(files->model);
    unlink(files->tokenizer);
    rmdir(files->directory);
    _exit(0);
}

static bool write_files(const Files* files, const BenchOptions* o, Error* error) {
    GPT2Model model;
    if (!bench_model_random(&model, bench_shape(o->shape), o->dtype, error)) return false;
    bool ok = bench_tokenizer_write(files->tokenizer, model.config.vocab_size, error) &&
              checkpoint_save(&model, files->model, error);
    bench_model_free(&model);
    return ok;
}

// What was written lies in the page cache as it was written. Out of it, the first run reads it as it would after a
// restart of the machine.
static void forget_pages(const char* path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    if (fsync(file) == 0) posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED); // a wish
    close(file);
}

// One run of the program; the first error ends the benchmark.
static ProcessResult run_program(const BenchOptions* o, const Files* files, const char* prompt, const char* n) {
    char threads[16];
    const char* argv[] = {
        o->program, "-m", files->model, "-T",      files->tokenizer,      "-p",           prompt,      "-n",
        n,          "-t", threads,      "--dtype", dtype_names[o->dtype], "--ignore-eos", "--no-echo", NULL};
    ProcessResult result;
    Error error;
    snprintf(threads, sizeof threads, "%d", o->threads);
    if (!process_run(&result, argv, &error)) die(&error);
    free(result.output);
    return result;
}

static double run_peer(const BenchOptions* o, double* megabytes) {
    char command[PATH_BYTES];
    ProcessResult result;
    Error error;
    snprintf(command, sizeof command, "exec %s", o->peer_process);
    if (!process_run(&result, (const char* const[]){"sh", "-c", command, NULL}, &error)) die(&error);
    free(result.output);
    *megabytes = result.peak_megabyte;
    return result.seconds;
}

static void process_twenty(const Bench* b, const Files* files) {
    const BenchOptions* o = b->options;
    Row row = {.name = "process, Hello and 20 tokens", .tokens = 20};
    forget_pages(files->model);
    run_program(o, files, "Hello", "20"); // the file enters the page cache
    for (int i = 0; i < o->repeats; i++) {
        ProcessResult result = run_program(o, files, "Hello", "20");
        times_add(&row.seconds, result.seconds);
        row.megabytes = result.peak_megabyte;
        if (o->peer_process != NULL) times_add(&row.peer, run_peer(o, &row.peer_megabytes));
    }
    if (b->token_seconds > 0) {
        snprintf(row.note, sizeof row.note, "20 token times and %.1f ms",
                 1e3 * (times_median(&row.seconds) - 20 * b->token_seconds));
    }
    bench_report(b, &row);
}

void bench_process(const Bench* b) {
    const BenchOptions* o = b->options;
    const char* base = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    Files files;
    Error error;
    snprintf(files.directory, sizeof files.directory, "%s/gpt2_bench_XXXXXX", base);
    if (mkdtemp(files.directory) == NULL) {
        fail(&error, "%s: %s", files.directory, strerror(errno));
        die(&error);
    }
    snprintf(files.model, sizeof files.model, "%s/random.bin", files.directory);
    snprintf(files.tokenizer, sizeof files.tokenizer, "%s/random_tokenizer.bin", files.directory);
    int pipe_end = remove_files_at_end(&files, &error);
    if (pipe_end < 0 || !write_files(&files, o, &error)) die(&error);
    process_twenty(b, &files);
    Row first = {.name = "start to first token of 5", .tokens = 5};
    for (int i = 0; i < o->repeats; i++) {
        ProcessResult result = run_program(o, &files, "Hello Hello Hello", "1"); // 1 + 2 + 2 tokens
        times_add(&first.seconds, result.first_byte);
        first.megabytes = result.peak_megabyte;
    }
    bench_report(b, &first);
    Row full = {.name = "process, full context", .tokens = bench_shape(o->shape)->max_seq_len};
    ProcessResult result = run_program(o, &files, "Hello", "-1"); // for its memory: once is enough
    times_add(&full.seconds, result.seconds);
    full.megabytes = result.peak_megabyte;
    bench_report(b, &full);
    close(pipe_end);
}

// ---------------------------------------------------------------------------------------------------------------------
// threads

enum { THREAD_COUNTS = 4 };

// Rounds over all thread counts, so that every count sees the same machine.
static void measure_threads(const Bench* b, Device* const* devices, Row* rows) {
    for (int i = 0; i < b->options->repeats; i++) {
        for (int c = 0; c < THREAD_COUNTS; c++) times_add(&rows[c].seconds, bench_decode_seconds(b, devices[c], 0, 20));
    }
}

static void report_threads(const Bench* b, Row* rows, const int* counts, double one_thread, const char* beside) {
    for (int c = 0; c < THREAD_COUNTS; c++) {
        char name[48];
        snprintf(name, sizeof name, "%d thread%s%s", counts[c], counts[c] == 1 ? "" : "s", beside);
        rows[c].name = name;
        rows[c].tokens = 20;
        rows[c].per_second = 1;
        rows[c].unit = "tokens/s";
        snprintf(rows[c].note, sizeof rows[c].note, "%.2f x the time of one thread alone",
                 times_median(&rows[c].seconds) / one_thread);
        bench_report(b, &rows[c]);
    }
}

void bench_threads(const Bench* b) {
    static const int counts[THREAD_COUNTS] = {1, 2, 4, 8};
    Device* devices[THREAD_COUNTS];
    Row alone[THREAD_COUNTS] = {{0}}, beside[THREAD_COUNTS] = {{0}};
    Error error;
    for (int c = 0; c < THREAD_COUNTS; c++) {
        DeviceOptions options = {.max_seq_len = 32, .max_batch = 1, .kernels = b->options->kernels};
        options.num_threads = cpu_threads(counts[c]);
        devices[c] = gpt2_cpu.open(&b->model, &options, &error);
        if (devices[c] == NULL) die(&error);
    }
    measure_threads(b, devices, alone);
    int busy = process_take_core(&error);
    if (busy < 0) die(&error);
    measure_threads(b, devices, beside);
    process_stop(busy);
    double one_thread = times_median(&alone[0].seconds);
    report_threads(b, alone, counts, one_thread, "");
    report_threads(b, beside, counts, one_thread, ", a core taken");
    for (int c = 0; c < THREAD_COUNTS; c++) gpt2_cpu.close(devices[c]);
}

// ---------------------------------------------------------------------------------------------------------------------
// the tokenizer

static char* read_text(const char* path, size_t* length, Error* error) {
    FILE* f = fopen(path, "rb");
    char* text = NULL;
    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || ftell(f) < 0) {
        fail(error, "%s: %s", path, strerror(errno));
    } else {
        *length = (size_t)ftell(f);
        rewind(f);
        text = allocate(*length, 1, path, error);
        if (text != NULL && fread(text, 1, *length, f) != *length) {
            free(text);
            text = NULL;
            fail(error, "%s: cannot be read", path);
        }
    }
    if (f != NULL) fclose(f);
    return text;
}

void bench_tokenizer(const Bench* b) {
    const BenchOptions* o = b->options;
    Error error;
    size_t length, num_tokens = 0;
    Tokenizer* tokenizer = tokenizer_load_bin(o->tokenizer, &error);
    char* text = tokenizer == NULL ? NULL : read_text(o->corpus, &length, &error);
    if (text == NULL) die(&error);
    Row row = {.name = "tokenizer, one thread", .per_second = 1e-6 * (double)length, .unit = "MB/s"};
    for (int i = 0; i < o->repeats; i++) {
        int* tokens;
        double start = seconds_now();
        if (!tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, &error)) die(&error);
        times_add(&row.seconds, seconds_now() - start);
        free(tokens);
    }
    snprintf(row.note, sizeof row.note, "%zu bytes, %zu tokens", length, num_tokens);
    bench_report(b, &row);
    free(text);
    tokenizer_free(tokenizer);
}
