// The command line.
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "dtype.h"
#include "sampler.h"
#include "utils.h"

// What the program was asked to do.
typedef enum {
    ACTION_GENERATE,
    ACTION_SCORE, // --top K --all, --perplexity
    ACTION_VERIFY,
    ACTION_PROFILE,
    ACTION_ESTIMATE,
    ACTION_INFO,
    ACTION_TOKENS,
    ACTION_SAVE,
    ACTION_LIST_DEVICES,
    ACTION_HELP,
    ACTION_VERSION
} Action;

enum { MAX_ESTIMATE = 2 };

// Where the model is to run. AUTO: on a GPU if there is a usable one.
typedef enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_GPU } DeviceWish;

// The strings point into argv.
typedef struct {
    Action action;
    const char* model;       // NULL: searched for, see checkpoint_find()
    const char* tokenizer;   // NULL: what lies beside the model
    const char* prompt;      // the text, "-" for standard input, or NULL
    const char* prompt_file; // "-" for standard input, or NULL
    int num_predict;         // tokens to generate; -1: as many as the context holds
    SamplerOptions sampler;
    uint64_t seed;                 // from the clock unless the user gave one
    int samples;                   // continuations of the prompt
    int threads;                   // 0: the physical cores
    DeviceWish device;             // where the model runs
    int gpu;                       // DEVICE_GPU: its number
    bool cpu_logits;               // the head runs on the CPU, whatever the device
    bool keep_dtype;               // --dtype auto: the weights in the file's type; dtype is ignored
    DType dtype;                   // what the weights are kept as
    int layers;                    // use only the first so many layers; 0: all
    int context;                   // limit of the context in tokens; 0: the model's
    int top;                       // how many of the likeliest next tokens to print; 0: none
    bool all;                      // --top for every position of the prompt
    int stride;                    // of the windows over a text longer than the context; 0: half the context
    const char* reference;         // --verify: a checkpoint or .npy file of logits to compare with, or NULL
    float tolerance;               // --verify: largest relative difference; 0: by weight type
    double estimate[MAX_ESTIMATE]; // --estimate: GB/s and GFLOP/s; 0: measured
    const char* save;              // --save: the file to write the model to, or NULL
    const char* logits;            // .npy file for the logits of the prompt, or NULL
    bool json, ignore_eos, no_echo, quiet, verbose;
    const char* idle; // an option that was given and has no effect on the action, or NULL
} Options;

// Fills in `options` from the command line. Every number is checked against its range; combinations that contradict
// each other, or that would lose what was to be printed or written, are refused. The error names the flag, the value
// and what would be right.
bool options_parse(Options* options, int argc, char** argv, Error* error);

// The text of --help. The caller frees it; NULL when memory is short.
char* options_help(void);

#endif
