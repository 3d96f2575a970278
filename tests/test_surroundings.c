// The program at its limits and where its surroundings fail: small memory, odd names, odd places, endless input, slow
// readers, damaged weights. ./gpt2 (or $GPT2_PROGRAM) is run on models of random numbers made here.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kfd.h"
#include "../utils.h"
#include "test.h"
#include "toy_checkpoint.h"

typedef struct {
    Tests* t;
    char program[4096];
    char directory[256]; // holds toy.bin and toy_tokenizer.bin; the program is started here
} Limits;

// How the program is started beside its arguments.
typedef struct {
    const char* program;   // instead of the one under test
    const char* directory; // working directory
    const char* input;     // file for standard input
    const char* set[3];    // NAME=value for the environment
    size_t address_space;  // limit in bytes, 0: none
    size_t file_size;      // limit in bytes, 0: none
    int slow;              // standard output is a pipe read in so many pieces with pauses; -1: and it does not block
    bool is_nobody;        // as another user
    const char* output;    // file for standard output
} Setting;

typedef struct {
    int status; // exit status; 1000 + signal when killed
    double seconds;
    long kilobytes; // at most resident
    size_t length;
    char out[1 << 12];
    char err[1 << 12];
    unsigned long long hash; // of all of standard output
} Outcome;

static const char* path_in(const Limits* l, const char* name, char path[512]) {
    snprintf(path, 512, "%s/%s", l->directory, name);
    return path;
}

static void limit(int resource, size_t bytes) {
    struct rlimit r = {bytes, bytes};
    if (bytes > 0 && setrlimit(resource, &r) != 0) _exit(98);
}

static void become_program(const Limits* l, const Setting* s, const char* const* args, int out, int err) {
    int in = open(s->input != NULL ? s->input : "/dev/null", O_RDONLY);
    if (s->output != NULL) out = open(s->output, O_WRONLY | O_CREAT, 0600);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(98);
    for (int fd = 3; fd < 32; fd++) close(fd);
    if (chdir(s->directory != NULL ? s->directory : l->directory) != 0) _exit(98);
    for (int i = 0; i < 3 && s->set[i] != NULL; i++) putenv((char*)s->set[i]);
    if (s->is_nobody && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(98);
    const char* program = s->program != NULL ? s->program : l->program;
    const char* argv[40] = {"gpt2", "-t", "1"}; // one thread, unless another -t follows
    for (int i = 0; i < 36 && args[i] != NULL; i++) argv[i + 3] = args[i];
    limit(RLIMIT_FSIZE, s->file_size);
    limit(RLIMIT_AS, s->address_space);
    execv(program, (char* const*)argv);
    _exit(98);
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

// Takes what comes out of the pipe to its end, in pieces with pauses; the first bytes of it into o->out.
static void drain(int fd, int pieces, Outcome* o) {
    static char bytes[1 << 16];
    size_t held = 0;
    o->hash = 0xcbf29ce484222325u;
    for (ssize_t n; (n = read(fd, bytes, pieces != 0 ? 4096 : sizeof bytes)) > 0;) {
        size_t keep = sizeof o->out - 1 - held;
        if (keep > (size_t)n) keep = (size_t)n;
        memcpy(o->out + held, bytes, keep);
        held += keep;
        o->length += (size_t)n;
        for (ssize_t i = 0; i < n; i++) o->hash = (o->hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
        if (pieces != 0 && o->length < (1 << 18)) sleep_ms(1);
    }
    o->out[held] = '\0';
}

static Outcome run_set(const Limits* l, Setting s, const char* const* args) {
    Outcome o = {.status = -1};
    int ends[2];
    char path[512];
    struct rusage usage;
    double start = seconds_now();
    if (pipe(ends) != 0) return o;
    if (s.slow < 0) fcntl(ends[1], F_SETFL, O_NONBLOCK);
    int err = open(path_in(l, "err", path), O_RDWR | O_CREAT | O_TRUNC, 0600), status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) become_program(l, &s, args, ends[1], err);
    close(ends[1]);
    drain(ends[0], s.slow, &o);
    close(ends[0]);
    if (wait4(pid, &status, 0, &usage) != pid) return o;
    ssize_t n = pread(err, o.err, sizeof o.err - 1, 0);
    o.err[n > 0 ? n : 0] = '\0';
    close(err);
    o.seconds = seconds_now() - start;
    o.kilobytes = usage.ru_maxrss;
    o.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return o;
}

#define RUN(l, ...)        run_set(l, (Setting){0}, (const char*[]){__VA_ARGS__, NULL})
#define RUN_SET(l, s, ...) run_set(l, (Setting)s, (const char*[]){__VA_ARGS__, NULL})
#define SET(...)                                                                                                       \
    { __VA_ARGS__ }

// The last line of standard error, for "%.*s".
static const char* last_line(const char* err) {
    size_t n = strlen(err);
    while (n > 0 && err[n - 1] == '\n') n--;
    while (n > 0 && err[n - 1] != '\n') n--;
    return err + n;
}

#define LAST_LINE(text) (int)strcspn(last_line(text), "\n"), last_line(text)

// Did it fail, with a line of ours that holds `part`?
static bool fails_with(const Outcome* o, int status, const char* part) {
    const char* line = last_line(o->err);
    return o->status == status && strncmp(line, "gpt2: ", 6) == 0 && strstr(line, part) != NULL;
}

static bool same_text(const Outcome* a, const Outcome* b) {
    return a->status == 0 && b->status == 0 && a->length == b->length && a->hash == b->hash;
}

#if defined(__clang__) && defined(_OPENMP)
#define LLVM_OPENMP 1
#else
#define LLVM_OPENMP 0
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Models

// 256 single bytes, then numbered tokens "<a>", "<b>", ..., then <|endoftext|>.
static void write_tokenizer(const Limits* l, const char* name, int V) {
    char path[512], token[16];
    unsigned char* file = calloc(1024 + 512 + 16 * (size_t)V, 1);
    if (file == NULL) exit(1);
    const int32_t header[4] = {20240328, 2, V, V - 1};
    memcpy(file, header, sizeof header);
    size_t at = 1024;
    for (int id = 0; id < V; id++) {
        int n = id < 256     ? 1
                : id < V - 1 ? snprintf(token, sizeof token, "<%x>", (unsigned)id)
                             : snprintf(token, sizeof token, "<|endoftext|>");
        if (id < 256) token[0] = (char)id;
        file[at++] = (unsigned char)n;
        memcpy(file + at, token, (size_t)n);
        at += (size_t)n;
    }
    write_file(path_in(l, name, path), file, at);
    free(file);
}

static void write_model(const Limits* l, const char* name, const Toy* toy, int version) {
    char path[512];
    Bytes bytes = toy_llmc(toy, version);
    write_file(path_in(l, name, path), bytes.data, bytes.size);
    free(bytes.data);
}

static const GPT2Config toy_config = {64, 260, 260, 2, 2, 32};

// ---------------------------------------------------------------------------------------------------------------------
// Every option with every kind of value

typedef enum { TAKES_NOTHING, TAKES_TEXT, TAKES_COUNT, TAKES_NATURAL, TAKES_REAL, TAKES_SEED, TAKES_WORD } Takes;

typedef struct {
    const char* name;
    Takes takes;
    const char* right; // a value that is right
} Flag;

static const Flag flags[] = {
    {"model", TAKES_TEXT, "toy.bin"},
    {"tokenizer", TAKES_TEXT, "x"},
    {"prompt", TAKES_TEXT, "a"},
    {"file", TAKES_TEXT, "x"},
    {"logits", TAKES_TEXT, "x.npy"},
    {"n-predict", TAKES_COUNT, "3"},
    {"samples", TAKES_NATURAL, "2"},
    {"threads", TAKES_NATURAL, "2"},
    {"layers", TAKES_NATURAL, "1"},
    {"ctx", TAKES_NATURAL, "9"},
    {"top", TAKES_NATURAL, "2"},
    {"top-k", TAKES_COUNT, "2"},
    {"temp", TAKES_REAL, "0.5"},
    {"top-p", TAKES_REAL, "0.5"},
    {"min-p", TAKES_REAL, "0.5"},
    {"repeat-penalty", TAKES_REAL, "1.5"},
    {"seed", TAKES_SEED, "7"},
    {"device", TAKES_WORD, "cpu"},
    {"dtype", TAKES_WORD, "q8"},
    {"json", TAKES_NOTHING, NULL},
    {"ignore-eos", TAKES_NOTHING, NULL},
    {"no-echo", TAKES_NOTHING, NULL},
    {"quiet", TAKES_NOTHING, NULL},
    {"verbose", TAKES_NOTHING, NULL},
    {"tokens", TAKES_NOTHING, NULL},
    {"cpu-logits", TAKES_NOTHING, NULL},
    {"list-devices", TAKES_NOTHING, NULL},
};

typedef enum { EMPTY, HUGE_NUMBER, NEGATIVE, NOT_A_NUMBER, RIGHT, REPEATED, NUM_TRIALS } Trial;

// Is the value of this trial one that the option takes?
static bool is_taken(const Flag* flag, Trial trial) {
    if (flag->takes == TAKES_NOTHING) return trial == RIGHT || trial == REPEATED;
    if (flag->takes == TAKES_TEXT || trial == RIGHT || trial == REPEATED) return true;
    // -1 is a count of "all there is room for", and a seed of the clock's
    return trial == NEGATIVE && (flag->takes == TAKES_SEED || strcmp(flag->name, "n-predict") == 0);
}

// --FLAG=VALUE --version: the version and exit status 0 where the value is taken, else one line that names the flag.
static bool try_flag(const Limits* l, const Flag* flag, Trial trial) {
    static const char* const values[] = {"", "99999999999999999999999", "-1", "zero", NULL, NULL};
    char argument[128];
    const char* value = values[trial] != NULL ? values[trial] : flag->right;
    if (value != NULL) snprintf(argument, sizeof argument, "--%s=%s", flag->name, value);
    else snprintf(argument, sizeof argument, "--%s", flag->name);
    Outcome o = trial == REPEATED ? RUN(l, argument, argument, "--version") : RUN(l, argument, "--version");
    char name[64];
    snprintf(name, sizeof name, "--%s", flag->name);
    bool ok = is_taken(flag, trial) ? o.status == 0 && strncmp(o.out, "gpt2 ", 5) == 0 && o.err[0] == '\0'
                                    : fails_with(&o, 2, name) && o.length == 0 && last_line(o.err) == o.err;
    if (!ok) test_check(l->t, false, "%s: exit status %d: %.*s", argument, o.status, LAST_LINE(o.err));
    return ok;
}

static void test_flag_table(const Limits* l) {
    int right = 0, tried = 0;
    size_t n = sizeof flags / sizeof *flags;
    for (size_t i = 0; i < n; i++) {
        for (int trial = 0; trial < NUM_TRIALS; trial++, tried++) right += try_flag(l, &flags[i], (Trial)trial);
        if (flags[i].takes == TAKES_NOTHING) continue;
        char name[64];
        snprintf(name, sizeof name, "--%s", flags[i].name);
        Outcome o = RUN(l, name); // the value is absent
        tried++;
        right += fails_with(&o, 2, name) && fails_with(&o, 2, "needs a value");
    }
    test_check(
        l->t, right == tried,
        "%zu options, each with a value that is absent, empty, huge, negative, no number, right, or given twice: "
        "%d of %d answers are right",
        n, right, tried);
}

// ---------------------------------------------------------------------------------------------------------------------
// Damaged weights reach the logits

static void test_damaged_weights(const Limits* l) {
    static const char* const runs[] = {"-n3", "--dtype=q8", "--perplexity", "--profile", "--verify"};
    enum { RUNS = sizeof runs / sizeof *runs };
    Toy toy = toy_make(toy_config, 7, true);
    Outcome plain = RUN(l, "-m", "toy.bin", "-p", "ab", "-n", "3", "-q");
    int right = 0, n = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy_config);
        for (int i = 0; i < 2; i++) {
            float* weight = toy_tensor(&toy, (ParameterId)id, 0);
            float kept = *weight;
            *weight = i == 0 ? __builtin_nanf("") : __builtin_inff();
            write_model(l, "damaged.bin", &toy, 3);
            *weight = kept;
            char expected[64];
            snprintf(expected, sizeof expected, "%s holds", shape.name);
            for (int r = 0; r < RUNS; r++, n++) {
                Outcome o = RUN(l, "-m", "damaged.bin", "-T", "toy_tokenizer.bin", "-p", "ab", "-q", runs[r]);
                bool is_named = fails_with(&o, 1, expected) && o.length == 0;
                right += is_named;
                if (!is_named || n == 0) printf("         %s, %s: %.*s\n", shape.name, runs[r], LAST_LINE(o.err));
            }
        }
    }
    test_check(
        l->t, right == n && plain.status == 0,
        "a NaN or an infinity in any tensor ends a text, in bf16 or q8, a score, a profile and --verify with its "
        "name: %d of %d",
        right, n);
    float* weight = toy_tensor(&toy, LNFW, 0);
    float kept = *weight;
    *weight = 3e38f;
    write_model(l, "damaged.bin", &toy, 3);
    *weight = kept;
    Outcome o = RUN(l, "-m", "damaged.bin", "-T", "toy_tokenizer.bin", "-p", "ab", "--logits", "damaged.npy");
    char path[512];
    test_check(l->t,
               fails_with(&o, 1, "too large") && access(path_in(l, "damaged.npy", path), F_OK) != 0 &&
                   access(path_in(l, "damaged.npy.tmp", path), F_OK) != 0,
               "weights that are too large say so, and leave no file of logits: %.*s", LAST_LINE(o.err));
    toy_free(&toy);
}

// ---------------------------------------------------------------------------------------------------------------------
// Targets of --logits that are no place for a file

#define LOGITS(l, target) RUN(l, "-m", "toy.bin", "-p", "a", "-n", "1", "-q", "--logits", target)

static void test_odd_targets(const Limits* l) {
    char path[512], name[512];
    struct stat info;
    mkdir(path_in(l, "directory.npy", path), 0700);
    if (mkfifo(path_in(l, "pipe.npy", path), 0600) != 0 || symlink("/dev/null", path_in(l, "null.npy", path)) != 0)
        return;
    static const struct {
        const char *target, *said;
    } cases[] = {{"directory.npy", "is a directory"},  {"pipe.npy", "is a pipe"},
                 {"null.npy", "is a device"},          {"toy.bin", "no .npy file"},
                 {"no/such.npy", "cannot be created"}, {"/dev/full", "is a device"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Outcome o = LOGITS(l, cases[i].target);
        test_check(l->t, fails_with(&o, 1, cases[i].said) && o.length == 0, "--logits %s: %.*s", cases[i].target,
                   LAST_LINE(o.err));
    }
    if (symlink("no_such_file", path_in(l, "nothing.npy", path)) != 0 ||
        symlink("loop.npy", path_in(l, "loop.npy", name)) != 0)
        return;
    Outcome nothing = LOGITS(l, "nothing.npy"), loop = LOGITS(l, "loop.npy");
    bool are_links =
        lstat(path, &info) == 0 && S_ISLNK(info.st_mode) && lstat(name, &info) == 0 && S_ISLNK(info.st_mode);
    test_check(l->t,
               fails_with(&nothing, 1, "is a link to nothing") && fails_with(&loop, 1, "symbolic links") && are_links,
               "nor are links that lead to nothing or to themselves replaced: %.*s", LAST_LINE(nothing.err));
    bool is_kept = stat("/dev/full", &info) != 0 || S_ISCHR(info.st_mode);
    is_kept = is_kept && stat(path_in(l, "toy.bin", path), &info) == 0 && info.st_size > 10000;
    test_check(l->t, is_kept, "what stood there stands there still");
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    Outcome o = LOGITS(l, name);
    test_check(l->t, fails_with(&o, 1, "too long"), "a name of %zu bytes: exit status %d", strlen(name), o.status);
    write_file(path_in(l, "busy.npy.tmp", path), "another's", 9);
    o = LOGITS(l, "busy.npy");
    test_check(l->t, fails_with(&o, 1, "is there already") && stat(path, &info) == 0 && info.st_size == 9,
               "another's unfinished file is left alone: %.*s", LAST_LINE(o.err));
    path_in(l, "real.npy", path);
    write_file(path, "", 0);
    if (symlink("real.npy", path_in(l, "link.npy", name)) != 0) return;
    o = LOGITS(l, "link.npy");
    bool ok = o.status == 0 && stat(path, &info) == 0 && info.st_size > 128 && lstat(name, &info) == 0;
    test_check(l->t, ok && S_ISLNK(info.st_mode), "through a link the file that it names is written");
    write_file(path_in(l, "out.npy", path), "", 0);
    o = RUN_SET(l, SET(.output = path), "-m", "toy.bin", "-p", "a", "-n", "1", "-q", "--logits", "out.npy");
    test_check(l->t, fails_with(&o, 1, "standard output"), "text and logits do not go into one file: %.*s",
               LAST_LINE(o.err));
#if LLVM_OPENMP
    test_skip(l->t, "LLVM's OpenMP writes a file of its own at the start: no limit of file sizes");
#else
    o = RUN_SET(l, SET(.file_size = 600), "-m", "toy.bin", "-p", "a", "-n", "1", "-q", "--logits", "limited.npy");
    ok = fails_with(&o, 1, "cannot be written") && access(path_in(l, "limited.npy", path), F_OK) != 0;
    test_check(l->t, ok && access(path_in(l, "limited.npy.tmp", path), F_OK) != 0,
               "beyond the limit of file sizes (ulimit -f): %.*s", LAST_LINE(o.err));
    o = RUN_SET(l, SET(.file_size = 600), "-m", "toy.bin", "--dtype", "q8", "--save", "limited.bin");
    ok = fails_with(&o, 1, "cannot be written") && access(path_in(l, "limited.bin", path), F_OK) != 0;
    test_check(l->t, ok && access(path_in(l, "limited.bin.tmp", path), F_OK) != 0, "a model saved beyond it: %.*s",
               LAST_LINE(o.err));
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Prompts without end

static void test_endless_prompts(const Limits* l) {
    char path[512];
    write_file(path_in(l, "gigabyte", path), "", 0);
    if (truncate(path, (off_t)1 << 30) != 0) return;
    static const char* const files[] = {"gigabyte", "/dev/zero"};
    for (size_t i = 0; i < 2; i++) {
        Outcome o = RUN(l, "-m", "toy.bin", "-q", "-f", files[i]);
        test_check(l->t, fails_with(&o, 1, "more than 64 tokens") && o.seconds < 20 && o.kilobytes < 1 << 20,
                   "-f %s is refused after %.2f s and with %ld MB: %.*s", files[i], o.seconds, o.kilobytes >> 10,
                   LAST_LINE(o.err));
        o = RUN_SET(l, SET(.input = files[i][0] == '/' ? files[i] : path), "-m", "toy.bin", "--tokens");
        test_check(l->t, fails_with(&o, 1, "more than") && o.seconds < 20 && o.kilobytes < 1 << 20,
                   "and by --tokens from standard input after %.2f s", o.seconds);
    }
    unlink(path);
    if (mkfifo(path_in(l, "silent", path), 0600) != 0) return;
    fflush(stdout);
    pid_t pid = fork();
    int err = open(path_in(l, "err", path), O_RDWR | O_CREAT | O_TRUNC, 0600), status = 0;
    if (pid == 0) become_program(l, &(Setting){0}, (const char*[]){"-m", "toy.bin", "-f", "silent", NULL}, err, err);
    struct stat info = {0};
    for (double end = seconds_now() + 10; info.st_size == 0 && seconds_now() < end; sleep_ms(5)) fstat(err, &info);
    char text[256] = "";
    if (pread(err, text, sizeof text - 1, 0) < 0) text[0] = '\0';
    kill(pid, SIGTERM);
    waitpid(pid, &status, 0);
    close(err);
    test_check(l->t, strstr(text, "waiting for the prompt on silent") != NULL && WIFSIGNALED(status),
               "a pipe that nobody writes into says what it waits for, and SIGTERM ends it");
}

// ---------------------------------------------------------------------------------------------------------------------
// Slow readers

static void test_slow_readers(const Limits* l) {
    enum { SIZE = 100000 };
    static char text[SIZE];
    char path[512];
    for (int i = 0; i < SIZE; i++) text[i] = (char)(' ' + i * 31 % 90);
    write_file(path_in(l, "long", path), text, SIZE);
    Outcome fast = RUN(l, "-m", "toy.bin", "--tokens", "-f", "long");
    Outcome slow = RUN_SET(l, SET(.slow = 1), "-m", "toy.bin", "--tokens", "-f", "long");
    Outcome odd = RUN_SET(l, SET(.slow = -1), "-m", "toy.bin", "--tokens", "-f", "long");
    test_check(l->t, fast.length > SIZE && same_text(&fast, &slow), "a slow pipe gets all of %zu bytes", slow.length);
    test_check(l->t, same_text(&fast, &odd), "and so does one that another program has made non-blocking (%zu)",
               odd.length);
    fast.hash++;
    test_check(l->t, !same_text(&fast, &slow), "one byte less would be seen");
}

// ---------------------------------------------------------------------------------------------------------------------
// The largest of everything

static void test_largest(const Limits* l) {
    static const struct {
        const char* what;
        GPT2Config config;
    } models[] = {
        {"2^20 positions", {1 << 20, 260, 260, 1, 1, 1}},
        {"4096 layers", {8, 260, 260, 4096, 1, 1}},
        {"100,000 tokens", {16, 100000, 100000, 1, 2, 4}},
        {"1024 heads of one channel", {16, 260, 260, 1, 1024, 1024}},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        Toy toy = toy_make(models[i].config, 5, true);
        write_model(l, "large.bin", &toy, 3);
        write_tokenizer(l, "large_tokenizer.bin", models[i].config.vocab_size);
        toy_free(&toy);
        Outcome o = RUN(l, "-m", "large.bin", "-p", "ab", "-n", "2", "-q", "--ignore-eos");
        test_check(l->t, o.status == 0 && o.length >= 4 && o.kilobytes < 1 << 19,
                   "a model with %s runs: %.2f s, %ld MB %.*s", models[i].what, o.seconds, o.kilobytes >> 10,
                   LAST_LINE(o.err));
    }
    Outcome one = RUN(l, "-m", "toy.bin", "-p", "a", "-n", "2", "-q", "--ignore-eos");
    Outcome o =
        RUN(l, "-m", "toy.bin", "-p", "a", "-n", "2", "-q", "-b", "1024", "--ignore-eos", "--temp", "1", "-s", "1");
    test_check(l->t, o.status == 0 && o.length > 4096, "1024 samples: %.2f s, %ld MB", o.seconds, o.kilobytes >> 10);
    o = RUN(l, "-m", "toy.bin", "-p", "a", "-n", "2", "-q", "-t", "256", "--ignore-eos");
    test_check(l->t, same_text(&one, &o), "256 threads give the text of one: %.2f s", o.seconds);
    o = RUN(l, "-m", "toy.bin", "-p", "a", "-n", "2147483647", "-q", "--ignore-eos");
    test_check(l->t, o.status == 0, "-n 2147483647 ends with the context: %.2f s", o.seconds);
}

// Less and less address space: the text, or one line that says that memory is short.
static void test_little_memory(const Limits* l) {
#if LLVM_OPENMP
    test_skip(l->t, "LLVM's OpenMP ends the program itself where memory is short: no limit of the address space");
#elif defined(GPT2_HIP)
    test_skip(l->t, "the HIP runtime ends the program itself where memory is short: no limit of the address space");
#elif defined(__SANITIZE_ADDRESS__)
    test_skip(l->t, "AddressSanitizer reserves terabytes: no limit of the address space");
#else
    static const char* const models[] = {"toy.bin", "sparse.bin"};
    char path[512];
    Toy toy = toy_make((GPT2Config){64, 260, 260, 2, 2, 512}, 5, true);
    write_model(l, "sparse.bin", &toy, 3);
    toy_free(&toy);
    if (symlink("toy_tokenizer.bin", path_in(l, "sparse_tokenizer.bin", path)) != 0) return;
    int right = 0, tried = 0, ran = 0;
    for (int m = 0; m < 2; m++) {
        Outcome plain = RUN(l, "-m", models[m], "-p", "ab", "-n", "2", "-q", "-t", "1", "--dtype", "f16");
        for (size_t megabytes = 8; megabytes <= 128; megabytes += megabytes < 48 ? 2 : 16) {
            Outcome o = RUN_SET(l, SET(.address_space = megabytes << 20), "-m", models[m], "-p", "ab", "-n", "2", "-q",
                                "-t", "1", "--dtype", "f16");
            bool ok = same_text(&plain, &o) || (o.status == 1 && strchr(o.err, '\n') != NULL) ||
                      (o.status == 127 && strstr(o.err, "error while loading shared libraries") != NULL);
            if (!ok) test_check(l->t, false, "ulimit -v %zu MB: exit status %d %s", megabytes, o.status, o.err);
            tried++;
            right += ok;
            ran += o.status == 0;
        }
    }
    test_check(l->t, right == tried && ran > 0 && ran < tried,
               "under ulimit -v 8 to 128 MB %d of %d runs give the text, all others a line", ran, tried);
    Outcome o = RUN_SET(l, SET(.address_space = (size_t)256 << 20), "-m", "sparse.bin", "-p", "a", "-b", "1024", "-n",
                        "-1", "-t", "1");
    test_check(l->t, fails_with(&o, 1, "no memory") && strstr(o.err, "needs less") != NULL,
               "too many samples for the memory: %.*s", LAST_LINE(o.err));
    o = RUN_SET(l, SET(.address_space = (size_t)100 << 20), "-m", "toy.bin", "-p", "a", "-t", "64");
    test_check(l->t, o.status == 0 || (o.status == 1 && strchr(o.err, '\n') != NULL),
               "64 threads in 100 MB of address space: exit status %d: %.*s", o.status, LAST_LINE(o.err));
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Places, users, languages

static bool copy_file(const char* from, const char* to, mode_t mode) {
    Bytes bytes = read_file(from);
    write_file(to, bytes.data, bytes.size);
    free(bytes.data);
    return chmod(to, mode) == 0;
}

static void test_places(const Limits* l) {
    char program[512], link_path[512], path[512], tokenizer[512], model[512];
    static const char* const clean[] = {"HOME=/nonexistent", "HF_HUB_CACHE=", "HF_HOME="};
    if (mkdir(path_in(l, "bin", path), 0755) != 0 || mkdir(path_in(l, "empty", path), 0755) != 0) return;
    bool ok = copy_file(l->program, path_in(l, "bin/gpt2", program), 0755) && chmod(l->directory, 0755) == 0;
    ok = ok && symlink("bin/gpt2", path_in(l, "linked", link_path)) == 0;
    if (!test_check(l->t, ok, "the program can be copied")) return;
    unsetenv("GPT2_MODEL");
    Outcome o =
        RUN_SET(l, SET(.program = program, .directory = path, .set = {clean[0], clean[1], clean[2]}), "-p", "a");
    test_check(l->t, fails_with(&o, 1, "no model: looked for") && strstr(o.err, "scripts/download_gpt2.sh") != NULL,
               "alone in a directory the program says where it looked: exit status %d", o.status);
    ok = mkdir(path_in(l, "bin/models", path), 0755) == 0;
    ok = ok && copy_file(path_in(l, "toy.bin", model), path_in(l, "bin/models/fairytales.bin", path), 0644);
    ok = ok && copy_file(path_in(l, "toy_tokenizer.bin", tokenizer),
                         path_in(l, "bin/models/fairytales_tokenizer.bin", path), 0644);
    test_check(l->t, ok, "a model can be put beside it");
    Outcome plain = RUN(l, "-m", "toy.bin", "-p", "\xc3\xa4 a", "-n", "9", "-q", "--ignore-eos");
    const Setting settings[] = {
        {.program = program, .directory = "/", .set = {clean[0], clean[1], clean[2]}},
        {.program = link_path, .directory = "/", .set = {clean[0], clean[1], clean[2]}},
        {.program = program, .directory = "/", .set = {"HOME=/proc", clean[1], clean[2]}},
        {.program = program, .directory = "/", .set = {clean[0], clean[1], "LC_ALL=C"}},
        {.program = program, .directory = "/", .set = {clean[0], clean[1], "LC_ALL=C.UTF-8"}},
        {.program = program, .directory = "/", .set = {clean[0], clean[1], "LC_ALL=tr_TR.UTF-8"}},
        {.program = program, .directory = "/", .set = {clean[0], clean[1], clean[2]}, .is_nobody = true},
    };
    static const char* const what[] = {"from /",          "through a link", "with a home that cannot be written",
                                       "in the locale C", "in C.UTF-8",     "in tr_TR.UTF-8",
                                       "as another user"};
    for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
        if (settings[i].is_nobody && geteuid() != 0) {
            test_skip(l->t, "only root can become another user");
            continue;
        }
        o = run_set(l, settings[i], (const char*[]){"-p", "\xc3\xa4 a", "-n", "9", "-q", "--ignore-eos", NULL});
        test_check(l->t, same_text(&plain, &o), "%s the model beside the program is found, and the text is the same",
                   what[i]);
    }
}

// As another user, onto a file that may be replaced but not read, so that nobody can say what would be lost.
static void test_unreadable_target(const Limits* l) {
    char program[512], path[512];
    struct stat info;
    if (geteuid() != 0 || mkdir(path_in(l, "open", path), 0777) != 0 || chmod(path, 0777) != 0) {
        test_skip(l->t, "only root can become another user");
        return;
    }
    write_file(path_in(l, "open/secret.npy", path), "secret", 6);
    if (chmod(path, 0) != 0) return;
    Setting nobody = {.program = path_in(l, "bin/gpt2", program), .directory = "/", .is_nobody = true};
    Outcome o = run_set(l, nobody, (const char*[]){"-p", "a", "-n", "1", "-q", "--logits", path, NULL});
    test_check(l->t, fails_with(&o, 1, "Permission denied") && stat(path, &info) == 0 && info.st_size == 6,
               "--logits does not replace a file that may not be read: exit status %d", o.status);
}

// ---------------------------------------------------------------------------------------------------------------------
// OpenMP's own variables

static void test_bound_threads(const Limits* l) {
    const char* const args[] = {"-m", "toy.bin", "-p", "a", "-n", "5", "-t", "64", NULL};
    Outcome free = run_set(l, (Setting){0}, args);
    Outcome bound = run_set(l, (Setting){.set = {"OMP_PROC_BIND=true"}}, args);
    Outcome limited = run_set(l, (Setting){.set = {"OMP_THREAD_LIMIT=1"}}, args);
    const char *free_threads = strstr(free.err, "threads: "), *bound_threads = strstr(bound.err, "threads: ");
    test_check(l->t,
               bound.status == 0 && free_threads != NULL && bound_threads != NULL &&
                   atoi(free_threads + 9) == atoi(bound_threads + 9) && free.hash == bound.hash,
               "threads that OpenMP binds are as many as free ones: %d, %d; the text is the same",
               bound_threads != NULL ? atoi(bound_threads + 9) : 0, free_threads != NULL ? atoi(free_threads + 9) : 0);
    bool are_many = free_threads != NULL && atoi(free_threads + 9) > 1;
    const char* expected = are_many ? "threads: 1 (OMP_THREAD_LIMIT)" : "threads: 1";
    test_check(l->t, limited.status == 0 && strstr(limited.err, expected) != NULL && limited.hash == free.hash,
               "with OMP_THREAD_LIMIT=1 there is one thread, and the report says why; the text is the same");
}

// The driver's files of a machine with a processor, an MI200 and a Ryzen's own GPU, and of three newer ones.
static void test_gpus_of_driver(const Limits* l) {
    static const int versions[] = {0, 90010, 100306, 90402, 110501, 120001};
    static const struct {
        const char *targets, *other;
    } cases[] = {
        {"gfx90a gfx1036 gfx942 gfx1151 gfx1201", ""},
        {"gfx90a:xnack- gfx1036 gfx942:sramecc+:xnack- gfx1151 gfx1201", ""},
        {"gfx1036 gfx942 gfx1151 gfx1201", "gfx90a"},
        {"gfx90a gfx942 gfx1151 gfx1201", "gfx1036"},
        {"gfx90a gfx1036 gfx942 gfx1151", "gfx1201"},
        {"gfx90 gfx90ab ggfx90a gfx90a", "gfx1036"},
        {"ggfx90a gfx1036 gfx942 gfx1151 gfx1201", "gfx90a"},
        {"gfx90ab gfx1036 gfx942 gfx1151 gfx1201", "gfx90a"},
        {"", "gfx90a"},
    };
    char nodes[512], path[600], text[200], target[16];
    const int num_nodes = sizeof versions / sizeof *versions, num_cases = sizeof cases / sizeof *cases;
    int right = 0;
    bool is_silent = !kfd_has_other_gpu(target, path_in(l, "nodes", nodes), "");
    mkdir(nodes, 0700);
    for (int i = 0; i < num_nodes; i++) {
        snprintf(path, sizeof path, "%s/%d", nodes, i);
        mkdir(path, 0700);
        snprintf(path, sizeof path, "%s/%d/properties", nodes, i);
        write_file(path, text,
                   (size_t)snprintf(text, sizeof text, "cpu_cores_count %d\nsimd_count 80\ngfx_target_version %d\n",
                                    i == 0 ? 8 : 0, versions[i]));
    }
    for (int i = 0; i < num_cases; i++) {
        bool is_other = kfd_has_other_gpu(target, nodes, cases[i].targets);
        right += is_other == (cases[i].other[0] != '\0') && (!is_other || strcmp(target, cases[i].other) == 0);
    }
    test_check(l->t, is_silent && right == num_cases,
               "a GPU that the program has no code for is known before HIP is called, by the driver's files (%d of %d "
               "sets of targets); without these nothing is said",
               right, num_cases);
}

void test_surroundings(Tests* t) {
    test_section("limits: the program with little memory, odd files and slow readers");
    const char* program = getenv("GPT2_PROGRAM");
    Limits l = {.t = t};
    if (realpath(program != NULL ? program : "./gpt2", l.program) == NULL || access(l.program, X_OK) != 0) {
        test_skip(t, "%s is needed", program != NULL ? program : "./gpt2");
        return;
    }
    make_directory(l.directory);
    Toy toy = toy_make(toy_config, 7, true);
    write_model(&l, "toy.bin", &toy, 3);
    write_tokenizer(&l, "toy_tokenizer.bin", toy_config.vocab_size);
    toy_free(&toy);
    test_flag_table(&l);
    test_damaged_weights(&l);
    test_odd_targets(&l);
    test_endless_prompts(&l);
    test_slow_readers(&l);
    test_largest(&l);
    test_little_memory(&l);
    test_places(&l);
    test_unreadable_target(&l);
    test_bound_threads(&l);
    test_gpus_of_driver(&l);
    remove_directory(l.directory);
}
