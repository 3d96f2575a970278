// What the program reports of a run: the report on standard error, the tables and the JSON object on standard output.
#ifndef REPORT_H
#define REPORT_H

#include "checkpoint.h"
#include "gpt2.h"
#include "options.h"
#include "prompt.h"
#include "sampler.h"
#include "text_output.h"
#include "tokenizer.h"

typedef enum { STOP_NONE, STOP_LENGTH, STOP_EOT, STOP_CONTEXT, STOP_INTERRUPTED } StopReason;

// One continuation of the prompt.
typedef struct {
    int* tokens; // (num_prompt + num_generated): the prompt, then what was generated, without <|endoftext|>
    int num_generated;
    StopReason stop;                // STOP_NONE while it goes on
    unsigned long long logits_hash; // of the last logits (V), as the device wrote them
} Sample;

// Everything about one run of the program.
typedef struct {
    const Options* options;
    ModelPaths paths;
    GPT2Model model;
    Tokenizer* tokenizer;
    int context; // tokens that prompt and continuation may have together
    int threads;
    const char* device; // as it describes itself
    DType device_dtype; // of the matrices on the device

    Prompt prompt;
    int* prompt_tokens; // (num_prompt)
    int num_prompt;
    TopToken* top;   // (options->top), or NULL
    Sample* samples; // (options->samples)

    double load_seconds;   // reading and converting the weights, opening the device
    double prompt_seconds; // running the prompt
    double total_seconds;  // from the start of the prompt to the output of the last token
    double* step_seconds;  // (num_steps): forward pass, sampling and output of one token of every sample
    int num_steps;         // the first token of a sample follows from the prompt, so it takes no step
} Generation;

// The text of n token ids of a sample. The caller frees it. NULL when memory is short.
char* generation_text(const Generation* g, const int* tokens, int n, size_t* length);

// The report: the part that is known before the first token, and the part after the last.
void report_before(const Generation* g);
void report_after(const Generation* g);

// The table of the likeliest next tokens, on `out`.
bool report_top(const Generation* g, TextOutput* out, Error* error);

// Token ids on one line, on `out`.
bool report_tokens(const int* tokens, size_t n, TextOutput* out, Error* error);

// The whole run as one JSON object, on `out`. Bytes that are not UTF-8 become U+FFFD in its strings; the token ids
// beside them are exact.
bool report_json(const Generation* g, TextOutput* out, Error* error);

// "top": [...]: n likely tokens, the likeliest first.
void json_top(FILE* out, const Tokenizer* tokenizer, const TopToken* top, int n);

// ---------------------------------------------------------------------------------------------------------------------
// The figures behind both forms of the report.

typedef struct {
    int tokens;                           // generated, of all samples
    double seconds_per_token;             // mean over the steps
    double tokens_per_second;             // its inverse
    double prompt_per_second;             // prompt tokens per second
    double minimum, median, p95, maximum; // seconds of a step
    size_t bytes_per_token;               // weights read by a step
    double bytes_per_second;              // of weights
} Figures;

// Figures that do not exist are 0, such as the times of steps when there was none. False when memory is short.
bool report_figures(Figures* figures, const Generation* g);

extern const char* const stop_names[]; // by StopReason

#endif
