// make test-faults: the program, built with dev/faults.c under the address and undefined-behaviour sanitizers, meets
// every fault at every point of several short runs. Each time it must go on as if nothing had been, or end with one
// line and exit status 1: never by a crash, a hang or a leak, with other text than the undisturbed run's, or with a
// half written file. `test_faults PROGRAM [RUN...]`: all runs, or those named.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tests/toy_checkpoint.h"
#include "../utils.h"

enum { SANITIZER_STATUS = 99, KILLED = 1000, HUNG = 2000 };

typedef struct {
    const char* program;
    char directory[256];
    long faults, tolerated, failed; // injected; without effect on the result; judged wrong
} Bench;

// A run of the program, from its directory.
typedef struct {
    const char* name;
    const char* args[24];
    const char* input; // file for standard input, /dev/null when NULL
    const char* file;  // that it writes, or NULL
    bool varies;       // its text holds times, or what is wrong with a device, and so is not compared
    bool has_gpu;      // the host harness's; in all other runs the harness has none
} Run;

static const Run runs[] = {
    {"text", .args = {"-m", "toy.bin", "-p", "a the\xff", "-n", "4", "-t", "1"}},
    {"samples", .args = {"-m", "hf", "--dtype", "q8", "-b", "3", "--temp", "1", "--top-k", "9", "-s", "1", "-t", "1",
                         "-n", "3", "-f", "prompt"}},
    {"json", .args = {"-m", "toy.bin", "--json", "--top", "3", "-n", "2", "-t", "1", "-s", "1"}, .input = "prompt"},
    {"logits", .args = {"-m", "toy.bin", "-p", "the the", "--logits", "logits.npy", "-n", "1", "-q", "-t", "1"},
     .file = "logits.npy"},
    {"converted",
     .args = {"-m", "toy.bin", "-p", "a", "--dtype", "bf16", "--repeat-penalty", "1.5", "-n", "2", "-t", "1", "-v"}},
    {"packed", .args = {"-m", "toy.bin", "-p", "a", "--dtype", "bf16z", "-n", "2", "-t", "1", "-q"}},
    {"image", .args = {"-m", "image.bin", "-T", "toy_tokenizer.bin", "-p", "a", "-n", "2", "-t", "1", "-q"}},
    {"save", .args = {"-m", "toy.bin", "--dtype", "bf16z", "--save", "saved.bin", "-t", "1"}, .file = "saved.bin"},
    {"tokens", .args = {"-m", "toy.bin", "--tokens"}, .input = "prompt"},
    {"top", .args = {"-m", "toy.bin", "-p", "a", "--top", "4", "-q", "-t", "1"}},
    {"shards", .args = {"-m", "sharded", "-T", "toy_tokenizer.bin", "-p", "a", "-n", "2", "-q", "-t", "1"}},
    {"score", .args = {"-m", "toy.bin", "-p", "a the th", "--top", "2", "--all", "-t", "1"}},
    {"perplexity", .args = {"-m", "toy.bin", "--perplexity", "--json", "-t", "1"}, .input = "prompt"},
    {"verify", .args = {"-m", "toy.bin", "--verify", "-p", "a", "-t", "1"}},
    {"reference", .args = {"-m", "toy.bin", "--verify=right.npy", "-p", "a", "-t", "1"}},
    {"info", .args = {"-m", "toy.bin", "--info", "-v"}},
    {"estimate", .args = {"-m", "toy.bin", "--estimate", "-t", "1", "10", "100"}, .varies = true},
    {"profile", .args = {"-m", "toy.bin", "--profile", "-p", "a", "-n", "2", "-t", "1"}, .varies = true},
    {"help", .args = {"--help"}},
    {"devices", .args = {"--list-devices"}},
    {"nothing", .args = {"-m", "missing.bin"}},
    {"gpu", .args = {"-m", "toy.bin", "-p", "th", "-b", "2", "--temp", "1", "-s", "1", "-n", "3", "-t", "1"},
     .has_gpu = true},
    {"gpu-rounds",
     .args = {"-m", "rough.bin", "-T", "toy_tokenizer.bin", "--device", "gpu", "-p", "a the", "-n", "5", "-q", "-t",
              "1"},
     .has_gpu = true},
    {"gpu-devices", .args = {"--list-devices"}, .varies = true, .has_gpu = true},
};

static void in_directory(const Bench* bench, char path[512], const char* name) {
    snprintf(path, 512, "%s/%s", bench->directory, name);
}

static bool is_there(const Bench* bench, const char* name) {
    char path[512];
    in_directory(bench, path, name);
    return access(path, F_OK) == 0;
}

static void discard(const Bench* bench, const char* name) {
    char path[512];
    in_directory(bench, path, name);
    unlink(path);
}

static Bytes content(const Bench* bench, const char* name) {
    char path[512];
    in_directory(bench, path, name);
    Bytes bytes = read_file(path);
    bytes.data[bytes.size] = '\0'; // read_file() leaves room for it
    return bytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// The files that the runs need: a model of random numbers in both formats, and a vocabulary of 258 tokens.

static void make_tokenizers(const Bench* bench) {
    char path[512], vocab[8192];
    unsigned char bin[1024 + 512 + 3 + 14] = {0xc8, 0xd7, 0x34, 1, 2, 0, 0, 0, 2, 1, 0, 0, 1, 1}; // ids 256 and 257
    size_t at = 1024, n = 0;
    int stand_in = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        bin[at++] = 1;
        bin[at++] = (unsigned char)b;
        n += (size_t)snprintf(vocab + n, sizeof vocab - n, "%s\"\\u%04x\":%d", b == 0 ? "{" : ",",
                              (unsigned)(printable ? b : stand_in++), b);
    }
    memcpy(bin + at, "\2th\15<|endoftext|>", 3 + 14);
    snprintf(vocab + n, sizeof vocab - n, ",\"th\":256,\"<|endoftext|>\":257}");
    in_directory(bench, path, "toy_tokenizer.bin");
    write_file(path, bin, sizeof bin);
    in_directory(bench, path, "hf/vocab.json");
    write_file(path, vocab, strlen(vocab));
    in_directory(bench, path, "hf/merges.txt");
    write_file(path, "#version: 0.2\nt h\n", 18);
}

static void put_llmc(const Bench* bench, const char* name, const Toy* toy) {
    char path[512];
    in_directory(bench, path, name);
    Bytes bin = toy_llmc(toy, 3);
    write_file(path, bin.data, bin.size);
    free(bin.data);
}

static void put_image(const Bench* bench, const char* name, const Toy* toy) {
    char path[512];
    in_directory(bench, path, name);
    Bytes image = toy_image(toy, DTYPE_BF16Z);
    write_file(path, image.data, image.size);
    free(image.data);
}

static void make_hf(const Bench* bench, const Toy* toy) {
    static const char* const directories[] = {"hf", "sharded"};
    char path[512], *config = toy_config_json(toy);
    for (int i = 0; i < 2; i++) {
        in_directory(bench, path, directories[i]);
        if (mkdir(path, 0700) != 0) exit(1);
        if (i == 1) free(toy_write_shards(toy, path, 2));
        strcat(path, "/config.json");
        write_file(path, config, strlen(config));
    }
    free(config);
    in_directory(bench, path, "hf/model.safetensors");
    toy_write_safetensors(path, toy, &(SafetensorsStyle){"", {"F32", "F16", "BF16"}, true, true, 0, 1});
}

// A model that always continues with 'z' in f32 and with 'b' in bf16, for which the two are equal and the first is
// taken: lnfb is 1, and their rows of wte are 4 and a little more, far above all others.
static Toy make_rough(GPT2Config shape) {
    Toy toy = toy_make(shape, 4, true);
    float *wte = toy_tensor(&toy, WTE, 0), *scale = toy_tensor(&toy, LNFW, 0), *shift = toy_tensor(&toy, LNFB, 0);
    for (int c = 0; c < shape.channels; c++) {
        wte['b' * shape.channels + c] = 4;
        wte['z' * shape.channels + c] = 4.001f;
        scale[c] = 0.5f; // equal, so that rows of equal numbers get nothing from the normalised residual
        shift[c] = 1;
    }
    return toy;
}

static void make_files(Bench* bench) {
    static const GPT2Config shape = {32, 258, 258, 2, 2, 16};
    char path[512];
    make_directory(bench->directory);
    Toy toy = toy_make(shape, 3, true), rough = make_rough(shape);
    put_llmc(bench, "toy.bin", &toy);
    put_llmc(bench, "rough.bin", &rough);
    put_image(bench, "image.bin", &toy);
    make_hf(bench, &toy);
    in_directory(bench, path, "prompt");
    write_file(path, "the\n", 4);
    make_tokenizers(bench);
    toy_free(&rough);
    toy_free(&toy);
}

// ---------------------------------------------------------------------------------------------------------------------
// One run

static bool is_of_gpu(const char* fault) {
    return strncmp(fault, "gpu", 3) == 0;
}

// The sanitizers' verdict as an exit status, one processor, and the fault: "gpu:N", "gpu-lost:N" are the harness's, all
// others those of dev/faults.c.
static void set_environment(const Run* run, const char* fault) {
    setenv("ASAN_OPTIONS", "exitcode=99:detect_leaks=1:allocator_may_return_null=1", 1);
    setenv("UBSAN_OPTIONS", "exitcode=99", 1);
    setenv("HIP_HOST_DEVICES", run->has_gpu ? "1" : "0", 1);
    cpu_set_t here; // how many cores there are is told by files that the faults hide
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);
    if (fault != NULL && is_of_gpu(fault)) {
        setenv("HIP_HOST_FAIL_CALL", strchr(fault, ':') + 1, 1);
        setenv("HIP_HOST_LOST", strncmp(fault, "gpu-lost:", 9) == 0 ? "1" : "0", 1);
        setenv("HIP_HOST_FAIL_MARK", "mark", 1);
    } else if (fault != NULL) {
        setenv("GPT2_FAULT", fault, 1);
        setenv("GPT2_FAULT_MARK", "mark", 1);
    }
}

static void become_program(const Bench* bench, const Run* run, const char* fault) {
    const char* argv[26] = {bench->program};
    for (int i = 0; run->args[i] != NULL; i++) argv[i + 1] = run->args[i];
    if (chdir(bench->directory) != 0) _exit(98);
    const char* input = run->input != NULL ? run->input : "/dev/null";
    int in = open(input, O_RDONLY), out = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int err = open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(98);
    for (int fd = 3; fd < 32; fd++) close(fd);
    set_environment(run, fault);
    execv(bench->program, (char* const*)argv);
    _exit(98);
}

// Exit status, KILLED + signal, or HUNG. With a signal, that one is sent after so many microseconds.
static int run_program(const Bench* bench, const Run* run, const char* fault, int number, long after) {
    discard(bench, "mark");
    if (run->file != NULL) discard(bench, run->file);
    pid_t pid = fork();
    if (pid == 0) become_program(bench, run, fault);
    int status = 0;
    double deadline = seconds_now() + 60, due = seconds_now() + 1e-6 * (double)after;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (number != 0 && seconds_now() >= due) {
            kill(pid, number);
            number = 0;
        }
        if (seconds_now() > deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return HUNG;
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : KILLED + WTERMSIG(status);
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging it

// What a run leaves when nothing disturbs it.
typedef struct {
    int status;
    Bytes out, file;
} Outcome;

// Is the last line of standard error one of ours that says what failed?
static bool ends_with_message(const char* err) {
    size_t length = strlen(err);
    if (length == 0 || err[length - 1] != '\n') return false;
    const char* line = err + length - 1;
    while (line > err && line[-1] != '\n') line--;
    return strncmp(line, "gpt2: ", 6) == 0 && strlen(line) > 12;
}

// Digits of a JSON report's times and rates change from run to run, so that its text is compared up to them.
static size_t comparable(const Bytes* out) {
    const char* timings = memmem(out->data, out->size, "\"timings\"", 9);
    return timings != NULL ? (size_t)(timings - (const char*)out->data) : out->size;
}

// Does what it prints tell of the whole run, or of several samples, so that it is another where a signal shortens them?
static bool tells_of_itself(const Run* run) {
    for (int i = 0; run->args[i] != NULL; i++) {
        if (strcmp(run->args[i], "--json") == 0 || strcmp(run->args[i], "-b") == 0) return true;
    }
    return false;
}

static bool names_gpu(const Run* run) {
    for (int i = 0; run->args[i] != NULL; i++) {
        if (strcmp(run->args[i], "--device") == 0) return true;
    }
    return false;
}

// What is wrong after an error of the GPU, or NULL: the CPU goes on and the text is the undisturbed one. Only who named
// the GPU may get an error instead, as long as no text has come.
static const char* find_gpu_fault(const Bench* bench, const Run* run, const Outcome* plain, int status) {
    if (status == plain->status) return NULL;
    Bytes out = content(bench, "out");
    bool has_begun = out.size > 0;
    free(out.data);
    return names_gpu(run) && !has_begun ? NULL : "the CPU does not go on";
}

// What is wrong with the text, or NULL.
static const char* find_text_fault(const Run* run, const Outcome* plain, const Bytes* out, int status, int ending) {
    size_t n = comparable(&plain->out), m = comparable(out);
    bool is_prefix = m <= n && memcmp(out->data, plain->out.data, m) == 0;
    if (run->varies) return NULL;
    if (!is_prefix && !(ending != 0 && tells_of_itself(run))) return "other text than undisturbed";
    return status == 0 && m != n ? "text is lost though the exit status is 0" : NULL;
}

// What is wrong with this outcome of a disturbed run, or NULL. `ending` is the status that a signal gives, or 0.
static const char* find_fault(const Bench* bench, const Run* run, const Outcome* plain, int status, int ending) {
    Bytes out = content(bench, "out"), err = content(bench, "err"), file = {0};
    char unfinished[64];
    snprintf(unfinished, sizeof unfinished, "%s.tmp", run->file != NULL ? run->file : "");
    const char* problem = NULL;
    const char* text = find_text_fault(run, plain, &out, status, ending);
    if (run->file != NULL && is_there(bench, run->file)) file = content(bench, run->file);
    if (status == HUNG) problem = "it hangs";
    else if (status == SANITIZER_STATUS || strstr((char*)err.data, "Sanitizer") ||
             strstr((char*)err.data, "runtime error"))
        problem = "the sanitizers complain";
    else if (status >= KILLED && (ending == 0 || status != KILLED + ending - 128)) problem = "it is killed";
    else if (status != plain->status && status != 1 && status != ending && status < KILLED)
        problem = "another exit status";
    else if (text != NULL) problem = text;
    else if (status == 1 && !ends_with_message((char*)err.data)) problem = "no message";
    else if (status == 0 && run->file != NULL && file.data == NULL) problem = "no file though the exit status is 0";
    else if (file.data != NULL &&
             (file.size != plain->file.size || memcmp(file.data, plain->file.data, file.size) != 0))
        problem = "half a file";
    else if (run->file != NULL && is_there(bench, unfinished)) problem = "an unfinished file is left";
    discard(bench, unfinished);
    free(out.data);
    free(err.data);
    free(file.data);
    return problem;
}

static void judge(Bench* bench, const Run* run, const Outcome* plain, const char* fault, int status, int ending) {
    const char* problem = find_fault(bench, run, plain, status, ending);
    if (problem == NULL && is_of_gpu(fault)) problem = find_gpu_fault(bench, run, plain, status);
    bench->faults++;
    bench->tolerated += status == plain->status;
    if (problem == NULL) return;
    bench->failed++;
    Bytes err = content(bench, "err");
    printf("  FAILED %s, %s: %s (status %d); standard error: %.800s\n", run->name, fault, problem, status,
           (char*)err.data);
    free(err.data);
}

static Outcome undisturbed(const Bench* bench, const Run* run) {
    Outcome plain = {.status = run_program(bench, run, NULL, 0, 0)};
    plain.out = content(bench, "out");
    if (run->file != NULL && is_there(bench, run->file)) plain.file = content(bench, run->file);
    return plain;
}

// ---------------------------------------------------------------------------------------------------------------------

// A fault at the 1st, 2nd, ... call, until there are no more calls. Signals come at every call up to the 200th and at
// every 13th behind it: reading JSON makes thousands, all of one kind. With a GPU they come at every 97th: a thousand
// are the host harness's own.
static void inject_all(Bench* bench, const Run* run, const Outcome* plain, const char* kind, int ending) {
    long before = bench->failed, n = 1, tried = 0;
    for (long step = 1;; n += step, tried++) {
        if (ending != 0) step = run->has_gpu ? 97 : n >= 200 ? 13 : 1;
        char fault[64];
        snprintf(fault, sizeof fault, "%s:%ld", kind, n);
        int status = run_program(bench, run, fault, 0, 0);
        if (!is_there(bench, "mark")) break;
        judge(bench, run, plain, fault, status, ending);
    }
    printf("  %-6s %s: %s at %ld of %ld calls\n", bench->failed == before ? "ok" : "FAILED", run->name, kind, tried,
           n - 1);
    fflush(stdout);
}

static void inject_signals(Bench* bench, const Run* run, const Outcome* plain) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    enum { TIMES = 10 };
    long before = bench->failed;
    double start = seconds_now();
    run_program(bench, run, NULL, 0, 0);
    long lasts = (long)(1e6 * (seconds_now() - start));
    unsigned state = 1;
    for (int i = 0; i < 3 * TIMES; i++) {
        state = state * 1103515245u + 12345u;
        char fault[64];
        long after = (long)(state >> 8) % lasts;
        snprintf(fault, sizeof fault, "signal %d after %ld us", numbers[i % 3], after);
        int status = run_program(bench, run, NULL, numbers[i % 3], after);
        judge(bench, run, plain, fault, status, 128 + numbers[i % 3]);
    }
    printf("  %-6s %s: SIGINT, SIGTERM and SIGHUP at %d moments\n", bench->failed == before ? "ok" : "FAILED",
           run->name, 3 * TIMES);
}

// The judge must see what is wrong.
static bool judge_sees(Bench* bench) {
    const Run* run = &runs[0];
    Outcome plain = undisturbed(bench, run);
    Bytes err = content(bench, "err");
    if (plain.status != 0) printf("  the undisturbed run ends with status %d: %s\n", plain.status, (char*)err.data);
    free(err.data);
    bool right = plain.status == 0 && plain.out.size > 5 && find_fault(bench, run, &plain, 0, 0) == NULL;
    bool killed = find_fault(bench, run, &plain, KILLED + SIGSEGV, 0) != NULL;
    bool usage = find_fault(bench, run, &plain, 2, 0) != NULL;
    bool silent = find_fault(bench, run, &plain, 1, 0) != NULL;
    if (plain.out.size > 1) plain.out.data[1] ^= 1;
    bool other = find_fault(bench, run, &plain, 0, 0) != NULL;
    free(plain.out.data);
    bool stopped = find_gpu_fault(bench, run, &plain, 1) != NULL;
    bool sees = right && killed && usage && silent && other && stopped;
    printf(
        "  %-6s the judge accepts an undisturbed run, and refuses a crash, usage, silence, another text, and one that "
        "ends with the GPU\n",
        sees ? "ok" : "FAILED");
    return sees;
}

// Every fault that there is, on one run. Of the calls of a run with a GPU most are the host harness's own, which is not
// what is tested: only the GPU and standard output fail there.
static void try_run(Bench* bench, const Run* run) {
    static const char* const kinds[] = {"memory", "open",   "map",        "stat",       "read",
                                        "file",   "rename", "short-read", "eintr-read", NULL};
    static const char* const gpu_kinds[] = {"gpu", "gpu-lost", NULL};
    static const char* const output_kinds[] = {"write", "short-write", "eintr-write", NULL};
    Outcome plain = undisturbed(bench, run);
    const char* const* of_run = run->has_gpu ? gpu_kinds : kinds;
    for (; *of_run != NULL; of_run++) inject_all(bench, run, &plain, *of_run, 0);
    for (size_t k = 0; output_kinds[k] != NULL; k++) inject_all(bench, run, &plain, output_kinds[k], 0);
    inject_all(bench, run, &plain, "2", 128 + SIGINT);
    inject_all(bench, run, &plain, "15", 128 + SIGTERM);
    inject_signals(bench, run, &plain);
    free(plain.out.data);
    free(plain.file.data);
}

// What the workers share.
typedef struct {
    int next;                       // run that nobody has taken yet
    long faults, tolerated, failed; // of all
} Shared;

// One process per processor takes run after run, each in a directory of its own.
static void work(Shared* shared, const char* program, int num_wanted, char** wanted) {
    static const Run reference = {"", .args = {"-m", "toy.bin", "-p", "a", "--logits", "right.npy", "-n", "0", "-q"}};
    const int num_runs = sizeof runs / sizeof *runs;
    Bench bench = {.program = program};
    make_files(&bench);
    run_program(&bench, &reference, NULL, 0, 0);
    for (int r; (r = __atomic_fetch_add(&shared->next, 1, __ATOMIC_SEQ_CST)) <= num_runs;) {
        bool is_wanted = num_wanted == 0;
        for (int i = 0; r < num_runs && i < num_wanted; i++) is_wanted |= strcmp(wanted[i], runs[r].name) == 0;
        if (r == num_runs) bench.failed += !judge_sees(&bench);
        else if (is_wanted) try_run(&bench, &runs[r]);
    }
    remove_directory(bench.directory);
    __atomic_fetch_add(&shared->faults, bench.faults, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&shared->tolerated, bench.tolerated, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&shared->failed, bench.failed, __ATOMIC_SEQ_CST);
}

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    char* program = realpath(argv[1], NULL);
    Shared* shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (program == NULL || shared == MAP_FAILED) return 2;
    long workers = sysconf(_SC_NPROCESSORS_ONLN);
    for (long i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (pid < 0) return 2;
        if (pid > 0) continue;
        work(shared, program, argc - 2, argv + 2);
        fflush(stdout);
        _exit(0);
    }
    int lost = 0, status;
    while (wait(&status) > 0) lost += status != 0;
    printf("\n%ld faults injected, %ld of them without effect, %ld handled wrongly\n", shared->faults,
           shared->tolerated, shared->failed);
    bool ok = shared->failed == 0 && lost == 0;
    printf("%d passed, %d failed\n", ok, !ok);
    free(program);
    return !ok;
}
