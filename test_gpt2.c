// make test: every claim of the README that needs no download. `test_gpt2 NAME...` runs only the groups named.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/test.h"

void test_section(const char* title) {
    printf("\n%s\n", title);
}

static void print_claim(const char* verdict, const char* format, va_list arguments) {
    printf("  %-6s ", verdict);
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
}

bool test_check(Tests* t, bool ok, const char* claim, ...) {
    va_list arguments;
    va_start(arguments, claim);
    print_claim(ok ? "ok" : "FAILED", claim, arguments);
    va_end(arguments);
    *(ok ? &t->passed : &t->failed) += 1;
    return ok;
}

void test_skip(Tests* t, const char* why, ...) {
    va_list arguments;
    va_start(arguments, why);
    print_claim("skip", why, arguments);
    va_end(arguments);
    t->skipped += 1;
}

int main(int argc, char** argv) {
    const struct {
        const char* name;
        void (*run)(Tests*);
    } groups[] = {
        {"dtype", test_dtype},
        {"tokenizer", test_tokenizer},
        {"checkpoint", test_checkpoint},
        {"sampler", test_sampler},
        {"kernels", test_kernels},
        {"threads", test_threads},
        {"model", test_model},
        {"inside", test_inside},
        {"cli", test_cli},
        {"hostile", test_hostile},
        {"surroundings", test_surroundings},
        {"long", test_long},
#ifdef HAVE_TEST_HIP
        {"hip", test_hip},
#endif
    };
    Tests t = {0};
    int known = 1; // arguments that name a group
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; i++) {
            bool is_named = strcmp(argv[i], groups[g].name) == 0;
            wanted |= is_named, known += is_named;
        }
        if (wanted) groups[g].run(&t);
    }
    if (known < argc) test_check(&t, false, "%d of %d arguments name a group of tests", known - 1, argc - 1);
    printf("\n%d passed, %d failed", t.passed, t.failed);
    if (t.skipped > 0) printf(", %d skipped", t.skipped);
    printf("\n");
    return t.failed > 0 || t.passed == 0;
}
