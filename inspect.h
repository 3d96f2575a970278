// Looking inside a model and a run of it: what --top K --all, --perplexity, --verify, --profile, --estimate and --info
// print on standard output, as tables or, with --json, as one JSON object. Each needs a Generation with its options,
// paths, model and tokenizer filled in and, except for --info and --estimate, the prompt's tokens.
#ifndef INSPECT_H
#define INSPECT_H

#include "gpt2_kernels.h"
#include "report.h"

// score.c: how well the model predicts each token of the prompt.
bool score_prompt(const Generation* g, TextOutput* out, Error* error);

// verify.c: the prompt on every device, with every weight type, against a reference. Sets *passed.
bool verify_devices(const Generation* g, TextOutput* out, bool* passed, Error* error);

// profile_report.c: runs the prompt and `-n` tokens and prints where the time went.
bool profile_run(const Generation* g, TextOutput* out, Error* error);

// estimate.c: how long the operations would take, from bytes and arithmetic alone.
bool estimate_run(const Generation* g, TextOutput* out, Error* error);

// info.c: what the checkpoint is.
bool info_print(const Generation* g, TextOutput* out, Error* error);

#endif
