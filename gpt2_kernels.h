// The contract that a device fulfils. gpt2.c knows the CPU (gpt2_cpu.c) and the GPU (gpt2_kernels.hip) only through
// this; a device knows tokens and tensors, but neither files nor text.
#ifndef GPT2_KERNELS_H
#define GPT2_KERNELS_H

#include "gpt2.h"
#include "profile.h"
#include "sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Device Device;

typedef struct {
    int max_seq_len;     // positions that the KV caches must hold, at most the model's maxT
    int max_batch;       // sequences that live side by side, each with a KV cache of its own
    int num_threads;     // CPU: threads to use
    const char* kernels; // CPU: name of the kernel variant, NULL for the best that the processor has; GPU: the route of
                         // a token, "launches", "graph" or "persistent", NULL for the fastest
    int gpu;             // GPU: its number, as gpt2_hip_info counts
    DType dtype;         // GPU: what the matrices become on the card; the CPU uses the model as it is
    bool cpu_logits;     // GPU: wte stays with the CPU, which computes the logits from the last hidden state
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

// What the next token of one sequence is picked by.
typedef struct {
    Sampler* sampler; // draws one number for it
    const int* text;  // (num_tokens) what the repetition penalty looks back on, the run's tokens included
    size_t num_tokens;
    int forbidden; // a token that must not be picked, or -1
} Choice;

typedef struct {
    // Prepares the model (which must outlive the device) and plans all memory. NULL with the error filled in.
    Device* (*open)(const GPT2Model* model, const DeviceOptions* options, Error* error);

    // Runs the tokens, appending to the KV caches, and writes the logits that follow the last num_logits tokens of
    // each sequence: logits (B, num_logits, V), float32; num_logits in [0, T]. Longer runs are cut into chunks as the
    // device likes, the result does not depend on it, nor on B, nor on the number of threads. Needs
    // position + T <= max_seq_len. Rewinding is allowed: positions from `position` on are overwritten.
    bool (*forward)(Device* device, const TokenRun* run, int num_logits, float* logits, Error* error);

    // Runs the tokens and picks where the logits are, as choice_pick() does: next (B), by choices (B). On an error no
    // sampler has moved. NULL for a device that leaves this to forward and choice_pick().
    bool (*next)(Device* device, const TokenRun* run, const Choice* choices, int* next, Error* error);

    // The logits (V) that next picked the token of its sequence b from. NULL when next is.
    bool (*fetch_logits)(Device* device, int b, float* logits, Error* error);

    // Copies the first `length` positions of slot `from`'s KV cache to slot `to`: continuations share one prefill.
    bool (*copy_cache)(Device* device, int to, int from, int length, Error* error);

    // One line for the report, such as "CPU, 2 threads, avx512bf16". Owned by the device.
    const char* (*describe)(const Device* device);

    void (*close)(Device* device);
} DeviceApi;

// Is this a run that the device can take? What each device checks before it believes a TokenRun.
bool token_run_check(const TokenRun* run, const GPT2Model* model, int max_batch, int max_seq_len, int num_logits,
                     Error* error);

// Picks from logits (V), which are as before when it returns. -1 when not one of them is finite.
int choice_pick(const Choice* choice, float* logits);

extern const DeviceApi gpt2_cpu;

// The head alone, on the CPU: logits (R, V) = hidden (R, C) · wteᵀ.
bool cpu_head(float* logits, const float* hidden, int R, const GPT2Model* model, int num_threads, Error* error);

// What there is to know about a GPU before it is opened.
typedef struct {
    char name[128], arch[64]; // "AMD Radeon RX 7900 XTX", "gfx1100"
    size_t memory;            // bytes
    int wave_size;            // lanes: 32 or 64
    int compute_units;
    double bandwidth; // of its memory, bytes per second; 0: unknown
} GpuInfo;

extern const DeviceApi gpt2_hip;

// The number of GPUs; 0 with the error saying why there is none.
int gpt2_hip_count(Error* error);

// Describes GPU number `gpu`.
bool gpt2_hip_info(GpuInfo* info, int gpu, Error* error);

// Measures what GPU number `gpu` does at most: reads of `working_set` bytes over and over (where they fit into a cache it
// is the cache's bandwidth), multiply-adds, and the matrix instructions that long runs use for weights of `dtype` where
// there are such. Each is the fastest of several.
bool gpt2_hip_measure(Roof* roof, int gpu, DType dtype, size_t working_set, Error* error);

#ifdef __cplusplus
}
#endif

#endif
