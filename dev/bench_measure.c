#include "bench_measure.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

void die(const Error* error) {
    fprintf(stderr, "bench: %s\n", error->text);
    exit(1);
}

// ---------------------------------------------------------------------------------------------------------------------
// measurements

void times_add(Times* t, double value) {
    t->values[t->n++] = value;
}

// The values in rising order.
static Times sorted(const Times* t) {
    Times s = *t;
    sort_numbers(s.values, (size_t)s.n);
    return s;
}

double times_median(const Times* t) {
    Times s = sorted(t);
    return s.n == 0 ? 0 : (s.values[(s.n - 1) / 2] + s.values[s.n / 2]) / 2;
}

double times_least(const Times* t) {
    return t->n == 0 ? 0 : sorted(t).values[0];
}

double times_most(const Times* t) {
    return t->n == 0 ? 0 : sorted(t).values[t->n - 1];
}

double times_median_quotient(const Times* a, const Times* b) {
    Times quotients = {.n = 0};
    for (int i = 0; i < a->n && i < b->n; i++) times_add(&quotients, a->values[i] / b->values[i]);
    return times_median(&quotients);
}

// ---------------------------------------------------------------------------------------------------------------------
// other processes

static void exec_child(const char* const* argv, int output) {
    int nowhere = open("/dev/null", O_RDWR);
    if (nowhere < 0 || dup2(nowhere, 0) < 0 || dup2(output, 1) < 0 || dup2(nowhere, 2) < 0) _exit(127);
    execvp(argv[0], (char* const*)argv);
    _exit(127);
}

// Reads fd to its end into result->output and notes when the first byte came.
static bool read_output(ProcessResult* result, int fd, double start, Error* error) {
    size_t length = 0, capacity = 0;
    for (;;) {
        if (length + 1 >= capacity) {
            char* larger = realloc(result->output, capacity = 2 * capacity + 4096);
            if (larger == NULL) return fail(error, "no memory for the output of a process");
            result->output = larger;
        }
        ssize_t n = read(fd, result->output + length, capacity - length - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(error, "reading from a process: %s", strerror(errno));
        if (n > 0 && length == 0) result->first_byte = seconds_now() - start;
        length += (size_t)n;
        result->output[length] = '\0';
        if (n == 0) return true;
    }
}

bool process_run(ProcessResult* result, const char* const* argv, Error* error) {
    int ends[2], status;
    struct rusage usage;
    *result = (ProcessResult){0};
    if (pipe2(ends, O_CLOEXEC) != 0) return fail(error, "pipe: %s", strerror(errno));
    double start = seconds_now();
    pid_t pid = fork();
    if (pid == 0) exec_child(argv, ends[1]);
    close(ends[1]);
    bool ok = pid > 0 ? read_output(result, ends[0], start, error) : fail(error, "fork: %s", strerror(errno));
    close(ends[0]);
    if (pid > 0 && wait4(pid, &status, 0, &usage) != pid) ok = fail(error, "wait4: %s", strerror(errno));
    if (!ok) return free(result->output), false;
    result->seconds = seconds_now() - start;
    result->peak_megabyte = 1.024e-3 * (double)usage.ru_maxrss;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        free(result->output);
        return fail(error, "%s ended with %s %d; run it by hand to see why", argv[0],
                    WIFEXITED(status) ? "status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : status);
    }
    return true;
}

int process_take_core(Error* error) {
    pid_t pid = fork();
    if (pid < 0) fail(error, "fork: %s", strerror(errno));
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // no busy loop outlives the benchmark
    for (volatile unsigned long n = 0;; n++) continue;
}

void process_stop(int pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
