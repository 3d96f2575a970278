// libFuzzer target for the command line: the input's lines are the arguments. Whatever they are, the answer is options
// within the ranges that the rest of the program relies on, or one line that says what is wrong.
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

static void require(bool ok, const char* claim) {
    if (ok) return;
    fprintf(stderr, "not so: %s\n", claim);
    abort();
}

static void check_ranges(const Options* o) {
    require(o->samples >= 1 && o->samples <= 1024, "1 to 1024 samples");
    require(o->threads >= 0 && o->threads <= 256, "at most 256 threads");
    require(o->num_predict >= -1 && o->layers >= 0 && o->context >= 0 && o->top >= 0, "sizes are not negative");
    require(o->dtype >= 0 && o->dtype < NUM_DTYPES, "a dtype that there is");
    require(o->sampler.top_k >= 0, "--top-k is not negative");
    require(o->sampler.temperature >= 0 && o->sampler.temperature <= 1000,
            "the temperature is a number from 0 to 1000");
    require(o->sampler.top_p >= 0 && o->sampler.top_p <= 1 && o->sampler.min_p >= 0 && o->sampler.min_p <= 1,
            "probabilities are numbers from 0 to 1");
    require(o->sampler.repeat_penalty > 0 && isfinite(o->sampler.repeat_penalty), "the penalty is positive");
    require(o->prompt == NULL || o->prompt_file == NULL, "the prompt comes from one place");
    require(o->logits == NULL || *o->logits != '\0', "--logits has a name");
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    enum { MAX_ARGUMENTS = 40 };
    char* line = malloc(size + 1);
    char* argv[MAX_ARGUMENTS + 2] = {"gpt2"};
    int argc = 1;
    require(line != NULL, "there is memory");
    memcpy(line, data, size);
    line[size] = '\0';
    for (char *next = line, *argument; argc <= MAX_ARGUMENTS && (argument = strsep(&next, "\n")) != NULL;) {
        argv[argc++] = argument;
    }
    Options options;
    Error error = {""};
    optind = 0; // getopt_long keeps its place in between
    if (options_parse(&options, argc, argv, &error)) {
        bool is_information = options.action == ACTION_HELP || options.action == ACTION_VERSION;
        if (!is_information) check_ranges(&options); // --help and --version leave the rest of the line unread
    } else {
        size_t length = strlen(error.text);
        require(length > 0 && length < sizeof error.text, "what is refused has a reason");
    }
    free(line);
    return 0;
}
