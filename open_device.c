#include "open_device.h"

#include <stdio.h>

#include "cpu_kernels.h"
#include "machine.h"

DType dtype_on_device(const Options* options, DType dtype, bool is_gpu) {
    if (!is_gpu) return dtype;
    return options->keep_dtype && dtype == DTYPE_F32 ? DTYPE_BF16 : dtype_unpacked(dtype);
}

bool find_gpu(GpuInfo* info, const Options* options, Error* error) {
#ifdef GPT2_HIP
    if (options->device == DEVICE_CPU) return fail(error, "--device cpu uses no GPU");
    int count = gpt2_hip_count(error);
    if (count == 0) return false;
    if (options->gpu >= count) {
        return fail(error, "--device gpu:%d: there %s %d GPU%s; --list-devices shows what there is", options->gpu,
                    count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    }
    return gpt2_hip_info(info, options->gpu, error);
#else
    (void)info, (void)options;
    return fail(error, "this gpt2 was built without HIP and knows no GPU");
#endif
}

static bool open_with(OpenDevice* device, const DeviceApi* api, const Generation* g, const DeviceOptions* needs,
                      Error* error) {
    const Options* options = g->options;
    DeviceOptions all = *needs;
    all.num_threads = g->threads;
    all.gpu = options->gpu;
    all.cpu_logits = options->cpu_logits;
    all.dtype = dtype_on_device(options, g->model.dtype, api != &gpt2_cpu);
    *device = (OpenDevice){0};
    device->handle = api->open(&g->model, &all, error);
    if (device->handle == NULL) return false;
    device->api = api;
    device->dtype = all.dtype;
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
