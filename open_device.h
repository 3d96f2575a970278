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

// Opens a Generation's model on the device that its options name (--device, --cpu-logits, -t, --dtype). With --device
// auto the CPU stands in for a GPU that cannot be used, and one line on standard error says so (not with -q or --json).
// `needs` gives max_seq_len, max_batch, profile and residuals; the options decide the other fields.
bool open_device(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error);

// The same on the CPU, whatever the options say.
bool open_cpu(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error);

// The type that the matrices of a model in `dtype` have on the device. On a GPU f32 becomes bf16, unless --dtype says
// otherwise, and bf16z becomes bf16; other types stay as they are.
DType dtype_on_device(const Options* options, DType dtype, bool is_gpu);

// Describes the GPU that --device names, number 0 for auto. False when there is none, or --device cpu was given.
bool find_gpu(GpuInfo* info, const Options* options, Error* error);

// Harmless when the device is not open.
void close_device(OpenDevice* device);

// Measures the peak rates of the device with this model's weights.
bool measure_device(Roof* roof, const OpenDevice* device, const Generation* g, Error* error);

#endif
