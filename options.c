#include "options.h"

#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// What the value of an option is, and so how it is read and where it goes.
typedef enum {
    VALUE_TEXT,   // const char*
    VALUE_INT,    // int in [low, high]
    VALUE_REAL,   // float in [low, high]
    VALUE_FLAG,   // bool, set by the option's presence
    VALUE_SEED,   // uint64_t, or -1
    VALUE_DTYPE,  // auto or a name of dtype_names
    VALUE_DEVICE, // auto, cpu, gpu or gpu:N
    VALUE_ACTION, // Action, in `low`
    VALUE_HELP,   // as VALUE_ACTION, and the rest of the line does not matter
    VALUE_VERIFY, // VALUE_ACTION with a text or without
    VALUE_SAVE,   // VALUE_ACTION with the name of a file
    VALUE_PROFILE // VALUE_ACTION with "json" or without
} ValueKind;

typedef struct {
    int letter; // of the short form, or 0
    const char* name;
    const char* value_name; // in the help; NULL for an option without a value, "[=...]" for one that may have none
    ValueKind kind;
    size_t offset; // in Options
    double low, high;
    const char* help;
} OptionRow;

enum { MAX_SAMPLES = 1024, MAX_THREADS = 256, MAX_SIZE = INT_MAX, UNSET = INT_MIN };

#define FIELD(name) offsetof(Options, name)

// Every option. Parsing, range checks, --help and the spellings with `_` follow this table.
static const OptionRow option_rows[] = {
    {'m', "model", "PATH", VALUE_TEXT, FIELD(model), 0, 0,
     "llm.c checkpoint or image (.bin), .safetensors file or Hugging Face directory; default: $GPT2_MODEL, "
     "gpt2_124M_bf16z.bin, gpt2_124M_bf16.bin, gpt2_124M.bin, openai-community/gpt2 in the Hugging Face cache, else "
     "the small model that comes with the program"},
    {'T', "tokenizer", "PATH", VALUE_TEXT, FIELD(tokenizer), 0, 0, "default: what lies beside the model"},
    {'p', "prompt", "TEXT", VALUE_TEXT, FIELD(prompt), 0, 0,
     "default: what is piped into the program, else <|endoftext|>; -: standard input"},
    {'f', "file", "FILE", VALUE_TEXT, FIELD(prompt_file), 0, 0, "prompt from a file"},
    {'n', "n-predict", "N", VALUE_INT, FIELD(num_predict), -1, MAX_SIZE,
     "tokens to generate (20); 0: only run the prompt; -1: until <|endoftext|> or the context is full"},
    {'s', "seed", "N", VALUE_SEED, FIELD(seed), 0, 0, "of the random numbers; -1, the default: from the clock"},
    {0, "temp", "T", VALUE_REAL, FIELD(sampler.temperature), 0, 1000,
     "temperature; 0, the default: the likeliest token"},
    {0, "top-k", "K", VALUE_INT, FIELD(sampler.top_k), 0, MAX_SIZE, "choose among the K likeliest tokens; 0: all (0)"},
    {0, "top-p", "P", VALUE_REAL, FIELD(sampler.top_p), 0, 1,
     "choose among the fewest tokens with probability P together; 1: all (1)"},
    {0, "min-p", "P", VALUE_REAL, FIELD(sampler.min_p), 0, 1,
     "choose among tokens at least P times as likely as the likeliest; 0: all (0)"},
    {0, "repeat-penalty", "R", VALUE_REAL, FIELD(sampler.repeat_penalty), 0.01, 100,
     "make the last 64 tokens R times less likely to come again; 1: off (1)"},
    {'b', "samples", "B", VALUE_INT, FIELD(samples), 1, MAX_SAMPLES, "B continuations of the prompt (1)"},
    {'t', "threads", "N", VALUE_INT, FIELD(threads), 1, MAX_THREADS, "default: the physical cores"},
    {0, "device", "auto|cpu|gpu[:N]", VALUE_DEVICE, 0, 0, 0,
     "where the model runs; auto, the default: on a GPU if there is one; N: its number in --list-devices"},
    {0, "list-devices", NULL, VALUE_ACTION, FIELD(action), ACTION_LIST_DEVICES, 0, "print the devices and stop"},
    {0, "cpu-logits", NULL, VALUE_FLAG, FIELD(cpu_logits), 0, 0, "compute the logits on the CPU, whatever the device"},
    {0, "dtype", "auto|f32|bf16|f16|q8|bf16z", VALUE_DTYPE, 0, 0, 0,
     "what the weights are kept as in memory; auto, the default: as the file has them, but f32 becomes bf16 on a GPU; "
     "bf16z: bf16, packed without loss"},
    {0, "layers", "N", VALUE_INT, FIELD(layers), 1, MAX_SIZE, "use the first N layers"},
    {0, "ctx", "N", VALUE_INT, FIELD(context), 1, MAX_SIZE, "limit the context, prompt and continuation, to N tokens"},
    {0, "tokens", NULL, VALUE_ACTION, FIELD(action), ACTION_TOKENS, 0, "print the prompt's token ids and stop"},
    {0, "top", "K", VALUE_INT, FIELD(top), 1, MAX_SIZE,
     "print the K likeliest next tokens; text only follows when -n is given"},
    {0, "all", NULL, VALUE_FLAG, FIELD(all), 0, 0,
     "with --top: for every position of the prompt, with the rank and probability of the token that follows, and the "
     "perplexity of the text, which may be longer than the context"},
    {0, "perplexity", NULL, VALUE_ACTION, FIELD(action), ACTION_SCORE, 0,
     "print the mean negative log likelihood and the perplexity of the prompt; computed in f32 unless --dtype says "
     "otherwise"},
    {0, "stride", "N", VALUE_INT, FIELD(stride), 1, MAX_SIZE,
     "tokens from one window to the next over a text longer than the context (half the context)"},
    {0, "verify", "[=REFERENCE]", VALUE_VERIFY, FIELD(reference), ACTION_VERIFY, 0,
     "run the prompt with every weight type and on every device, and compare with f32; or compare with another "
     "checkpoint, or with the .npy file of its --logits; exit status 1 when FAILED"},
    {0, "tolerance", "R", VALUE_REAL, FIELD(tolerance), 1e-9, 1000,
     "largest difference that --verify passes, relative; default: what rounding to the weight type explains, measured "
     "on the model"},
    {0, "profile", "[=json]", VALUE_PROFILE, FIELD(action), ACTION_PROFILE, 0,
     "print where the prompt's and the tokens' time goes, operation by operation"},
    {0, "estimate", NULL, VALUE_ACTION, FIELD(action), ACTION_ESTIMATE, 0,
     "print the time per operation that follows from the shapes alone; --estimate BW PEAK: on a machine that reads BW "
     "GB/s and does PEAK GFLOP/s (default: this one, measured)"},
    {0, "info", NULL, VALUE_ACTION, FIELD(action), ACTION_INFO, 0,
     "print what the checkpoint is and needs; with -v the range of every tensor"},
    {0, "save", "FILE", VALUE_SAVE, FIELD(save), ACTION_SAVE, 0,
     "write the model to FILE, with the weights that --dtype says, and stop: f32 and bf16 as llm.c's checkpoint, the "
     "other types as an image, which loads without being converted"},
    {0, "logits", "FILE.npy", VALUE_TEXT, FIELD(logits), 0, 0, "write the logits of every prompt position, float32"},
    {0, "json", NULL, VALUE_FLAG, FIELD(json), 0, 0, "print text and report as one JSON object"},
    {0, "ignore-eos", NULL, VALUE_FLAG, FIELD(ignore_eos), 0, 0, "never generate <|endoftext|>"},
    {0, "no-echo", NULL, VALUE_FLAG, FIELD(no_echo), 0, 0, "print the continuation without the prompt"},
    {'q', "quiet", NULL, VALUE_FLAG, FIELD(quiet), 0, 0, "no report, only errors"},
    {'v', "verbose", NULL, VALUE_FLAG, FIELD(verbose), 0, 0, "report the tensors too"},
    {0, "version", NULL, VALUE_HELP, FIELD(action), ACTION_VERSION, 0, "print the version and how it was built"},
    {'h', "help", NULL, VALUE_HELP, FIELD(action), ACTION_HELP, 0, "print this"},
};

enum { NUM_OPTIONS = sizeof option_rows / sizeof *option_rows, MAX_NAME = 24 };

// ---------------------------------------------------------------------------------------------------------------------
// Reading one value. The whole string must be a number; strtol and strtod alone would take " 1", "1x" or "nan".

static bool starts_like_number(const char* value) {
    if (*value == '-' || *value == '+') value++;
    return (*value >= '0' && *value <= '9') || *value == '.';
}

static bool read_int(int* out, const OptionRow* row, const char* value, Error* error) {
    char* end;
    long number = strtol(value, &end, 10); // saturates, so that an overflow is out of range as well
    if (starts_like_number(value) && *end == '\0' && (double)number >= row->low && (double)number <= row->high) {
        *out = (int)number;
        return true;
    }
    return fail(error, "--%s: \"%s\" is not a whole number from %.0f to %.0f", row->name, value, row->low, row->high);
}

static bool read_real(float* out, const OptionRow* row, const char* value, Error* error) {
    char* end;
    double number = strtod(value, &end);
    bool is_decimal = starts_like_number(value) && strpbrk(value, "xX") == NULL;
    if (is_decimal && *end == '\0' && number >= row->low && number <= row->high) {
        *out = (float)number;
        return true;
    }
    return fail(error, "--%s: \"%s\" is not a number from %g to %g", row->name, value, row->low, row->high);
}

// 32 bits of the clock and the process: short enough to type in again.
static uint64_t seed_from_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t mixed = ((uint64_t)t.tv_sec * 1000000007u) ^ ((uint64_t)t.tv_nsec << 8) ^ (uint64_t)getpid();
    return (uint32_t)(mixed * 0x9e3779b97f4a7c15u >> 32);
}

static bool read_seed(uint64_t* out, const char* value, Error* error) {
    if (strcmp(value, "-1") == 0) {
        *out = seed_from_clock();
        return true;
    }
    char* end;
    unsigned long long number = strtoull(value, &end, 10);
    char canonical[32];
    snprintf(canonical, sizeof canonical, "%llu", number);
    if (strcmp(value, canonical) != 0) { // also where strtoull saturated or took a sign
        return fail(error, "--seed: \"%s\" is not a whole number from 0 to %llu, nor -1", value, ULLONG_MAX);
    }
    *out = number;
    return true;
}

static bool read_dtype(Options* options, const char* value, Error* error) {
    options->keep_dtype = strcmp(value, "auto") == 0;
    if (options->keep_dtype) return true;
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        if (strcmp(value, dtype_names[dtype]) == 0) {
            options->dtype = (DType)dtype;
            return true;
        }
    }
    return fail(error, "--dtype: \"%s\" is none of auto, f32, bf16, f16, q8, bf16z", value);
}

static bool read_device(Options* options, const char* value, Error* error) {
    options->device = strcmp(value, "auto") == 0 ? DEVICE_AUTO : strcmp(value, "cpu") == 0 ? DEVICE_CPU : DEVICE_GPU;
    options->gpu = strncmp(value, "gpu:", 4) == 0 ? (int)strtol(value + 4, NULL, 10) : 0;
    if (options->device != DEVICE_GPU) return true;
    char canonical[32];
    snprintf(canonical, sizeof canonical, "gpu:%d", options->gpu);
    if (strcmp(value, "gpu") != 0 && (strcmp(value, canonical) != 0 || options->gpu < 0)) {
        return fail(error, "--device: \"%s\" is none of auto, cpu, gpu, gpu:N", value);
    }
#ifndef GPT2_HIP
    return fail(error,
                "--device: \"%s\" is not available, this gpt2 was built without HIP and runs on the CPU only; "
                "install hipcc and build again, or use auto or cpu",
                value);
#else
    return true;
#endif
}

// Actions exclude each other.
static bool read_action(Options* options, const OptionRow* row, Error* error) {
    Action action = (Action)row->low;
    if (options->action != ACTION_GENERATE && options->action != action) {
        return fail(error,
                    "--%s: only one of --tokens, --list-devices, --info, --verify, --profile, --estimate, "
                    "--perplexity and --save can be asked for at a time",
                    row->name);
    }
    options->action = action;
    return true;
}

static bool read_profile(Options* options, const OptionRow* row, const char* value, Error* error) {
    if (value != NULL && strcmp(value, "json") != 0) return fail(error, "--profile: \"%s\" is not json", value);
    if (value != NULL) options->json = true;
    return read_action(options, row, error);
}

static bool read_verify(Options* options, const OptionRow* row, const char* value, Error* error) {
    if (value != NULL && *value == '\0') return fail(error, "--verify: the reference's name is empty");
    options->reference = value;
    return read_action(options, row, error);
}

static bool read_save(Options* options, const OptionRow* row, const char* value, Error* error) {
    if (*value == '\0') return fail(error, "--save: the file's name is empty");
    options->save = value;
    return read_action(options, row, error);
}

static bool read_value(Options* options, const OptionRow* row, const char* value, Error* error) {
    void* field = (char*)options + row->offset;
    switch (row->kind) {
    case VALUE_TEXT: *(const char**)field = value; return true;
    case VALUE_INT: return read_int((int*)field, row, value, error);
    case VALUE_REAL: return read_real((float*)field, row, value, error);
    case VALUE_FLAG: *(bool*)field = true; return true;
    case VALUE_SEED: return read_seed((uint64_t*)field, value, error);
    case VALUE_DTYPE: return read_dtype(options, value, error);
    case VALUE_DEVICE: return read_device(options, value, error);
    case VALUE_ACTION: return read_action(options, row, error);
    case VALUE_VERIFY: return read_verify(options, row, value, error);
    case VALUE_SAVE: return read_save(options, row, value, error);
    case VALUE_PROFILE: return read_profile(options, row, value, error);
    case VALUE_HELP: options->action = (Action)row->low; return true;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// The whole line, through getopt_long.

// What getopt_long wants, made from option_rows. Row i has the key FIRST_KEY + i, and its letter.
typedef struct {
    char letters[2 * NUM_OPTIONS + 2];
    struct option names[2 * NUM_OPTIONS + 1];
    char underscored[NUM_OPTIONS][MAX_NAME];
} GetoptTables;

enum { FIRST_KEY = 256 };

static void make_tables(GetoptTables* tables) {
    char* letter = tables->letters;
    struct option* name = tables->names;
    *letter++ = ':'; // a missing value is reported as ':'
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const OptionRow* row = &option_rows[i];
        int argument = row->value_name == NULL     ? no_argument
                       : row->value_name[0] == '[' ? optional_argument
                                                   : required_argument;
        *name++ = (struct option){row->name, argument, NULL, FIRST_KEY + i};
        if (strchr(row->name, '-') != NULL) { // ggml's programs write --top_k
            snprintf(tables->underscored[i], MAX_NAME, "%s", row->name);
            for (char* c = tables->underscored[i]; *c != '\0'; c++) *c = *c == '-' ? '_' : *c;
            *name++ = (struct option){tables->underscored[i], argument, NULL, FIRST_KEY + i};
        }
        if (row->letter == 0) continue;
        *letter++ = (char)row->letter;
        if (argument == required_argument) *letter++ = ':';
    }
    *letter = '\0';
    *name = (struct option){0};
}

static const OptionRow* find_row(int key) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        if (key == FIRST_KEY + i || (key == option_rows[i].letter && key != 0)) return &option_rows[i];
    }
    return NULL;
}

// What getopt_long could not read: `result` is its '?' or ':'.
static bool fail_flag(int result, const char* argument, Error* error) {
    const OptionRow* row = find_row(optopt);
    if (result == ':') return fail(error, "--%s needs a value, %s", row->name, row->value_name);
    if (row != NULL && optopt >= FIRST_KEY) return fail(error, "%s: --%s takes no value", argument, row->name);
    if (optopt != 0) return fail(error, "-%c: no such option", optopt);
    return fail(error, "%s: no such option, or short for several", argument);
}

// Where an option that some actions know nothing of belongs.
typedef struct {
    const char* option;
    bool is_given;
    unsigned actions; // a bit for each
    const char* where;
} Belonging;

#define ON(action) (1u << (action))
enum {
    TEXTS = ON(ACTION_GENERATE),
    REPORTS = ON(ACTION_VERIFY) | ON(ACTION_PROFILE) | ON(ACTION_ESTIMATE) | ON(ACTION_INFO)
};

// What an action would pass over silently: what it was to print or write is refused, the rest is told by the caller.
static bool check_belongings(Options* options, Action action, Error* error) {
    const SamplerOptions* s = &options->sampler;
    const unsigned scores = ON(ACTION_SCORE), runs = TEXTS | ON(ACTION_PROFILE) | ON(ACTION_ESTIMATE);
    const Belonging outputs[] = {
        {"--logits", options->logits != NULL, TEXTS, "a text, of -n 0 tokens if none is wanted"},
        {"--json", options->json, TEXTS | scores | REPORTS, "texts, scores and reports"},
        {"--top", options->top > 0, TEXTS | scores, "a text, of -n 0 tokens if none is wanted, or to --all"},
        {"--stride", options->stride > 0, scores, "--top K --all and --perplexity"},
        {"--tolerance", options->tolerance > 0, ON(ACTION_VERIFY), "--verify"},
    };
    const Belonging others[] = {
        {"--n-predict", options->num_predict != UNSET, runs, NULL},
        {"--samples", options->samples > 1, runs, NULL},
        {"--temp", s->temperature > 0, TEXTS, NULL},
        {"--repeat-penalty", s->repeat_penalty != 1, TEXTS, NULL},
        {"--ignore-eos", options->ignore_eos, TEXTS, NULL},
        {"--no-echo", options->no_echo, TEXTS, NULL},
        {"--layers", options->layers > 0, ~(ON(ACTION_INFO) | ON(ACTION_TOKENS) | ON(ACTION_LIST_DEVICES)), NULL},
        {"--cpu-logits", options->cpu_logits, TEXTS | scores | ON(ACTION_VERIFY) | ON(ACTION_PROFILE), NULL},
    };
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        const Belonging* b = &outputs[i];
        if (b->is_given && !(b->actions & ON(action))) return fail(error, "%s belongs to %s", b->option, b->where);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (others[i].is_given && !(others[i].actions & ON(action))) options->idle = others[i].option;
    }
    return true;
}

static bool check_combination(Options* options, Error* error) {
    if (options->prompt != NULL && options->prompt_file != NULL) {
        return fail(error, "-p and -f both give a prompt; use one of them");
    }
    if (options->quiet && options->verbose) return fail(error, "-q and -v contradict each other; use one of them");
    if (options->logits != NULL && *options->logits == '\0') return fail(error, "--logits: the file's name is empty");
    bool scores = options->action == ACTION_GENERATE || options->action == ACTION_SCORE;
    if (options->all && (options->top == 0 || !scores)) return fail(error, "--all belongs to --top K");
    if (options->action == ACTION_SCORE && options->top > 0 && !options->all) {
        return fail(error, "--top with --perplexity is for every position: add --all");
    }
    return check_belongings(options, options->all ? ACTION_SCORE : options->action, error);
}

// The numbers after --estimate, which are no options' values: GB/s, then GFLOP/s.
static bool read_estimate(Options* options, char** numbers, int n, Error* error) {
    static const char* const what[MAX_ESTIMATE] = {"GB/s", "GFLOP/s"};
    if (n > MAX_ESTIMATE) {
        return fail(error, "--estimate: \"%s\" is one number too many; it takes GB/s and GFLOP/s",
                    numbers[MAX_ESTIMATE]);
    }
    for (int i = 0; i < n; i++) {
        char* end;
        options->estimate[i] = strtod(numbers[i], &end);
        bool is_decimal = starts_like_number(numbers[i]) && strpbrk(numbers[i], "xX") == NULL && *end == '\0';
        if (!is_decimal || !(options->estimate[i] > 0) || options->estimate[i] > 1e9)
            return fail(error, "--estimate: \"%s\" is no number of %s above 0 and up to 1e9", numbers[i], what[i]);
    }
    return true;
}

// What follows from the options together.
static void complete(Options* options) {
    if (options->num_predict == UNSET) options->num_predict = options->top > 0 ? 0 : 20;
    if (options->all) options->action = ACTION_SCORE;
    // a score judges the checkpoint: unless another type is asked for, nothing is rounded
    if (options->action == ACTION_SCORE && options->keep_dtype) {
        options->keep_dtype = false;
        options->dtype = DTYPE_F32;
    }
    // one that is long enough to tell devices apart; it is the prompt of the experiment that --verify repeats
    bool has_prompt = options->prompt != NULL || options->prompt_file != NULL;
    if (options->action == ACTION_VERIFY && !has_prompt) options->prompt = "What is nature of our existence?";
}

bool options_parse(Options* options, int argc, char** argv, Error* error) {
    *options = (Options){
        .action = ACTION_GENERATE,
        .num_predict = UNSET,
        .sampler = {.top_p = 1, .repeat_penalty = 1},
        .seed = seed_from_clock(),
        .samples = 1,
        .keep_dtype = true,
    };
    GetoptTables tables = {0};
    make_tables(&tables);
    opterr = 0; // the messages are ours
    for (int key; (key = getopt_long(argc, argv, tables.letters, tables.names, NULL)) != -1;) {
        const OptionRow* row = find_row(key);
        if (row == NULL) return fail_flag(key, argv[optind - 1], error);
        if (!read_value(options, row, optarg, error)) return false;
        if (row->kind == VALUE_HELP) return true;
    }
    bool is_estimate = options->action == ACTION_ESTIMATE;
    if (is_estimate && !read_estimate(options, argv + optind, argc - optind, error)) return false;
    if (!is_estimate && optind < argc)
        return fail(error, "\"%s\" belongs to no option; a prompt is given with -p", argv[optind]);
    if (!check_combination(options, error)) return false;
    complete(options);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------

enum { HELP_COLUMN = 26, HELP_WIDTH = 80 };

// Prints words from HELP_COLUMN on, in lines that end before HELP_WIDTH. `width` characters stand on the line already.
static void print_wrapped(FILE* out, const char* words, int width) {
    for (int length; *words != '\0'; words += length + (words[length] == ' ')) {
        length = (int)strcspn(words, " ");
        if (width > HELP_COLUMN && width + 1 + length >= HELP_WIDTH) {
            fputc('\n', out);
            width = 0;
        }
        width += fprintf(out, "%*s%.*s", width < HELP_COLUMN ? HELP_COLUMN - width : 1, "", length, words);
    }
    fputc('\n', out);
}

static void print_row(FILE* out, const OptionRow* row) {
    int width =
        row->letter != 0 ? fprintf(out, "  -%c, --%s", row->letter, row->name) : fprintf(out, "      --%s", row->name);
    if (row->value_name != NULL) width += fprintf(out, "%s%s", row->value_name[0] == '[' ? "" : " ", row->value_name);
    if (width >= HELP_COLUMN) {
        fprintf(out, "\n");
        width = 0;
    }
    print_wrapped(out, row->help, width);
}

char* options_help(void) {
    char* text = NULL;
    size_t length;
    FILE* out = open_memstream(&text, &length);
    if (out == NULL) return NULL;
    fprintf(out, "usage: gpt2 [-m MODEL] [-p PROMPT | -f FILE] [-n N] [options]\n"
                 "Continues a text with GPT-2. The text goes to standard output, the report to standard error.\n\n");
    for (int i = 0; i < NUM_OPTIONS; i++) print_row(out, &option_rows[i]);
    fprintf(out, "\nExit status: 0 fine, 1 something failed, 2 wrong usage, 130 interrupted, 143 terminated.\n"
                 "GPT-2's own weights: scripts/download_gpt2.sh 124M\n");
    bool is_whole = ferror(out) == 0;
    if (fclose(out) == 0 && is_whole) return text;
    free(text);
    return NULL;
}
