// Which device a model runs on: one answer for texts, scores, profiles and logits.
#ifndef OPEN_DEVICE_H
#define OPEN_DEVICE_H

#include "gpt2_kernels.h"
#include "report.h"

typedef struct {
    const DeviceApi* api; // NULL: none is open
    Device* handle;
    DType dtype; // of the matrices where the device reads them
} OpenDevice;

// Opens a Generation's model on the device that its options name (--device, --cpu-logits, -t, --dtype); where any will
// do, the CPU stands in for a GPU that cannot be used, and one line on standard error says so (not with -q or --json).
// Of `needs` only the sizes and what is to be looked at count: max_seq_len, max_batch, profile, residuals.
bool open_device(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error);

// The same on the CPU, whatever the options say.
bool open_cpu(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error);

// What the matrices of a model in `dtype` become where it runs: a GPU gets bf16 from f32, unless --dtype says otherwise,
// and from bf16z; what else has 16 bits or fewer already stays as it is.
DType dtype_on_device(const Options* options, DType dtype, bool is_gpu);

// Describes the GPU that --device names, number 0 for auto. False when there is none, or --device cpu was given.
bool find_gpu(GpuInfo* info, const Options* options, Error* error);

// Harmless when none is open.
void close_device(OpenDevice* device);

// Measures what the device can do at most with this model's weights.
bool measure_device(Roof* roof, const OpenDevice* device, const Generation* g, Error* error);

#endif
