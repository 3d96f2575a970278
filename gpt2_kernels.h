// The contract that a device fulfils. gpt2.c knows the CPU (gpt2_cpu.c) and the GPU (gpt2_kernels.hip) only through
// this; a device knows tokens and tensors, but neither files nor text.
#ifndef GPT2_KERNELS_H
#define GPT2_KERNELS_H

#include "gpt2.h"
#include "profile.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Device Device;

typedef struct {
    int max_seq_len;     // positions that the KV caches must hold, at most the model's maxT
    int max_batch;       // sequences that live side by side, each with a KV cache of its own
    int num_threads;     // CPU: threads to use
    const char* kernels; // CPU: name of the kernel variant, NULL for the best that the processor has
    // To look inside; NULL costs nothing.
    Profile* profile; // takes the time of every operation; the CPU needs num_threads lanes, a GPU one
    float* residuals; // (L + 1, max_batch, max_seq_len, C) takes the residual stream of every position that is run:
                      // [0] as the embedding made it, [l] as layer l - 1 left it
} DeviceOptions;

// A run of T new tokens for each of B sequences that all hold `position` tokens so far.
typedef struct {
    const int* tokens; // (B, T), each in [0, V)
    const int* slots;  // (B) the KV cache of each sequence, in [0, max_batch), all different
    int B, T;
    int position;
} TokenRun;

typedef struct {
    // Prepares the model (which must outlive the device) and plans all memory. NULL with the error filled in.
    Device* (*open)(const GPT2Model* model, const DeviceOptions* options, Error* error);

    // Runs the tokens, appending to the KV caches, and writes the logits that follow the last num_logits tokens of
    // each sequence: logits (B, num_logits, V), float32; num_logits in [0, T]. Longer runs are cut into chunks as the
    // device likes, the result does not depend on it, nor on B, nor on the number of threads. Needs
    // position + T <= max_seq_len. Rewinding is allowed: positions from `position` on are overwritten.
    bool (*forward)(Device* device, const TokenRun* run, int num_logits, float* logits, Error* error);

    // Copies the first `length` positions of slot `from`'s KV cache to slot `to`: continuations share one prefill.
    bool (*copy_cache)(Device* device, int to, int from, int length, Error* error);

    // One line for the report, such as "CPU, 2 threads, avx512-bf16". Owned by the device.
    const char* (*describe)(const Device* device);

    void (*close)(Device* device);
} DeviceApi;

extern const DeviceApi gpt2_cpu;

// Physical cores that this process may run on: the default for num_threads.
int cpu_physical_cores(void);

#ifdef __cplusplus
}
#endif

#endif
