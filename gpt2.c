// gpt2: continues a text with GPT-2. Options -> model -> tokenizer -> generate -> report.
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint.h"   // checkpoint_find, checkpoint_load
#include "gpt2_kernels.h" // DeviceApi, TokenRun: what runs the model
#include "inspect.h"      // --top K --all, --verify, --profile, --estimate, --info
#include "list_devices.h"
#include "npy.h"         // npy_open: --logits
#include "open_device.h" // on the CPU or a GPU
#include "options.h"     // Options, options_parse
#include "processors.h"  // cpu_threads
#include "prompt.h"      // prompt_read
#include "report.h"      // Generation, and everything that is told about it
#include "sampler.h"     // sampler_next: logits -> token
#include "text_output.h" // TextOutput: standard output
#include "tokenizer.h"   // bytes <-> tokens
#include "weights.h"     // weights_fail_damaged

enum { EXIT_USAGE = 2, EXIT_SIGNALLED = 128 }; // plus the signal's number, as shells have it

// Positions whose logits are computed and written together for --logits.
enum { LOGITS_CHUNK = 64 };

// More bytes of a prompt are not read: no context is that long (2^20 positions at most, tokens of at most 255 bytes).
static const size_t LONGEST_PROMPT = (size_t)255 << 20;

// ---------------------------------------------------------------------------------------------------------------------
// Signals and descriptors.

static volatile sig_atomic_t interrupted;  // the signal that has come: end the text after the present token
static char unfinished_file[PATH_MAX + 8]; // to be removed by whatever ends the program in between; or empty

static void remove_unfinished(void) {
    if (unfinished_file[0] != '\0') unlink(unfinished_file);
}

// A signal at any moment finds the whole name or none: its first character comes last.
static void note_unfinished(const char* path) {
    snprintf(unfinished_file + 1, sizeof unfinished_file - 1, "%s", path + 1);
    atomic_signal_fence(memory_order_seq_cst);
    unfinished_file[0] = path[0];
}

// A second signal ends the program at once.
static void on_interrupt(int number) {
    if (interrupted) {
        remove_unfinished();
        _exit(EXIT_SIGNALLED + number);
    }
    interrupted = number;
}

// A mapped file that is shortened by someone else loses its pages.
static void on_bus_error(int number) {
    (void)number;
    static const char message[] = "gpt2: a model file was cut short or became unreadable while it was in use\n";
    remove_unfinished();
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0) _exit(EXIT_FAILURE);
    _exit(EXIT_FAILURE);
}

// Without a reader and beyond a limit of file sizes, writing is to fail with a message instead of a signal.
static void handle_signals(void) {
    struct sigaction bus_error = {.sa_handler = on_bus_error};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGBUS, &bus_error, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
}

// From here on these signals end the text instead of the program. Where one was ignored from the start (a job in the
// background, nohup) it stays so.
static void handle_interrupt(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction interrupt = {.sa_handler = on_interrupt}, before;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        bool is_known = sigaction(numbers[i], NULL, &before) == 0;
        if (is_known && before.sa_handler != SIG_IGN) sigaction(numbers[i], &interrupt, NULL);
    }
}

// A program started with descriptors closed would get them for its files, and print into those. For standard output
// the stand-in is one that cannot be written, so that text is not lost silently.
static void hold_standard_descriptors(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Options -> model -> tokenizer.

static bool load_tokenizer(Generation* g, Error* error) {
    const char* path = g->paths.tokenizer;
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        char vocab[sizeof g->paths.tokenizer + 16], merges[sizeof vocab];
        snprintf(vocab, sizeof vocab, "%s/vocab.json", path);
        snprintf(merges, sizeof merges, "%s/merges.txt", path);
        g->tokenizer = tokenizer_load_hf(vocab, merges, error);
    } else {
        g->tokenizer = tokenizer_load_bin(path, error);
    }
    return g->tokenizer != NULL;
}

static bool load_model(Generation* g, Error* error) {
    const Options* options = g->options;
    double start = seconds_now();
    // to be looked at, or to be loaded again with every weight type
    bool as_it_is =
        options->action == ACTION_VERIFY || options->action == ACTION_ESTIMATE || options->action == ACTION_INFO;
    bool ok = (options->quiet ? checkpoint_load : checkpoint_load_shown)(
        &g->model, g->paths.model, options->keep_dtype || as_it_is, options->dtype, error);
    g->load_seconds = seconds_now() - start;
    return ok;
}

// Applies --layers, --ctx, --stride and --top to the model, where they fit it. A false is wrong usage.
static bool fit_options(Generation* g, Error* error) {
    GPT2Config* config = &g->model.config;
    const Options* options = g->options;
    if (options->layers > config->num_layers) {
        return fail(error, "--layers: %d is more than the %d layers of %s", options->layers, config->num_layers,
                    g->paths.model);
    }
    if (options->context > config->max_seq_len) {
        return fail(error, "--ctx: %d is more than the %d positions of %s", options->context, config->max_seq_len,
                    g->paths.model);
    }
    if (options->top > config->vocab_size) {
        return fail(error, "--top: %d is more than the %d tokens of %s", options->top, config->vocab_size,
                    g->paths.model);
    }
    if (options->layers > 0) {
        config->num_layers = options->layers;
        g->model.num_parameters = gpt2_num_parameters(config);
    }
    g->context = options->context > 0 ? options->context : config->max_seq_len;
    if (options->stride > g->context) {
        return fail(error, "--stride: %d is more than the %d tokens of the context", options->stride, g->context);
    }
    g->threads = cpu_threads(options->threads);
    return true;
}

static bool check_vocabulary(const Generation* g, Error* error) {
    int V = g->model.config.vocab_size, tokens = tokenizer_vocab_size(g->tokenizer);
    if (V == tokens) return true;
    return fail(error, "%s has a vocabulary of %d tokens, but %s has %d; give the model's own tokenizer with -T",
                g->paths.model, V, g->paths.tokenizer, tokens);
}

// Nobody should take the small model's figures for GPT-2's.
static void tell_bundled(const Generation* g) {
    if (!g->paths.is_bundled || g->options->quiet) return;
    fprintf(stderr, "gpt2: no GPT-2 checkpoint was found, this is the small model that comes with the program; "
                    "scripts/download_gpt2.sh 124M fetches GPT-2\n");
}

// ---------------------------------------------------------------------------------------------------------------------
// The prompt, as tokens.

static bool fail_too_long(const Generation* g, const char* more_than, size_t tokens, Error* error) {
    return fail(error, "the prompt has %s%zu tokens, the context holds %d; shorten the prompt%s", more_than, tokens,
                g->context, g->context < g->model.config.max_seq_len ? " or raise --ctx" : "");
}

static bool encode_prompt(Generation* g, size_t* num_tokens, Error* error) {
    if (g->prompt.length > 0) {
        return tokenizer_encode(g->tokenizer, g->prompt.text, g->prompt.length, &g->prompt_tokens, num_tokens, error);
    }
    int eot = tokenizer_eot(g->tokenizer);
    if (eot < 0) {
        return fail(error, "an empty prompt starts at <|endoftext|>, which %s lacks; give one with -p",
                    g->paths.tokenizer);
    }
    g->prompt_tokens = allocate(1, sizeof *g->prompt_tokens, "prompt", error);
    if (g->prompt_tokens == NULL) return false;
    g->prompt_tokens[0] = eot;
    *num_tokens = 1;
    return true;
}

// Bytes beyond which no prompt can fit the context, whatever it says: more are not read. 1 is for the newline at the
// end.
static size_t longest_prompt(const Generation* g) {
    size_t longest = 1, size;
    for (int id = 0; id < g->model.config.vocab_size; id++) {
        tokenizer_decode(g->tokenizer, id, &size);
        if (size > longest) longest = size;
    }
    if (longest > LONGEST_PROMPT / (size_t)g->context) return LONGEST_PROMPT;
    return longest * (size_t)g->context + 1;
}

static bool encode_prompt_within_context(Generation* g, Error* error) {
    size_t num_tokens = 0;
    if (g->prompt.is_cut) return fail_too_long(g, "more than ", (size_t)g->context, error);
    if (!encode_prompt(g, &num_tokens, error)) return false;
    if (num_tokens > (size_t)g->context) return fail_too_long(g, "", num_tokens, error);
    g->num_prompt = (int)num_tokens;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Generate.

// Everything that generation needs besides what is reported in the end.
typedef struct {
    Generation* g;
    OpenDevice device;
    TextOutput* out;
    int max_new;       // tokens that every sample may get: -n, or what the context has room for
    float* logits;     // (max(B, LOGITS_CHUNK), V)
    Sampler* samplers; // (B)
    int* slots;        // (num_running) samples that still go on; a sample's KV cache has its number
    int* next;         // (num_running) their latest tokens
    int* picked;       // (num_running) the tokens that come next, -1 where no logit is finite
    Choice* choices;   // (num_running) what they are picked by
    int num_running;
    bool has_logits; // r->logits are those that the latest tokens were picked from; else the device has them
} Generator;

static void* allocate_cleared(size_t count, size_t size, const char* what, Error* error) {
    void* memory = allocate(count, size, what, error);
    return memory != NULL ? memset(memory, 0, count * size) : NULL;
}

static bool open_samples(Generator* r, Error* error) {
    Generation* g = r->g;
    size_t B = (size_t)g->options->samples, length = (size_t)g->num_prompt + (size_t)r->max_new;
    r->slots = allocate(B, sizeof *r->slots, "samples", error);
    r->next = allocate(B, sizeof *r->next, "samples", error);
    r->picked = allocate(B, sizeof *r->picked, "samples", error);
    r->choices = allocate(B, sizeof *r->choices, "samples", error);
    r->samplers = allocate_cleared(B, sizeof *r->samplers, "samples", error);
    g->samples = allocate_cleared(B, sizeof *g->samples, "samples", error);
    if (r->slots == NULL || r->next == NULL || r->picked == NULL || r->choices == NULL || r->samplers == NULL ||
        g->samples == NULL) {
        return false;
    }
    for (int b = 0; b < g->options->samples; b++) {
        Sample* sample = &g->samples[b];
        r->slots[b] = b;
        sample->tokens = allocate(length, sizeof *sample->tokens, "samples", error);
        if (sample->tokens == NULL) return false;
        memcpy(sample->tokens, g->prompt_tokens, (size_t)g->num_prompt * sizeof *sample->tokens);
        if (!sampler_open(&r->samplers[b], &g->options->sampler, g->model.config.vocab_size, g->options->seed,
                          (uint64_t)b, error)) {
            return false;
        }
    }
    return true;
}

// Opens the device that the options want, or the CPU.
static bool generator_take_device(Generator* r, bool is_cpu, Error* error) {
    Generation* g = r->g;
    const DeviceOptions needs = {.max_seq_len = g->num_prompt + r->max_new, .max_batch = g->options->samples};
    double start = seconds_now();
    if (!(is_cpu ? open_cpu : open_device)(&r->device, g, &needs, error)) return false;
    g->load_seconds += seconds_now() - start;
    g->device = r->device.api->describe(r->device.handle);
    g->device_dtype = r->device.dtype;
    return true;
}

static bool generator_open(Generator* r, Generation* g, TextOutput* out, Error* error) {
    const Options* options = g->options;
    int room = g->context - g->num_prompt;
    *r = (Generator){.g = g, .out = out, .num_running = options->samples};
    r->max_new = options->num_predict < 0 || options->num_predict > room ? room : options->num_predict;
    if (!generator_take_device(r, false, error)) return false;

    int rows = options->logits != NULL && options->samples < LOGITS_CHUNK ? LOGITS_CHUNK : options->samples;
    r->logits = allocate((size_t)rows, (size_t)g->model.config.vocab_size * sizeof *r->logits, "logits", error);
    g->step_seconds = allocate((size_t)r->max_new, sizeof *g->step_seconds, "timings", error);
    return r->logits != NULL && g->step_seconds != NULL && open_samples(r, error);
}

static void generator_close(Generator* r) {
    close_device(&r->device);
    for (int b = 0; r->samplers != NULL && b < r->g->options->samples; b++) sampler_close(&r->samplers[b]);
    free(r->samplers);
    free(r->logits);
    free(r->slots);
    free(r->next);
    free(r->picked);
    free(r->choices);
}

// Runs tokens and checks their logits (B, num_logits, V): no text must be made of a damaged model's.
static bool forward(Generator* r, const TokenRun* run, int num_logits, Error* error) {
    if (!r->device.api->forward(r->device.handle, run, num_logits, r->logits, error)) return false;
    size_t n = (size_t)run->B * (size_t)num_logits * (size_t)r->g->model.config.vocab_size;
    return all_finite(r->logits, n) || weights_fail_damaged(&r->g->model, r->g->paths.model, error);
}

// Runs the whole prompt in slot 0 and writes the logits of every position to a file, some positions at a time.
// Leaves those of the last position in r->logits (V).
static bool run_prompt_for_logits(Generator* r, Error* error) {
    const Generation* g = r->g;
    size_t V = (size_t)g->model.config.vocab_size;
    int slot = 0, T = 0;
    OutputFile file;
    if (!npy_open(&file, g->options->logits, (size_t)g->num_prompt, V, error)) return false;
    note_unfinished(file.temporary);
    bool ok = true;
    for (int t = 0; ok && t < g->num_prompt; t += T) {
        T = g->num_prompt - t < LOGITS_CHUNK ? g->num_prompt - t : LOGITS_CHUNK;
        TokenRun run = {g->prompt_tokens + t, &slot, 1, T, t};
        if (interrupted) ok = fail(error, "%s: interrupted, not written", g->options->logits);
        ok = ok && forward(r, &run, T, error) && output_write(&file, r->logits, (size_t)T * V * sizeof(float), error);
    }
    if (ok) {
        memmove(r->logits, r->logits + (size_t)(T - 1) * V, V * sizeof *r->logits);
        ok = output_close(&file, error);
    } else {
        output_abandon(&file);
    }
    unfinished_file[0] = '\0';
    return ok;
}

// Runs the prompt once, for all samples: logits (B, V) of its last token, and a KV cache for each.
static bool run_prompt(Generator* r, Error* error) {
    Generation* g = r->g;
    size_t V = (size_t)g->model.config.vocab_size;
    int slot = 0;
    TokenRun run = {g->prompt_tokens, &slot, 1, g->num_prompt, 0};
    double start = seconds_now();
    if (g->options->logits != NULL) {
        if (!run_prompt_for_logits(r, error)) return false;
    } else if (!forward(r, &run, 1, error)) {
        return false;
    }
    for (int b = 1; b < r->num_running; b++) {
        memcpy(r->logits + (size_t)b * V, r->logits, V * sizeof *r->logits);
        if (!r->device.api->copy_cache(r->device.handle, b, 0, g->num_prompt, error)) return false;
    }
    g->prompt_seconds = seconds_now() - start;
    return true;
}

// What each running sample, of `length` tokens, picks its next token by.
static void make_choices(Generator* r, size_t length) {
    const Generation* g = r->g;
    int forbidden = g->options->ignore_eos ? tokenizer_eot(g->tokenizer) : -1;
    for (int i = 0; i < r->num_running; i++) {
        int b = r->slots[i];
        r->choices[i] = (Choice){&r->samplers[b], g->samples[b].tokens, length, forbidden};
    }
}

// Picks from r->logits (num_running, V).
static void pick_from_logits(Generator* r) {
    size_t V = (size_t)r->g->model.config.vocab_size;
    for (int i = 0; i < r->num_running; i++) r->picked[i] = choice_pick(&r->choices[i], r->logits + (size_t)i * V);
    r->has_logits = true;
}

// Appends a picked token to a sample, or ends the sample.
static bool extend_sample(Generator* r, int b, int token, Error* error) {
    Generation* g = r->g;
    Sample* sample = &g->samples[b];
    size_t length = (size_t)g->num_prompt + (size_t)sample->num_generated;
    if (token < 0) return weights_fail_damaged(&g->model, g->paths.model, error);
    if (token == tokenizer_eot(g->tokenizer)) {
        sample->stop = STOP_EOT;
        return true;
    }
    sample->tokens[length] = token;
    sample->num_generated++;
    if (sample->num_generated == g->options->num_predict) sample->stop = STOP_LENGTH;
    else if (sample->num_generated == r->max_new) sample->stop = STOP_CONTEXT;
    else if (interrupted) sample->stop = STOP_INTERRUPTED;
    if (b > 0 || g->options->json) return true;
    size_t size;
    const char* bytes = tokenizer_decode(g->tokenizer, token, &size);
    return text_write(r->out, bytes, size, error);
}

// The logits that the latest tokens of the samples that have just ended were picked from, for their hash.
static bool fetch_last_logits(Generator* r, Error* error) {
    size_t V = (size_t)r->g->model.config.vocab_size;
    for (int i = 0; !r->has_logits && i < r->num_running; i++) {
        bool has_ended = r->g->samples[r->slots[i]].stop != STOP_NONE;
        float* logits = r->logits + (size_t)i * V;
        if (has_ended && !r->device.api->fetch_logits(r->device.handle, i, logits, error)) return false;
    }
    return true;
}

// Takes the samples that have ended out of the batch.
static void retire_samples(Generator* r) {
    Generation* g = r->g;
    size_t V = (size_t)g->model.config.vocab_size;
    int running = 0;
    for (int i = 0; i < r->num_running; i++) {
        Sample* sample = &g->samples[r->slots[i]];
        if (sample->stop == STOP_NONE) {
            r->next[running] = sample->tokens[g->num_prompt + sample->num_generated - 1];
            r->slots[running++] = r->slots[i];
        } else {
            sample->logits_hash = hash_bytes(r->logits + (size_t)i * V, V * sizeof *r->logits);
        }
    }
    r->num_running = running;
}

// Runs the latest tokens, which stand at `position`, and picks those that follow.
static bool run_step(Generator* r, int position, Error* error) {
    TokenRun run = {r->next, r->slots, r->num_running, 1, position};
    make_choices(r, (size_t)position + 1);
    r->has_logits = false;
    if (r->device.api->next != NULL) return r->device.api->next(r->device.handle, &run, r->choices, r->picked, error);
    if (!forward(r, &run, 1, error)) return false;
    pick_from_logits(r);
    return true;
}

// Loads the model again with the weights as the GPU rounded them, so that its text goes on and not another one.
static bool load_as_rounded(Generation* g, DType dtype, Error* error) {
    int num_layers = g->model.config.num_layers; // --layers has been applied to it
    checkpoint_free(&g->model);
    if (!checkpoint_load(&g->model, g->paths.model, false, dtype, error)) return false;
    g->model.config.num_layers = num_layers;
    g->model.num_parameters = gpt2_num_parameters(&g->model.config);
    return true;
}

// After an error of a GPU: may the CPU take over, and does it open? `length` tokens of the samples have been run, 0
// before the text has begun: they are run anew, which leaves their logits in r->logits (num_running, V).
static bool continue_on_cpu(Generator* r, int length, Error* error) {
    Generation* g = r->g;
    bool is_begun = length > 0;
    size_t V = (size_t)g->model.config.vocab_size;
    if (r->device.api == &gpt2_cpu || (g->options->device == DEVICE_GPU && !is_begun)) return false;
    fprintf(stderr, "%sgpt2: %s; the CPU goes on\n", is_begun ? "\n" : "", error->text);
    close_device(&r->device);
    if (g->model.dtype != g->device_dtype && !load_as_rounded(g, g->device_dtype, error)) return false;
    if (!generator_take_device(r, true, error)) return false;
    for (int i = 0; i < r->num_running && is_begun; i++) {
        TokenRun run = {g->samples[r->slots[i]].tokens, &r->slots[i], 1, length, 0};
        if (!r->device.api->forward(r->device.handle, &run, 1, r->logits + (size_t)i * V, error)) return false;
    }
    r->has_logits = true;
    return true;
}

// The generation loop. Each round appends the token that was picked for every sample, and runs these tokens together.
static bool generate(Generator* r, Error* error) {
    Generation* g = r->g;
    StopReason at_once = STOP_NONE; // where not even one token can follow
    if (interrupted) at_once = STOP_INTERRUPTED;
    else if (r->max_new == 0) at_once = g->options->num_predict == 0 ? STOP_LENGTH : STOP_CONTEXT;
    for (int b = 0; b < r->num_running; b++) g->samples[b].stop = at_once;
    double start = seconds_now(), before = start;
    r->has_logits = true; // the prompt's
    if (at_once == STOP_NONE) {
        make_choices(r, (size_t)g->num_prompt);
        pick_from_logits(r);
    }
    for (int position = g->num_prompt;; position++) {
        for (int i = 0; at_once == STOP_NONE && i < r->num_running; i++) {
            if (!extend_sample(r, r->slots[i], r->picked[i], error)) return false;
        }
        double now = seconds_now();
        if (position > g->num_prompt) g->step_seconds[g->num_steps++] = now - before;
        before = now;
        if (!fetch_last_logits(r, error) && !continue_on_cpu(r, position, error)) return false;
        retire_samples(r);
        if (r->num_running == 0 || r->out->is_closed) break;
        if (!run_step(r, position, error) && !(continue_on_cpu(r, position, error) && run_step(r, position, error))) {
            return false;
        }
    }
    g->total_seconds = g->prompt_seconds + before - start;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// What is printed around the generation loop.

static bool print_prompt(const Generation* g, TextOutput* out, Error* error) {
    return g->options->no_echo || text_write(out, g->prompt.text, g->prompt.length, error);
}

// Samples 1 and up, each after a blank line; sample 0 was printed as it was made.
static bool print_other_samples(const Generation* g, TextOutput* out, Error* error) {
    for (int b = 1; b < g->options->samples; b++) {
        size_t length;
        char* text = generation_text(g, g->samples[b].tokens + g->num_prompt, g->samples[b].num_generated, &length);
        if (text == NULL) return fail(error, "sample %d: no memory for its text", b);
        bool ok =
            text_write(out, "\n\n", 2, error) && print_prompt(g, out, error) && text_write(out, text, length, error);
        free(text);
        if (!ok) return false;
    }
    return true;
}

// Hints at options that have no effect together, and at what the user may not expect.
static void print_notes(const Generation* g) {
    const Options* options = g->options;
    const SamplerOptions* s = &options->sampler;
    if (options->quiet) return;
    if (s->temperature <= 0 && (s->top_k > 0 || s->top_p < 1 || s->min_p > 0)) {
        fprintf(stderr, "gpt2: --top-k, --top-p and --min-p have no effect without --temp: "
                        "the likeliest token is always taken\n");
    }
    if (s->temperature <= 0 && options->samples > 1) {
        fprintf(stderr, "gpt2: all %d samples are the same without --temp\n", options->samples);
    }
}

// The likeliest next tokens, as a table before any text; in the JSON object otherwise.
static bool tell_top(Generation* g, const float* logits, TextOutput* out, Error* error) {
    const Options* options = g->options;
    if (options->top == 0) return true;
    g->top = allocate((size_t)options->top, sizeof *g->top, "--top", error);
    if (g->top == NULL || !sampler_top(g->top, options->top, logits, g->model.config.vocab_size, error)) return false;
    if (options->json) return true;
    return report_top(g, out, error) && (options->num_predict == 0 || text_write(out, "\n", 1, error));
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// From the open model to the last byte of output.
static bool continue_prompt(Generation* g, TextOutput* out, Error* error) {
    const Options* options = g->options;
    bool is_text = !options->json && (options->top == 0 || options->num_predict != 0);
    bool has_report = !options->quiet && !options->json;
    Generator r;
    bool ok = generator_open(&r, g, out, error);
    handle_interrupt();
    if (ok) print_notes(g);
    if (ok && has_report) report_before(g);
    ok = ok && (run_prompt(&r, error) || (continue_on_cpu(&r, 0, error) && run_prompt(&r, error))) &&
         tell_top(g, r.logits, out, error) && (!is_text || print_prompt(g, out, error)) && generate(&r, error) &&
         (!is_text || print_other_samples(g, out, error)) && (!options->json || report_json(g, out, error)) &&
         text_end(out, error);
    if (ok && has_report && !out->is_closed) report_after(g);
    Error ignored;
    if (!ok) text_end(out, &ignored); // the message begins on a line of its own
    generator_close(&r);
    return ok;
}

static void generation_free(Generation* g) {
    for (int b = 0; g->samples != NULL && b < g->options->samples; b++) free(g->samples[b].tokens);
    free(g->samples);
    free(g->step_seconds);
    free(g->top);
    free(g->prompt_tokens);
    free(g->prompt.text);
    if (g->tokenizer != NULL) tokenizer_free(g->tokenizer);
    checkpoint_free(&g->model);
}

static int exit_with(int status, const Error* error) {
    fprintf(stderr, "gpt2: %s%s\n", error->text, status == EXIT_USAGE ? "; try gpt2 --help" : "");
    return status;
}

// From the options to a model and a tokenizer that fit together, and the prompt's text. What needs no prompt does
// without a tokenizer where there is none beside the model. *status is what a failure exits with.
static bool prepare(Generation* g, int* status, Error* error) {
    const Options* options = g->options;
    *status = EXIT_FAILURE;
    // nothing is run: a prompt only counts where one was given, and nobody is kept waiting for one
    bool has_prompt = options->prompt != NULL || options->prompt_file != NULL;
    bool needs_no_prompt = options->action == ACTION_SAVE ||
                           (!has_prompt && (options->action == ACTION_INFO || options->action == ACTION_ESTIMATE));
    bool found = checkpoint_find(&g->paths, options->model, options->tokenizer, error);
    bool lacks_tokenizer = !found && g->paths.model[0] != '\0' && options->tokenizer == NULL;
    if (lacks_tokenizer && !needs_no_prompt) {
        Error worse; // a file of another kind needs no tokenizer, but to be told so
        if (!checkpoint_load(&g->model, g->paths.model, true, options->dtype, &worse)) *error = worse;
    }
    if (!found && !(lacks_tokenizer && needs_no_prompt)) return false;
    tell_bundled(g);
    if (!load_model(g, error)) return false;
    if (found && (!load_tokenizer(g, error) || !check_vocabulary(g, error))) return false;
    *status = EXIT_USAGE;
    if (!fit_options(g, error)) return false;
    *status = EXIT_FAILURE;
    if (needs_no_prompt) return true;
    size_t limit = options->action == ACTION_SCORE ? LONGEST_PROMPT : longest_prompt(g);
    return prompt_read(&g->prompt, options, limit, error);
}

// The prompt as the action wants it: a text to be scored may be longer than the context.
static bool encode_for_inspection(Generation* g, Error* error) {
    Action action = g->options->action;
    if (action == ACTION_INFO || (action == ACTION_ESTIMATE && g->prompt.length == 0)) return true;
    if (action != ACTION_SCORE) return encode_prompt_within_context(g, error);
    size_t num_tokens = 0;
    if (g->prompt.is_cut) return fail(error, "the text is longer than %zu bytes; score it in parts", LONGEST_PROMPT);
    if (!encode_prompt(g, &num_tokens, error)) return false;
    g->num_prompt = (int)num_tokens; // at most one for a byte
    return true;
}

static bool inspect(Generation* g, TextOutput* out, bool* passed, Error* error) {
    switch (g->options->action) {
    case ACTION_SCORE: return score_prompt(g, out, error);
    case ACTION_VERIFY: return verify_devices(g, out, passed, error);
    case ACTION_PROFILE: return profile_run(g, out, error);
    case ACTION_ESTIMATE: return estimate_run(g, out, error);
    default: return info_print(g, out, error);
    }
}

static int run_inspection(const Options* options, TextOutput* out) {
    Generation g = {.options = options};
    Error error;
    int status;
    bool passed = true;
    if (!prepare(&g, &status, &error) || !encode_for_inspection(&g, &error) || !inspect(&g, out, &passed, &error) ||
        !text_end(out, &error)) {
        status = exit_with(status, &error);
    } else {
        status = passed ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    generation_free(&g);
    return status;
}

static int run_generate(const Options* options, TextOutput* out) {
    Generation g = {.options = options};
    Error error;
    int status;
    if (!prepare(&g, &status, &error)) {
        status = exit_with(status, &error);
    } else if (!encode_prompt_within_context(&g, &error) || !continue_prompt(&g, out, &error)) {
        status = exit_with(interrupted ? EXIT_SIGNALLED + interrupted : EXIT_FAILURE, &error);
    } else {
        status = interrupted ? EXIT_SIGNALLED + interrupted : EXIT_SUCCESS;
    }
    generation_free(&g);
    return status;
}

// --save: a file that is there already stays, whatever it is.
static bool save_model(const Generation* g, Error* error) {
    const char* path = g->options->save;
    OutputFile file;
    handle_interrupt();
    if (!output_open(&file, path, error)) return false;
    note_unfinished(file.temporary);
    bool ok = checkpoint_write(&file, &g->model, error);
    if (ok && interrupted) ok = fail(error, "%s: interrupted, not written", path);
    if (ok) ok = output_close(&file, error);
    else output_abandon(&file);
    unfinished_file[0] = '\0';
    return ok;
}

static void report_save(const Generation* g) {
    const Options* options = g->options;
    ModelPaths paths;
    Error ignored;
    if (options->quiet) return;
    fprintf(stderr, "gpt2: %s: %s with weights in %s\n", options->save, g->paths.model, dtype_names[g->model.dtype]);
    if (g->model.dtype == DTYPE_BF16 && g->model.file_dtype != DTYPE_BF16) {
        fprintf(stderr,
                "gpt2: %s: its biases and LayerNorms are rounded too, as llm.c's bf16 has them; "
                "--dtype bf16z keeps them in f32\n",
                options->save);
    }
    if (!checkpoint_find(&paths, options->save, NULL, &ignored) && g->tokenizer != NULL) {
        fprintf(stderr, "gpt2: %s: no tokenizer lies beside it; run it with -T %s\n", options->save,
                g->paths.tokenizer);
    }
}

static int run_save(const Options* options) {
    Generation g = {.options = options};
    Error error;
    int status = EXIT_FAILURE;
    struct stat there;
    bool ok = (lstat(options->save, &there) != 0 ||
               fail(&error, "%s: is there already, and is not replaced; name another file", options->save)) &&
              prepare(&g, &status, &error) && save_model(&g, &error);
    if (ok) report_save(&g);
    generation_free(&g);
    return ok ? EXIT_SUCCESS : exit_with(interrupted ? EXIT_SIGNALLED + interrupted : status, &error);
}

static bool check_whole(const Prompt* prompt, Error* error) {
    if (!prompt->is_cut) return true;
    return fail(error, "--tokens: the text has more than %zu bytes, the most that is read; cut it up", LONGEST_PROMPT);
}

// --tokens: needs no weights.
static int run_tokens(const Options* options, TextOutput* out) {
    Generation g = {.options = options};
    Error error;
    size_t num_tokens = 0;
    bool ok = checkpoint_find(&g.paths, options->model, options->tokenizer, &error);
    if (ok) tell_bundled(&g);
    ok = ok && prompt_read(&g.prompt, options, LONGEST_PROMPT, &error) && load_tokenizer(&g, &error) &&
         check_whole(&g.prompt, &error) && encode_prompt(&g, &num_tokens, &error) &&
         report_tokens(g.prompt_tokens, num_tokens, out, &error);
    generation_free(&g);
    return ok ? EXIT_SUCCESS : exit_with(EXIT_FAILURE, &error);
}

static bool print_help(TextOutput* out, Error* error) {
    char* text = options_help();
    bool ok = text != NULL ? text_write(out, text, strlen(text), error) : fail(error, "no memory for the help");
    free(text);
    return ok;
}

static bool print_version(TextOutput* out, Error* error) {
    static const char text[] = "gpt2 " GPT2_VERSION "\n"
#if defined(__clang__)
                               "compiler: clang " __clang_version__ "\n"
#else
                               "compiler: gcc " __VERSION__ "\n"
#endif
#ifdef _OPENMP
                               "threads: OpenMP\n"
#else
                               "threads: built without OpenMP, one thread\n"
#endif
#ifdef HAVE_JANSSON
                               "formats: llm.c, safetensors and Hugging Face directories\n"
#else
                               "formats: llm.c; built without libjansson, no safetensors and Hugging Face directories\n"
#endif
#ifdef GPT2_HIP
                               "devices: CPU, GPU through HIP\n";
#else
                               "devices: CPU; built without HIP, no GPU\n";
#endif
    return text_write(out, text, sizeof text - 1, error);
}

int main(int argc, char** argv) {
    Options options;
    TextOutput out;
    Error error;
    hold_standard_descriptors();
    text_open(&out, STDOUT_FILENO);
    handle_signals();
    if (!options_parse(&options, argc, argv, &error)) return exit_with(EXIT_USAGE, &error);
    if (options.idle != NULL && !options.quiet) fprintf(stderr, "gpt2: %s has no effect here\n", options.idle);
    bool ok = true;
    switch (options.action) {
    case ACTION_GENERATE: return run_generate(&options, &out);
    case ACTION_SCORE:
    case ACTION_VERIFY:
    case ACTION_PROFILE:
    case ACTION_ESTIMATE:
    case ACTION_INFO: return run_inspection(&options, &out);
    case ACTION_TOKENS: return run_tokens(&options, &out);
    case ACTION_SAVE: return run_save(&options);
    case ACTION_LIST_DEVICES: ok = list_devices(&out, &error); break;
    case ACTION_HELP: ok = print_help(&out, &error); break;
    case ACTION_VERSION: ok = print_version(&out, &error); break;
    }
    return ok ? EXIT_SUCCESS : exit_with(EXIT_FAILURE, &error);
}
