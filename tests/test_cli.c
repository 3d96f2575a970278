// The program as its users meet it: ./gpt2 (or $GPT2_PROGRAM) is run on the bundled model, and what it prints and
// returns is judged.
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../text_output.h"
#include "../utils.h"
#include "test.h"

static const char MODEL[] = "models/fairytales.bin";
static const char PROMPT[] = "Once upon a time";

typedef struct {
    Tests* t;
    const char* program;
    char directory[256]; // for the files of the tests; removed in the end
} Cli;

// ---------------------------------------------------------------------------------------------------------------------
// Running the program.

typedef struct {
    int status;        // exit status; 1000 + signal when killed; -1 when it did not end or printed too much
    size_t length;     // of out, which may hold NULs
    char out[1 << 15]; // standard output
    char err[1 << 13]; // standard error
} Result;

// What the program is connected to.
typedef struct {
    const char* input; // standard input is a pipe with these bytes
    size_t input_length;
    const char* input_file;  // or this file; /dev/null without both
    const char* output_file; // standard output; NULL: captured
    bool closed_input, closed_output;
    bool broken_pipe; // standard output is a pipe that nobody reads
} Wiring;

static const char* path_in(const Cli* cli, const char* name, char path[512]) {
    snprintf(path, 512, "%s/%s", cli->directory, name);
    return path;
}

static void redirect(int fd, const char* path, int flags) {
    int opened = open(path, flags, 0600);
    if (opened < 0 || dup2(opened, fd) < 0) _exit(99);
    close(opened);
}

// In the child: connects descriptors 0 to 2, and becomes the program.
static void become_program(const Cli* cli, const char* const* args, const Wiring* w, const int pipe_in[2]) {
    char path[512];
    int broken[2];
    if (w->input != NULL) dup2(pipe_in[0], STDIN_FILENO);
    else redirect(STDIN_FILENO, w->input_file != NULL ? w->input_file : "/dev/null", O_RDONLY);
    redirect(STDERR_FILENO, path_in(cli, "err", path), O_WRONLY | O_CREAT | O_TRUNC);
    redirect(STDOUT_FILENO, path_in(cli, "out", path), O_WRONLY | O_CREAT | O_TRUNC);
    if (w->output_file != NULL) redirect(STDOUT_FILENO, w->output_file, O_WRONLY);
    if (w->broken_pipe && (pipe(broken) != 0 || dup2(broken[1], STDOUT_FILENO) < 0)) _exit(99);
    for (int fd = STDERR_FILENO + 1; fd < 32; fd++) close(fd);
    if (w->closed_input) close(STDIN_FILENO);
    if (w->closed_output) close(STDOUT_FILENO);
    signal(SIGINT, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);

    const char* argv[48] = {cli->program, "-m", MODEL, "-t", "1", "--device", "cpu"};
    int argc = 7;
    while (*args != NULL && argc < 47) argv[argc++] = *args++;
    execv(cli->program, (char* const*)argv);
    _exit(99);
}

static pid_t start(const Cli* cli, const char* const* args, const Wiring* w) {
    int pipe_in[2] = {-1, -1};
    if (w->input != NULL && pipe(pipe_in) != 0) return -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) become_program(cli, args, w, pipe_in);
    if (w->input != NULL) {
        bool is_written = write(pipe_in[1], w->input, w->input_length) == (ssize_t)w->input_length;
        close(pipe_in[0]);
        close(pipe_in[1]);
        if (!is_written) return -1;
    }
    return pid;
}

static size_t read_file(const char* path, char* bytes, size_t size) {
    FILE* file = fopen(path, "rb");
    size_t length = file != NULL ? fread(bytes, 1, size - 1, file) : 0;
    if (file != NULL) fclose(file);
    bytes[length] = '\0';
    return length;
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static Result finish(const Cli* cli, pid_t pid) {
    Result r = {.status = -1};
    char path[512];
    int status = 0;
    double deadline = seconds_now() + 60;
    if (pid < 0) return r;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (seconds_now() > deadline) kill(pid, SIGKILL);
        sleep_ms(1);
    }
    r.length = read_file(path_in(cli, "out", path), r.out, sizeof r.out);
    size_t err_length = read_file(path_in(cli, "err", path), r.err, sizeof r.err);
    if (r.length == sizeof r.out - 1 || err_length == sizeof r.err - 1) return r;
    r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return r;
}

static Result run_wired(const Cli* cli, Wiring w, const char* const* args) {
    return finish(cli, start(cli, args, &w));
}

// Runs the program with these arguments after -m MODEL -t 1, standard input from /dev/null.
#define RUN(cli, ...) run_wired(cli, (Wiring){0}, (const char*[]){__VA_ARGS__, NULL})
// The same with bytes piped into it.
#define PIPE(cli, bytes, length, ...)                                                                                  \
    run_wired(cli, (Wiring){.input = bytes, .input_length = length}, (const char*[]){__VA_ARGS__, NULL})

// Runs a command line whose words are separated by blanks.
static Result run_line(const Cli* cli, const char* line) {
    char copy[512];
    const char* args[32] = {NULL};
    snprintf(copy, sizeof copy, "%s", line);
    char* rest = NULL;
    int n = 0;
    for (char* word = strtok_r(copy, " ", &rest); word != NULL && n < 31; word = strtok_r(NULL, " ", &rest)) {
        args[n++] = word;
    }
    return run_wired(cli, (Wiring){0}, args);
}

static bool same_text(const Result* a, const Result* b) {
    return a->status == 0 && b->status == 0 && a->length == b->length && memcmp(a->out, b->out, a->length) == 0;
}

// The first line of a text, for "%.*s".
#define FIRST_LINE(text) (int)strcspn(text, "\n"), text

static bool starts_with(const char* text, const char* start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static int count_lines(const char* text) {
    int lines = 0;
    for (; *text != '\0'; text++) lines += *text == '\n';
    return lines;
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON, as far as saying whether a text is well-formed (RFC 8259). Each function returns the end of what it read, NULL
// where that is not JSON.

static const char* json_space(const char* s) {
    return s + strspn(s, " \t\r\n");
}

static const char* json_string(const char* s) {
    if (*s++ != '"') return NULL;
    for (; *s != '"'; s++) {
        if ((unsigned char)*s < 0x20) return NULL;
        if (*s != '\\') continue;
        s++;
        if (*s == 'u' && strspn(s + 1, "0123456789abcdefABCDEF") < 4) return NULL;
        if (*s == '\0' || strchr("\"\\/bfnrtu", *s) == NULL) return NULL;
    }
    return s + 1;
}

static const char* json_number(const char* s) {
    const char* digits = s += *s == '-';
    s += strspn(s, "0123456789");
    if (s == digits || (*digits == '0' && s > digits + 1)) return NULL;
    if (*s == '.') {
        size_t n = strspn(++s, "0123456789");
        if (n == 0) return NULL;
        s += n;
    }
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '+' || s[1] == '-');
        size_t n = strspn(s, "0123456789");
        if (n == 0) return NULL;
        s += n;
    }
    return s;
}

static const char* json_value(const char* s);

// The members between the brackets of an object or an array, the closing bracket included.
static const char* json_members(const char* s, bool is_object) {
    char close = is_object ? '}' : ']';
    s = json_space(s);
    if (*s == close) return s + 1;
    for (;;) {
        if (is_object) {
            s = json_string(json_space(s));
            if (s == NULL || *(s = json_space(s)) != ':') return NULL;
            s++;
        }
        s = json_value(s);
        if (s == NULL) return NULL;
        s = json_space(s);
        if (*s == close) return s + 1;
        if (*s++ != ',') return NULL;
    }
}

static const char* json_value(const char* s) {
    static const char* const words[] = {"true", "false", "null"};
    s = json_space(s);
    if (*s == '{' || *s == '[') return json_members(s + 1, *s == '{');
    if (*s == '"') return json_string(s);
    for (int i = 0; i < 3; i++) {
        if (starts_with(s, words[i])) return s + strlen(words[i]);
    }
    return json_number(s);
}

static bool is_json(const char* text) {
    const char* end = json_value(text);
    return end != NULL && *json_space(end) == '\0';
}

// What stands after "key": for the n-th time, or "".
static const char* json_find(const char* text, const char* key, int n) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    for (text = strstr(text, quoted); text != NULL; text = strstr(text, quoted)) {
        text += strlen(quoted);
        if (n-- == 0) return text;
    }
    return "";
}

// Does the same value stand after the n-th "key": in both texts?
static bool same_value(const char* a, const char* b, const char* key, int n) {
    const char *start_a = json_find(a, key, n), *start_b = json_find(b, key, n);
    const char* end = json_value(start_a);
    return end != NULL && strncmp(start_a, start_b, (size_t)(end - start_a)) == 0;
}

static int count_elements(const char* array) {
    int n = *array == '[' && array[1] != ']';
    for (; *array != '\0' && *array != ']'; array++) n += *array == ',';
    return n;
}

static void test_json_checker(Tests* t) {
    static const char* const bad[] = {"",        "{",         "{\"a\": }", "[1,]",  "[01]", "\"a",
                                      "\"\\x\"", "{\"a\" 1}", "[1.]",      "[nan]", "1 2",  "\"\n\""};
    int refused = 0, n = (int)(sizeof bad / sizeof *bad);
    for (int i = 0; i < n; i++) refused += !is_json(bad[i]);
    test_check(t, refused == n && is_json(" {\"a\": [1, -2.5e3, \"\\u00e4\\n\", true, {}, []]}\n"),
               "the test's JSON checker takes JSON, and refuses %d of %d texts that are none", refused, n);
}

// ---------------------------------------------------------------------------------------------------------------------
// Flags and their values.

typedef struct {
    const char* line;
    const char* part; // of the message
} BadLine;

// Wrong usage: exit status 2, nothing on standard output, one line that holds `part` and names the way to the help.
static const BadLine bad_lines[] = {
    {"--bogus", "--bogus"},
    {"-x", "-x"},
    {"-p", "--prompt"},
    {"--model", "--model"},
    {"-n", "--n-predict"},
    {"-n abc", "\"abc\""},
    {"-n 1x", "\"1x\""},
    {"-n 1.5", "\"1.5\""},
    {"-n -2", "-1 to"},
    {"-n 99999999999", "--n-predict"},
    {"-n 99999999999999999999", "--n-predict"},
    {"--n-predict=", "\"\""},
    {"--temp -1", "0 to 1000"},
    {"--temp abc", "\"abc\""},
    {"--temp nan", "\"nan\""},
    {"--temp inf", "\"inf\""},
    {"--temp 0x1", "\"0x1\""},
    {"--temp 1e9", "--temp"},
    {"--top-k -1", "--top-k"},
    {"--top_k -1", "--top-k"},
    {"--top-p 1.5", "0 to 1"},
    {"--top-p -0.1", "--top-p"},
    {"--min-p 2", "--min-p"},
    {"--repeat-penalty 0", "--repeat-penalty"},
    {"-s -2", "--seed"},
    {"-s 1e3", "\"1e3\""},
    {"-s 18446744073709551616", "--seed"},
    {"-b 0", "1 to"},
    {"-b 1025", "--samples"},
    {"-t 0", "--threads"},
    {"-t 257", "1 to 256"},
#ifndef GPT2_HIP
    {"--device gpu", "CPU only"},
    {"--device gpu:1", "gpu:1"},
#endif
    {"--device gpu:", "gpu:N"},
    {"--device gpu:-1", "gpu:N"},
    {"--device gpu:1x", "gpu:N"},
    {"--device tpu", "tpu"},
    {"--dtype q4", "q8, bf16z"},
    {"--layers 0", "--layers"},
    {"--layers 4000", "4000"},
    {"--ctx 0", "--ctx"},
    {"--ctx 1000000", "1000000"},
    {"--top 0", "--top"},
    {"--top 1000000", "1000000"},
    {"--verify --info", "only one of"},
    {"--verify=", "--verify"},
    {"--tolerance 0.1", "--verify"},
    {"--verify --tolerance 0", "--tolerance"},
    {"--profile=xml", "\"xml\""},
    {"--info=x", "--info"},
    {"--estimate fast", "\"fast\""},
    {"--estimate 0", "\"0\""},
    {"--estimate 1 2 3", "\"3\""},
    {"--all", "--top"},
    {"--perplexity --top 3", "--all"},
    {"--logits x.npy --info", "--logits"},
    {"--logits x.npy --perplexity", "--logits"},
    {"--logits x.npy --top 3 --all", "--logits"},
    {"--json --tokens", "--json"},
    {"--json --list-devices", "--json"},
    {"--json --save no/such.bin", "--json"},
    {"--top 3 --verify", "--top"},
    {"--stride 8", "--perplexity"},
    {"--perplexity --stride 1000000", "1000000"},
    {"--perplexity --stride 0", "--stride"},
    {"stray", "stray"},
    {"-p a b", "\"b\""},
    {"-p a -f b", "-p and -f"},
    {"-q -v", "-q and -v"},
    {"--logits=", "--logits"},
    {"--save", "--save"},
    {"--save=", "--save"},
    {"--save a --info", "only one of"},
    {"--help=x", "--help"},
    {"--to 3", "--to"},
};

// Failures: exit status 1, one line that holds `part`.
static const BadLine failing_lines[] = {
    {"-m no/such/model.bin", "no/such/model.bin"},
    {"-T no/such/tokenizer.bin", "no/such/tokenizer.bin"},
    {"-m Makefile", "not a checkpoint"},
    {"-f no/such/prompt.txt", "no/such/prompt.txt"},
    {"-f .", "cannot read"},
    {"--logits no/such/directory.npy", "no/such/directory.npy"},
    {"--tokens -T no/such/tokenizer.bin", "no/such/tokenizer.bin"},
    {"--save no/such/directory.bin", "no/such/directory.bin"},
    {"--save models/fairytales.bin", "is there already"},
    {"--verify=no/such/model.bin", "no/such/model.bin"},
    {"--verify=tests/fixtures/bf16.bin", "another shape"},
};

// Good usage: exit status 0 and text that begins with the prompt.
static const char* const good_lines[] = {
    "-n 2",
    "-n2",
    "--n-predict=2",
    "--n_predict 2",
    "--n-p 2",
    "-n +2",
    "-n 2 --temp 0.5 --top-k 0 --top-p 0 --min-p 1 --repeat-penalty 1.1",
    "-n 2 --temp 1. --top_k 99999999 --top_p .5 --min_p 0 --repeat_penalty 100",
    "-n 2 -s -1 --temp 1000",
    "-n 2 -s 18446744073709551615 --temp 1e-30",
    "-n 2 --device auto --cpu-logits",
    "-n 2 --device cpu --cpu_logits",
    "-n 2 --dtype auto",
    "-n 2 --dtype f32",
    "-n 2 --dtype bf16",
    "-n 2 --dtype f16",
    "-n 2 --dtype q8",
    "-n 2 --dtype bf16z",
    "-n 2 --layers 1",
    "-n 2 --ctx 8",
    "-n 2 -t 3",
    "-n 2 -b 3 --ignore_eos",
    "-n 2 -v",
    "-n 2 -q",
};

// Is it one line, from gpt2, that holds `part`?
static bool is_message(const char* err, const char* part) {
    return starts_with(err, "gpt2: ") && count_lines(err) == 1 && strstr(err, part) != NULL;
}

static void test_flags(const Cli* cli) {
    for (size_t i = 0; i < sizeof bad_lines / sizeof *bad_lines; i++) {
        Result r = run_line(cli, bad_lines[i].line);
        bool ok = r.status == 2 && r.length == 0 && is_message(r.err, bad_lines[i].part);
        ok = ok && strstr(r.err, "try gpt2 --help") != NULL;
        test_check(cli->t, ok, "gpt2 %s: wrong usage, exit status %d: %.*s", bad_lines[i].line, r.status,
                   FIRST_LINE(r.err));
    }
    for (size_t i = 0; i < sizeof failing_lines / sizeof *failing_lines; i++) {
        Result r = run_line(cli, failing_lines[i].line);
        bool ok = r.status == 1 && r.length == 0 && strstr(r.err, failing_lines[i].part) != NULL;
        test_check(cli->t, ok, "gpt2 %s: fails with exit status %d", failing_lines[i].line, r.status);
    }
    for (size_t i = 0; i < sizeof good_lines / sizeof *good_lines; i++) {
        char line[512];
        snprintf(line, sizeof line, "-p Once %s", good_lines[i]);
        Result r = run_line(cli, line);
        test_check(cli->t, r.status == 0 && r.length > 4 && starts_with(r.out, "Once"), "gpt2 %s: exit status %d", line,
                   r.status);
    }
    Result idle = RUN(cli, "--info", "--temp", "1");
    test_check(cli->t, idle.status == 0 && is_message(idle.err, "--temp has no effect"),
               "an option without effect is named: %.*s", FIRST_LINE(idle.err));
    test_check(cli->t, !is_message("gpt2: a\ngpt2: b\n", "b") && !is_message("gpt2: a\n", "b"),
               "two lines, or a line without the flag, are not taken for a message");
}

static void test_information(const Cli* cli) {
    static const char* const names[] = {
        "model",        "tokenizer",  "prompt",     "file",           "n-predict", "seed",      "temp",
        "top-k",        "top-p",      "min-p",      "repeat-penalty", "samples",   "threads",   "device",
        "list-devices", "cpu-logits", "dtype",      "layers",         "ctx",       "tokens",    "top",
        "logits",       "json",       "ignore-eos", "no-echo",        "quiet",     "verbose",   "version",
        "help",         "all",        "perplexity", "stride",         "verify",    "tolerance", "profile",
        "estimate",     "info",       "save"};
    int n = (int)(sizeof names / sizeof *names), listed = 0;
    Result r = RUN(cli, "-h");
    for (int i = 0; i < n; i++) {
        char option[32];
        snprintf(option, sizeof option, "--%s", names[i]);
        listed += strstr(r.out, option) != NULL;
    }
    test_check(cli->t, r.status == 0 && r.err[0] == '\0' && listed == n, "-h lists %d of %d options on standard output",
               listed, n);
    r = RUN(cli, "--version");
    test_check(cli->t, r.status == 0 && starts_with(r.out, "gpt2 ") && r.err[0] == '\0', "--version says %.*s",
               FIRST_LINE(r.out));
    r = RUN(cli, "--list-devices");
    test_check(cli->t,
               r.status == 0 && starts_with(r.out, "cpu") && (r.err[0] == '\0' || starts_with(r.err, "gpt2: GPU")),
               "--list-devices: %.*s", FIRST_LINE(r.out));
}

// ---------------------------------------------------------------------------------------------------------------------
// Text and report.

// Does `text` hold a line that begins with `start`, where # stands for any number?
static bool has_line(const char* text, const char* start) {
    for (const char* line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *a = line, *b = start;
        while (*b != '\0') {
            size_t digits = strspn(a, "0123456789.");
            if (*b == '#' ? digits == 0 : *a != *b) break;
            a += *b == '#' ? digits : 1;
            b++;
        }
        if (*b == '\0') return true;
    }
    return false;
}

static void test_report(const Cli* cli) {
    static const char* const lines[] = {"[GPT-2 Config]",
                                        "  max_seq_len: #",
                                        "  vocab_size: #",
                                        "  num_layers: #",
                                        "  num_heads: #",
                                        "  channels: #",
                                        "  total_params: #",
                                        "Prompt: Once upon a time\n",
                                        "Time for 20 tokens: # ms\n",
                                        "Per token: # ms\n",
                                        "  model: models/fairytales.bin",
                                        "  dtype: ",
                                        "  device: ",
                                        "  threads: #",
                                        "  load time: # ms",
                                        "  prompt: # tokens, # ms, # tokens/s",
                                        "  generation: # ms per token, # tokens/s",
                                        "  per token: minimum #, median #, 95th percentile #, maximum # ms",
                                        "  weights read per token: # MB, # GB/s",
                                        "  logits hash: "};
    int n = (int)(sizeof lines / sizeof *lines), found = 0;
    Result r = RUN(cli, "-p", PROMPT);
    for (int i = 0; i < n; i++) found += has_line(r.err, lines[i]);
    test_check(cli->t, r.status == 0 && found == n, "the report has %d of its %d lines", found, n);
    const char *time = strstr(r.err, "Time for 20 tokens: "), *each = strstr(r.err, "Per token: ");
    double total = time != NULL ? strtod(time + strlen("Time for 20 tokens: "), NULL) : 0;
    double mean = each != NULL ? strtod(each + strlen("Per token: "), NULL) : 0;
    test_check(cli->t, total > 0 && fabs(total - 20 * mean) <= 0.005 + 20 * 0.005,
               "20 tokens at %.2f ms each are the %.2f ms of all", mean, total);
    test_check(cli->t, !has_line(r.err, "Time for 21 tokens: #") && !has_line(r.err, "Per token: ms"),
               "a line that is not there is not found");
    test_check(cli->t, starts_with(r.out, PROMPT) && r.length > strlen(PROMPT) + 20,
               "standard output holds the prompt and its continuation: %s", r.out);

    Result quiet = RUN(cli, "-p", PROMPT, "-q");
    test_check(cli->t, same_text(&quiet, &r) && quiet.err[0] == '\0', "-q prints the same text and no report");
    Result bare = RUN(cli, "-p", PROMPT, "-q", "--no-echo");
    test_check(cli->t, bare.status == 0 && strcmp(bare.out, r.out + strlen(PROMPT)) == 0,
               "--no-echo prints the continuation alone");
    Result verbose = RUN(cli, "-p", PROMPT, "-v", "-n", "1");
    test_check(cli->t, has_line(verbose.err, "  qkvw      (#, #, #)") && has_line(verbose.err, "  lnfb      (#)"),
               "-v lists the tensors");
    Result fewer = RUN(cli, "-p", PROMPT, "-n", "0", "--layers", "1", "-v");
    test_check(cli->t, has_line(fewer.err, "  num_layers: 1\n") && has_line(fewer.err, "  ln1w      (1, "),
               "--layers 1 is a model of one layer");
    test_check(cli->t, fewer.status == 0 && strcmp(fewer.out, PROMPT) == 0, "-n 0 prints the prompt alone");
}

static void test_prompt(const Cli* cli) {
    char path[512];
    Result given = RUN(cli, "-p", PROMPT), piped = PIPE(cli, "Once upon a time\n", 17, "-q");
    test_check(cli->t, same_text(&given, &piped), "echo text | gpt2 is the same as gpt2 -p text");
    Result dash = PIPE(cli, "Once upon a time", 16, "-p", "-");
    test_check(cli->t, same_text(&given, &dash), "-p - reads standard input");
    FILE* file = fopen(path_in(cli, "prompt.txt", path), "w");
    if (file == NULL || fputs("Once upon a time\n", file) < 0 || fclose(file) != 0) {
        test_check(cli->t, false, "%s can be written", path);
        return;
    }
    Result from_file = RUN(cli, "-f", path);
    test_check(cli->t, same_text(&given, &from_file), "-f FILE reads a file, without the newline at its end");
    Result two = PIPE(cli, "a\n\n", 3, "--tokens"), one = RUN(cli, "-p", "a\n", "--tokens");
    test_check(cli->t, same_text(&two, &one), "only one newline is taken off");

    Result nothing = RUN(cli, "-q"), empty = RUN(cli, "-p", ""), named = RUN(cli, "-p", "<|endoftext|>", "--no-echo");
    test_check(cli->t, same_text(&nothing, &empty) && same_text(&nothing, &named),
               "without a prompt the text starts at <|endoftext|>, which is not printed");
    test_check(cli->t, has_line(empty.err, "Prompt: <|endoftext|>\n"), "the report names <|endoftext|> as the prompt");
    Result closed = run_wired(cli, (Wiring){.closed_input = true}, (const char*[]){"-q", NULL});
    test_check(cli->t, same_text(&nothing, &closed), "a closed standard input is no prompt");
    static const char bytes[] = "a\0b\xff\xe2\x82";
    Result binary = PIPE(cli, bytes, 6, "-n", "0");
    test_check(cli->t, binary.status == 0 && binary.length == 6 && memcmp(binary.out, bytes, 6) == 0,
               "NUL and bytes that are not UTF-8 come out as they went in");
}

static void test_context(const Cli* cli) {
    enum { LONG = 17 << 20 };
    static char long_prompt[LONG];
    char path[512];
    memset(long_prompt, 'a', LONG);
    for (int i = 1; i < LONG; i += 2) long_prompt[i] = ' ';
    Result tokens = PIPE(cli, long_prompt, 4000, "--tokens"), r = PIPE(cli, long_prompt, 4000, "-n", "1");
    int n = 1;
    for (size_t i = 0; i < tokens.length; i++) n += tokens.out[i] == ' ';
    char number[32];
    snprintf(number, sizeof number, " %d tokens", n);
    test_check(cli->t, r.status == 1 && strstr(r.err, number) != NULL && strstr(r.err, "the context holds 512") != NULL,
               "a prompt of%s is too long, and the message says so: %.*s", number, FIRST_LINE(r.err));
    FILE* file = fopen(path_in(cli, "long.txt", path), "w");
    bool is_written = file != NULL && fwrite(long_prompt, 1, LONG, file) == LONG;
    is_written = file != NULL && fclose(file) == 0 && is_written;
    double before = seconds_now();
    r = run_wired(cli, (Wiring){.input_file = path}, (const char*[]){NULL});
    test_check(cli->t, is_written && r.status == 1 && strstr(r.err, "more than 512") != NULL,
               "a prompt of 17 MB is refused after %.2f s: %.*s", seconds_now() - before, FIRST_LINE(r.err));

    r = RUN(cli, "-p", PROMPT, "--ctx", "12", "-n", "-1", "--ignore-eos", "--json");
    int total = count_elements(json_find(r.out, "prompt_tokens", 0)) + count_elements(json_find(r.out, "tokens", 0));
    test_check(cli->t, total == 12 && starts_with(json_find(r.out, "stop_reason", 0), "\"context\""),
               "-n -1 fills a context of 12 with %d tokens", total);
    r = RUN(cli, "-p", PROMPT, "--ctx", "12", "-n", "100", "--ignore-eos");
    test_check(cli->t, r.status == 0 && strstr(r.err, "the context of 12 tokens is full") != NULL,
               "the report says that the context is full");
    r = RUN(cli, "-p", PROMPT, "--ctx", "4", "-n", "5");
    test_check(cli->t, r.status == 0 && strcmp(r.out, PROMPT) == 0 && strstr(r.err, "after 0 tokens") != NULL,
               "a prompt that fills the context has no continuation");
    r = RUN(cli, "-p", PROMPT, "--ctx", "3");
    test_check(cli->t, r.status == 1 && strstr(r.err, "4 tokens") != NULL && strstr(r.err, "holds 3") != NULL,
               "a prompt one token too long is refused with both numbers");
}

// ---------------------------------------------------------------------------------------------------------------------
// Sampling, samples, threads.

#define SAMPLED "--temp", "1.2", "-n", "24", "--ignore-eos"

// The text, and the logits that the last token was chosen from, by the report.
static bool same_text_and_logits(const Result* a, const Result* b) {
    const char *first = strstr(a->err, "logits hash"), *second = strstr(b->err, "logits hash");
    return same_text(a, b) && first != NULL && second != NULL && strcmp(first, second) == 0;
}

static void test_determinism(const Cli* cli) {
    Result first = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5");
    static const char* const threads[] = {"2", "3", "4"};
    for (int i = 0; i < 3; i++) {
        Result r = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "-t", threads[i]);
        test_check(cli->t, same_text_and_logits(&first, &r), "%s threads give the text and the logits of one thread",
                   threads[i]);
    }
    Result rounded = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--dtype", "bf16");
    Result packed = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--dtype", "bf16z");
    test_check(cli->t, same_text_and_logits(&rounded, &packed), "bf16z gives the text and the logits of bf16");
    Result other = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "6");
    test_check(cli->t, other.status == 0 && strcmp(first.out, other.out) != 0, "another seed gives another text");

    Result unseeded = RUN(cli, "-p", PROMPT, SAMPLED), again = RUN(cli, "-p", PROMPT, SAMPLED);
    const char* line = strstr(unseeded.err, "  seed: ");
    char seed[32] = "";
    if (line != NULL) sscanf(line, "  seed: %31s", seed);
    Result repeated = RUN(cli, "-p", PROMPT, SAMPLED, "-s", seed);
    test_check(cli->t, same_text(&unseeded, &repeated), "the seed that the report names, %s, repeats the text", seed);
    test_check(cli->t, strcmp(unseeded.out, again.out) != 0, "without a seed every run is another");
    Result undone = RUN(cli, "-p", PROMPT, SAMPLED, "-s", seed, "-s", "-1");
    test_check(cli->t, undone.status == 0 && strcmp(unseeded.out, undone.out) != 0, "-s -1 takes an earlier -s back");
}

static void test_samples(const Cli* cli) {
    Result one = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--json");
    Result two = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--json", "-b", "2");
    Result four = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--json", "-b", "4", "-t", "2");
    test_check(cli->t, same_value(one.out, two.out, "text", 0) && same_value(one.out, four.out, "text", 0),
               "sample 0 is the same among 1, 2 and 4");
    test_check(cli->t, same_value(two.out, four.out, "text", 1) && same_value(two.out, four.out, "logits_hash", 1),
               "sample 1 is the same among 2 and 4, its logits too");
    bool differ = !same_value(four.out, json_find(four.out, "text", 0), "text", 0);
    test_check(cli->t, differ, "samples 0 and 1 differ, and the test would see it");

    Result single = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5"),
           text = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "-b", "3");
    bool ok = text.status == 0 && starts_with(text.out, single.out) &&
              starts_with(text.out + single.length, "\n\nOnce upon a time");
    test_check(cli->t, ok, "sample 0 comes first, the others after blank lines, each with the prompt");
    Result equal = RUN(cli, "-p", PROMPT, "--json", "-b", "3");
    bool all_equal = equal.status == 0;
    for (int b = 1; b < 3; b++) {
        all_equal &= same_value(equal.out, json_find(equal.out, "text", b - 1), "text", 0);
        all_equal &= same_value(equal.out, json_find(equal.out, "logits_hash", b - 1), "logits_hash", 0);
    }
    test_check(cli->t, all_equal, "at temperature 0 all 3 samples are the same, to the last bit of their logits");
    Result greedy = RUN(cli, "-p", PROMPT, "-n", "3", "-b", "2");
    test_check(cli->t, greedy.status == 0 && strstr(greedy.err, "all 2 samples are the same") != NULL,
               "equal samples at temperature 0 are pointed out");
    Result useless = RUN(cli, "-p", PROMPT, "-n", "3", "--top-k", "5");
    test_check(cli->t, useless.status == 0 && strstr(useless.err, "have no effect") != NULL,
               "--top-k at temperature 0 is pointed out");
}

// Writes the model's tokenizer with the texts of two tokens exchanged: the last one, <|endoftext|>, and the common
// " and", whose id so becomes the one that ends a text. Format: see tokenizer_load_bin().
static bool write_exchanged_tokenizer(const char* path) {
    static unsigned char bytes[1 << 17];
    const unsigned char *tokens[1 << 16], *next = bytes + 1024;
    FILE* file = fopen("models/fairytales_tokenizer.bin", "rb");
    size_t length = file != NULL ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file != NULL) fclose(file);
    int n = 0, ending = -1;
    for (; length > 1024 && next < bytes + length && n < 1 << 16; n++) {
        tokens[n] = next;
        if (next[0] == 4 && memcmp(next + 1, " and", 4) == 0) ending = n;
        next += 1 + next[0];
    }
    if (ending < 0 || (file = fopen(path, "wb")) == NULL) return false;
    const unsigned char* exchanged = tokens[n - 1];
    tokens[n - 1] = tokens[ending];
    tokens[ending] = exchanged;
    memcpy(bytes + 12, (unsigned char[]){(unsigned char)(ending & 0xff), (unsigned char)(ending >> 8), 0, 0}, 4);
    bool ok = fwrite(bytes, 1, 1024, file) == 1024;
    for (int i = 0; i < n; i++) ok = ok && fwrite(tokens[i], 1, 1u + tokens[i][0], file) == 1u + tokens[i][0];
    return fclose(file) == 0 && ok;
}

static void test_end_of_text(const Cli* cli) {
    char path[512];
    if (!test_check(cli->t, write_exchanged_tokenizer(path_in(cli, "exchanged_tokenizer.bin", path)),
                    "a tokenizer can be written in which \" and\" ends the text")) {
        return;
    }
#define ENDING "-T", path, "-p", PROMPT, "-s", "9"
    Result ended = RUN(cli, ENDING, "-n", "200"), on = RUN(cli, ENDING, "-n", "200", "--ignore-eos");
    bool ok = ended.status == 0 && strstr(ended.err, "tokens: <|endoftext|>") != NULL;
    test_check(cli->t, ok && strstr(ended.out, "<|") == NULL, "<|endoftext|> ends the text and is not printed: %s",
               ended.out);
    ok = on.status == 0 && has_line(on.err, "Time for 200 tokens: #") && strstr(on.out, "<|") == NULL;
    test_check(cli->t, ok, "with --ignore-eos it is never generated, and the text goes on");
    Result few = RUN(cli, ENDING, "--temp", "1.2", "-n", "60", "--json", "-b", "2");
    Result many = RUN(cli, ENDING, "--temp", "1.2", "-n", "60", "--json", "-b", "8", "-t", "2");
    int endings = 0;
    for (int b = 0; b < 8; b++) endings += starts_with(json_find(many.out, "stop_reason", b), "\"eot\"");
    ok = same_value(few.out, many.out, "text", 0) && same_value(few.out, many.out, "text", 1);
    ok = ok && same_value(few.out, many.out, "logits_hash", 0) && same_value(few.out, many.out, "logits_hash", 1);
    test_check(cli->t, ok && endings > 1,
               "samples leave the batch when they end, %d of 8, and the others stay themselves", endings);
}

// ---------------------------------------------------------------------------------------------------------------------
// The other outputs.

static void test_json(const Cli* cli) {
    static const char* const keys[] = {"version",
                                       "model",
                                       "config",
                                       "total_params",
                                       "device",
                                       "threads",
                                       "seed",
                                       "sampling",
                                       "prompt",
                                       "prompt_tokens",
                                       "samples",
                                       "text",
                                       "tokens",
                                       "stop_reason",
                                       "timings",
                                       "per_token_ms",
                                       "tokens_per_second",
                                       "gb_per_second"};
    int n = (int)(sizeof keys / sizeof *keys), found = 0;
    test_json_checker(cli->t);
    static const char odd[] = "tab\t\n \"quoted\" \\ \x01 \xff \xc3\xa4";
    Result r = PIPE(cli, odd, sizeof odd - 1, "-n", "3", "--json", "--top", "2");
    for (int i = 0; i < n; i++) found += *json_find(r.out, keys[i], 0) != '\0';
    test_check(cli->t, r.status == 0 && is_json(r.out) && found == n,
               "--json prints one JSON object with %d of %d keys", found, n);
    test_check(cli->t,
               starts_with(json_find(r.out, "prompt", 0),
                           "\"tab\\u0009\\n \\\"quoted\\\" \\\\ \\u0001 \xef\xbf\xbd \xc3\xa4\""),
               "strings are escaped, a byte that is not UTF-8 becomes U+FFFD");
    test_check(cli->t, count_elements(json_find(r.out, "tokens", 0)) == 3 && r.err[0] == '\0',
               "it holds 3 token ids, and standard error nothing");
    r = RUN(cli, "-p", PROMPT, "--json", "-n", "0");
    test_check(cli->t, r.status == 0 && is_json(r.out) && strstr(r.out, "\"tokens\": []") != NULL,
               "--json with -n 0 is JSON too");
}

// What looks inside prints its report on standard output, one JSON object with --json.
static void test_inspections(const Cli* cli) {
    static const char* const lines[] = {"--top 2 --all",  "--perplexity",   "--verify --layers 1 --dtype f32",
                                        "--profile -n 1", "--estimate 100", "--info"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char line[128];
        snprintf(line, sizeof line, "%s -p Once", lines[i]);
        Result text = run_line(cli, line);
        snprintf(line, sizeof line, "%s -p Once --json", lines[i]);
        Result json = run_line(cli, line);
        bool ok = text.status == 0 && text.err[0] == '\0' && count_lines(text.out) > 0 && !is_json(text.out);
        test_check(cli->t, ok && json.status == 0 && json.err[0] == '\0' && is_json(json.out),
                   "gpt2 %s prints %d lines, and with --json one object", lines[i], count_lines(text.out));
    }
    Result r = RUN(cli, "-f", "tests/fixtures/perplexity.txt", "--perplexity", "--ctx", "32");
    test_check(cli->t, r.status == 0 && strstr(r.out, "windows: ") != NULL,
               "a text longer than the context is scored in windows");
}

static void test_tokens_and_top(const Cli* cli) {
    Result tokens = RUN(cli, "-p", PROMPT, "--tokens"), json = RUN(cli, "-p", PROMPT, "--json", "-n", "1");
    int ids[4] = {-1, -1, -1, -1}, json_ids[4] = {-2, -2, -2, -2};
    sscanf(tokens.out, "%d %d %d %d", &ids[0], &ids[1], &ids[2], &ids[3]);
    sscanf(json_find(json.out, "prompt_tokens", 0), "[%d, %d, %d, %d]", &json_ids[0], &json_ids[1], &json_ids[2],
           &json_ids[3]);
    test_check(cli->t, tokens.status == 0 && count_lines(tokens.out) == 1 && memcmp(ids, json_ids, sizeof ids) == 0,
               "--tokens prints the ids on one line: %.*s", FIRST_LINE(tokens.out));

    Result top = RUN(cli, "-p", PROMPT, "--top", "3");
    int id = -1, next = -2;
    double logit, probability = 0;
    const char* row = strchr(top.out, '\n');
    if (row != NULL) sscanf(row, "%d %lf %lf", &id, &logit, &probability);
    sscanf(json_find(json.out, "tokens", 0), "[%d", &next);
    test_check(cli->t, top.status == 0 && count_lines(top.out) == 4 && id == next && probability > 0 && probability < 1,
               "--top 3 prints a table of 3 and no text; token %d, the likeliest, is what is generated", id);
    Result both = RUN(cli, "-p", PROMPT, "--top", "3", "-n", "4"), text = RUN(cli, "-p", PROMPT, "-n", "4");
    test_check(cli->t,
               both.status == 0 && starts_with(both.out, top.out) && strcmp(both.out + top.length + 1, text.out) == 0,
               "--top with -n prints the table, an empty line and the text");
}

// Reads the shape from the header of a .npy file of float32 and sets *start to where the numbers begin.
static bool read_npy_header(FILE* file, int* rows, int* cols, long* start) {
    unsigned char fixed[10];
    char dictionary[512] = "";
    if (fread(fixed, 1, 10, file) != 10 || memcmp(fixed, "\x93NUMPY\1\0", 8) != 0) return false;
    size_t length = (size_t)fixed[8] | (size_t)fixed[9] << 8;
    *start = 10 + (long)length;
    if (length >= sizeof dictionary || *start % 64 != 0 || fread(dictionary, 1, length, file) != length) return false;
    return dictionary[length - 1] == '\n' &&
           sscanf(dictionary, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, cols) == 2;
}

static void test_logits(const Cli* cli) {
    char path[512], temporary[512], prompt[400] = "";
    for (int i = 0; i < 90; i++) strcat(prompt, i % 2 == 0 ? "a," : "b.");
    path_in(cli, "logits.npy.tmp", temporary);
    Result r = RUN(cli, "-p", prompt, "-n", "1", "--json", "--logits", path_in(cli, "logits.npy", path));
    Result without = RUN(cli, "-p", prompt, "-n", "1", "--json");
    int rows = 0, cols = 0, T = count_elements(json_find(r.out, "prompt_tokens", 0)), next = -1, likeliest = 0;
    long start = 0;
    FILE* file = fopen(path, "rb");
    bool ok = r.status == 0 && file != NULL && read_npy_header(file, &rows, &cols, &start);
    test_check(cli->t, ok && rows == T && T > 64 && cols == 4096,
               "--logits writes a .npy file of float32 with shape (%d, %d) for %d tokens", rows, cols, T);
    static float row[4096];
    ok = ok && fseek(file, -(long)sizeof row, SEEK_END) == 0 && ftell(file) == start + (long)sizeof row * (T - 1);
    ok = ok && fread(row, sizeof *row, 4096, file) == 4096;
    for (int i = 1; i < 4096; i++) likeliest = row[i] > row[likeliest] ? i : likeliest;
    sscanf(json_find(r.out, "tokens", 0), "[%d", &next);
    char hash[32];
    snprintf(hash, sizeof hash, "\"%016llx\"", hash_bytes(row, sizeof row));
    test_check(cli->t, ok && likeliest == next && starts_with(json_find(r.out, "logits_hash", 0), hash),
               "its last row is what token %d was chosen from, and has the report's hash", next);
    test_check(cli->t, same_value(r.out, without.out, "logits_hash", 0),
               "the logits are the same as of the prompt in one piece");
    test_check(cli->t, access(temporary, F_OK) != 0, "no unfinished file is left");
    if (file != NULL) fclose(file);
    unlink(path);
    if (mkdir(path, 0700) != 0) return;
    r = RUN(cli, "-p", prompt, "-n", "1", "--logits", path);
    test_check(cli->t, r.status == 1 && access(temporary, F_OK) != 0, "nor when the file cannot take its place");
    rmdir(path);
}

static void test_save(const Cli* cli) {
    static const char* const types[] = {"f32", "bf16", "f16", "q8", "bf16z"};
    char path[512], temporary[512], at_load[32];
    path_in(cli, "saved.bin", path);
    path_in(cli, "saved.bin.tmp", temporary);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        Result loaded = RUN(cli, "-p", PROMPT, SAMPLED, "-s", "5", "--dtype", types[i]);
        Result saved = RUN(cli, "--dtype", types[i], "--save", path);
        Result r = RUN(cli, "-m", path, "-T", "models/fairytales_tokenizer.bin", "-p", PROMPT, SAMPLED, "-s", "5");
        snprintf(at_load, sizeof at_load, "  dtype: %s\n", types[i]); // without "(... in the file)"
        bool ok = saved.status == 0 && saved.length == 0 && strstr(saved.err, "no tokenizer lies beside it") != NULL;
        test_check(cli->t, ok && same_text_and_logits(&loaded, &r) && strstr(r.err, at_load) != NULL,
                   "--dtype %s --save: the file holds %s and gives the text and the logits of --dtype %s", types[i],
                   types[i], types[i]);
        unlink(path);
    }
    Result cut = RUN(cli, "-p", PROMPT, "-n", "4", "--layers", "3");
    Result saved = RUN(cli, "--layers", "3", "--save", path, "-q");
    Result r = RUN(cli, "-m", path, "-T", "models/fairytales_tokenizer.bin", "-p", PROMPT, "-n", "4");
    test_check(cli->t, saved.err[0] == '\0' && same_text_and_logits(&cut, &r),
               "--layers 3 --save: a model of three layers");
    Result again = RUN(cli, "--save", path);
    test_check(cli->t, again.status == 1 && is_message(again.err, "is there already"),
               "a file that is there stays: %.*s", FIRST_LINE(again.err));
    test_check(cli->t, access(temporary, F_OK) != 0, "no unfinished file is left");
    unlink(path);
}

// ---------------------------------------------------------------------------------------------------------------------
// When things go wrong outside.

// Seconds of --top 3 --all for so many copies of a text. -1: the exit status was not 0.
static double seconds_of_scores(const Cli* cli, int copies, Wiring wiring) {
    char path[512], text[2048];
    FILE* in = fopen("tests/fixtures/perplexity.txt", "rb");
    FILE* out = fopen(path_in(cli, "long.txt", path), "wb");
    size_t n = in != NULL ? fread(text, 1, sizeof text, in) : 0;
    for (int i = 0; i < copies && out != NULL; i++) fwrite(text, 1, n, out);
    if (in != NULL) fclose(in);
    if (out != NULL) fclose(out);
    double start = seconds_now();
    Result r = run_wired(cli, wiring, (const char*[]){"-f", path, "--top", "3", "--all", "--device", "cpu", NULL});
    return r.status == 0 && strstr(r.err, "gpt2: /") == NULL ? seconds_now() - start : -1;
}

static void test_reader_of_scores(const Cli* cli) {
    double read = seconds_of_scores(cli, 8, (Wiring){.output_file = "/dev/null"});
    double unread = seconds_of_scores(cli, 64, (Wiring){.broken_pipe = true});
    test_check(cli->t, unread >= 0 && unread < read,
               "and --top K --all: %.0f ms for a text that takes 8 times %.0f ms to be read", 1e3 * unread, 1e3 * read);
}

static void test_outputs_that_fail(const Cli* cli) {
    Result r = run_wired(cli, (Wiring){.broken_pipe = true}, (const char*[]){"-n", "-1", "--device", "cpu", NULL});
    bool is_quiet = strstr(r.err, "gpt2: ") == NULL && strstr(r.err, "Time for") == NULL;
    test_check(cli->t, r.status == 0 && is_quiet, "a closed pipe ends the text at once and quietly, exit status %d",
               r.status);
    test_reader_of_scores(cli);
    if (access("/dev/full", W_OK) == 0) {
        static const char* const modes[][3] = {{"-n", "2", NULL},
                                               {"--json", NULL, NULL},
                                               {"--help", NULL, NULL},
                                               {"--tokens", NULL, NULL},
                                               {"--list-devices", NULL, NULL},
                                               {"--top", "3", NULL},
                                               {"--perplexity", NULL, NULL},
                                               {"--info", NULL, NULL}};
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
            r = run_wired(cli, (Wiring){.output_file = "/dev/full"},
                          (const char*[]){"-p", "a", "-q", modes[i][0], modes[i][1], NULL});
            test_check(cli->t, r.status == 1 && is_message(r.err, "No space left"),
                       "a full disk fails %s with one line", modes[i][0]);
        }
    } else {
        test_skip(cli->t, "this machine has no /dev/full");
    }
    r = run_wired(cli, (Wiring){.closed_output = true}, (const char*[]){"-p", "a", "-q", NULL});
    test_check(cli->t, r.status == 1 && is_message(r.err, "standard output"), "a closed standard output is an error");
}

// Starts a generation that takes seconds, and waits for its first text. Negative on failure.
static pid_t start_long(const Cli* cli, const char* model) {
    char path[512];
    struct stat info = {0};
    unlink(path_in(cli, "out", path)); // what an earlier run printed
    pid_t pid = start(cli,
                      (const char*[]){"-m", model, "-T", "models/fairytales_tokenizer.bin", "-p", PROMPT, "-n", "-1",
                                      "--ignore-eos", "-b", "16", NULL},
                      &(Wiring){0});
    double deadline = seconds_now() + 30;
    while (pid > 0 && seconds_now() < deadline) {
        if (stat(path, &info) == 0 && info.st_size > (off_t)sizeof PROMPT) return pid;
        sleep_ms(1);
    }
    if (pid > 0) kill(pid, SIGKILL);
    return pid;
}

static bool copy_file(const char* to, const char* from) {
    static char bytes[1 << 16];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    bool ok = in != NULL && out != NULL;
    for (size_t n; ok && (n = fread(bytes, 1, sizeof bytes, in)) > 0;) ok = fwrite(bytes, 1, n, out) == n;
    if (in != NULL) fclose(in);
    return out != NULL && fclose(out) == 0 && ok;
}

static void test_signals(const Cli* cli) {
    pid_t pid = start_long(cli, MODEL);
    if (pid > 0) kill(pid, SIGINT);
    Result r = finish(cli, pid);
    bool ok = r.status == 130 && strstr(r.err, ": interrupted") != NULL && strstr(r.err, "Per token: ") != NULL;
    test_check(cli->t, ok && starts_with(r.out, PROMPT), "SIGINT ends the text with its report, exit status %d",
               r.status);

    char path[512];
    if (!test_check(cli->t, copy_file(path_in(cli, "model.bin", path), MODEL), "the model can be copied")) return;
    pid = start_long(cli, path);
    ok = pid > 0 && truncate(path, 1024) == 0;
    r = finish(cli, pid);
    test_check(cli->t, ok && r.status == 1 && strstr(r.err, "while it was in use") != NULL,
               "a model file that is truncated while in use is an error, exit status %d", r.status);
}

static void test_vocabularies(const Cli* cli) {
    char path[512];
    int32_t header[256] = {20240328, 1, 256};
    FILE* file = fopen(path_in(cli, "bytes_tokenizer.bin", path), "wb");
    bool ok = file != NULL && fwrite(header, sizeof header, 1, file) == 1;
    for (int i = 0; ok && i < 256; i++) ok = fputc(1, file) != EOF && fputc(i, file) != EOF;
    ok = file != NULL && fclose(file) == 0 && ok;
    Result r = RUN(cli, "-T", path, "-p", "a");
    test_check(cli->t, ok && r.status == 1 && is_message(r.err, "4096") && is_message(r.err, "256"),
               "a tokenizer of another model is refused with both numbers: %.*s", FIRST_LINE(r.err));
    r = RUN(cli, "-T", path, "-p", "abc", "--tokens");
    test_check(cli->t, ok && r.status == 0 && strcmp(r.out, "97 98 99\n") == 0, "-T chooses the tokenizer: %.*s",
               FIRST_LINE(r.out));
}

// Writes text to a "terminal", n bytes at a time, and returns how many writes ended within a character; *same is
// whether all bytes arrived.
static int count_split_characters(const char* text, size_t length, size_t n, bool hold, bool* same) {
    int ends[2], split = 0;
    char received[256];
    size_t got = 0;
    Error error;
    TextOutput out;
    *same = false;
    if (pipe(ends) != 0) return -1;
    text_open(&out, ends[1]);
    out.is_terminal = hold;
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    for (size_t i = 0; i <= length; i += n) {
        bool is_end = i + n > length;
        if (!text_write(&out, text + i, is_end ? length - i : n, &error)) break;
        if (is_end && !text_end(&out, &error)) break;
        ssize_t more = read(ends[0], received + got, sizeof received - got);
        got += more > 0 ? (size_t)more : 0;
        // within a character: the next byte that is to come continues one
        split += !is_end && got > 0 && ((unsigned char)text[got] & 0xc0) == 0x80;
    }
    close(ends[0]);
    close(ends[1]);
    *same = got >= length && memcmp(received, text, length) == 0 && got == length + (hold ? 1 : 0);
    return split;
}

static void test_terminal(Tests* t) {
    static const char text[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x88z\xce\xb1";
    size_t length = sizeof text - 1;
    for (size_t n = 1; n <= 4; n++) {
        bool same, same_unheld;
        int held = count_split_characters(text, length, n, true, &same);
        int unheld = count_split_characters(text, length, n, false, &same_unheld);
        test_check(t, held == 0 && same, "%zu bytes at a time: %d characters are split on a terminal", n, held);
        test_check(t, unheld > 0 && same_unheld, "into a pipe bytes go as they come: %d characters are split", unheld);
    }
    static const char broken[] = "a\xe2\x82"
                                 "b\xf0\x9f\xe2\x82\xac\xff\xc3";
    bool same;
    count_split_characters(broken, sizeof broken - 1, 1, true, &same);
    test_check(t, same, "bytes that are no characters are not lost on a terminal");
}

// ---------------------------------------------------------------------------------------------------------------------

static void remove_files(const Cli* cli) {
    static const char* const names[] = {"out",
                                        "err",
                                        "prompt.txt",
                                        "long.txt",
                                        "model.bin",
                                        "bytes_tokenizer.bin",
                                        "exchanged_tokenizer.bin",
                                        "logits.npy",
                                        "saved.bin"};
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(path_in(cli, names[i], path));
    rmdir(cli->directory);
}

// GPT-2 itself, where it has been downloaded: its greedy text is known.
static void test_real_gpt2(const Cli* cli) {
    static const char expected[] = "The first time I saw the new version of the game, I was so excited. I was";
    const char* models[] = {"gpt2_124M.bin", "gpt2_124M_bf16.bin"};
    for (int i = 0; i < 2; i++) {
        if (access(models[i], R_OK) != 0) {
            test_skip(cli->t, "%s is not here (scripts/download_gpt2.sh brings it)", models[i]);
            continue;
        }
        Result r = RUN(cli, "-m", models[i], "-p", "<|endoftext|>", "--no-echo", "-n", "20", "--device", "cpu");
        test_check(cli->t, r.status == 0 && starts_with(r.out, expected), "%s begins as it should: %.80s", models[i],
                   r.out);
    }
}

void test_cli(Tests* t) {
    test_section("command line: the program as its users meet it");
    test_terminal(t);
    const char *program = getenv("GPT2_PROGRAM"), *temporary = getenv("TMPDIR");
    Cli cli = {.t = t, .program = program != NULL ? program : "./gpt2"};
    if (access(cli.program, X_OK) != 0 || access(MODEL, R_OK) != 0) {
        test_skip(t, "%s and %s are needed, in the working directory", cli.program, MODEL);
        return;
    }
    snprintf(cli.directory, sizeof cli.directory, "%s/gpt2_cli_XXXXXX", temporary != NULL ? temporary : "/tmp");
    if (!test_check(t, mkdtemp(cli.directory) != NULL, "%s is there for files", cli.directory)) return;
    test_flags(&cli);
    test_information(&cli);
    test_report(&cli);
    test_prompt(&cli);
    test_context(&cli);
    test_determinism(&cli);
    test_samples(&cli);
    test_end_of_text(&cli);
    test_json(&cli);
    test_tokens_and_top(&cli);
    test_inspections(&cli);
    test_logits(&cli);
    test_save(&cli);
    test_outputs_that_fail(&cli);
    test_signals(&cli);
    test_vocabularies(&cli);
    test_real_gpt2(&cli);
    remove_files(&cli);
}
