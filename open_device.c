#include "open_device.h"

#include <stdio.h>

#include "cpu_kernels.h"
#include "machine.h"

static bool open_with(OpenDevice* device, const DeviceApi* api, const Generation* g, const DeviceOptions* needs,
                      Error* error) {
    const Options* options = g->options;
    DeviceOptions all = *needs;
    all.num_threads = g->threads;
    all.gpu = options->gpu;
    all.cpu_logits = options->cpu_logits;
    // a GPU gets bf16 from f32, unless the user says otherwise; what has 16 bits already stays as it is
    all.dtype = options->keep_dtype && g->model.dtype == DTYPE_F32 ? DTYPE_BF16 : g->model.dtype;
    *device = (OpenDevice){0};
    device->handle = api->open(&g->model, &all, error);
    if (device->handle == NULL) return false;
    device->api = api;
    device->dtype = api == &gpt2_cpu ? g->model.dtype : all.dtype;
    return true;
}

bool open_cpu(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error) {
    return open_with(device, &gpt2_cpu, g, needs, error);
}

bool open_device(OpenDevice* device, const Generation* g, const DeviceOptions* needs, Error* error) {
#ifdef GPT2_HIP
    const Options* options = g->options;
    if (options->device != DEVICE_CPU) {
        if (open_with(device, &gpt2_hip, g, needs, error)) return true;
        if (options->device == DEVICE_GPU) return false;
        if (!options->quiet && !options->json) fprintf(stderr, "gpt2: %s; this run is on the CPU\n", error->text);
    }
#endif
    return open_cpu(device, g, needs, error);
}

void close_device(OpenDevice* device) {
    if (device->api != NULL) device->api->close(device->handle);
    *device = (OpenDevice){0};
}

bool measure_device(Roof* roof, const OpenDevice* device, const Generation* g, Error* error) {
    size_t bytes = gpt2_bytes_per_token_in(device->dtype, &g->model.config);
#ifdef GPT2_HIP
    if (device->api == &gpt2_hip) return gpt2_hip_measure(roof, g->options->gpu, device->dtype, bytes, error);
#endif
    return machine_measure(roof, cpu_kernels_select(NULL)->name, device->dtype, bytes, g->threads, error);
}
