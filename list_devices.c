#include "list_devices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cpu_kernels.h"
#include "gpt2_kernels.h"
#include "processors.h"

// The processor's name as Linux tells it, or the kind of machine where it tells none (ARM, or no /proc).
static bool cpu_name(char* name, size_t size, Error* error) {
    char line[512];
    FILE* file = fopen("/proc/cpuinfo", "r");
    if (file == NULL && errno != ENOENT && errno != EACCES) {
        return fail(error, "/proc/cpuinfo: cannot be opened: %s", strerror(errno));
    }
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char* colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        snprintf(name, size, "%.*s", (int)strcspn(colon + 1 + strspn(colon + 1, " "), "\n"),
                 colon + 1 + strspn(colon + 1, " "));
        fclose(file);
        return true;
    }
    if (file != NULL) fclose(file);
    struct utsname machine;
    snprintf(name, size, "%s", uname(&machine) == 0 ? machine.machine : "CPU");
    return true;
}

// A GPU that the driver names but cannot describe is listed with what is wrong; why there is none is said on standard
// error.
static bool list_gpus(TextOutput* out, Error* error) {
#ifdef GPT2_HIP
    Error problem;
    int count = gpt2_hip_count(&problem);
    if (count == 0) fprintf(stderr, "gpt2: %s\n", problem.text);
    for (int gpu = 0; gpu < count; gpu++) {
        char line[1200], bandwidth[32] = "unknown bandwidth";
        GpuInfo info;
        if (!gpt2_hip_info(&info, gpu, &problem)) {
            snprintf(line, sizeof line, "gpu:%d  %s\n", gpu, problem.text);
        } else {
            if (info.bandwidth > 0) snprintf(bandwidth, sizeof bandwidth, "%.0f GB/s", 1e-9 * info.bandwidth);
            snprintf(line, sizeof line, "gpu:%d  %s, %s, %.1f GB of memory, %s, wave size %d, %d multiprocessors\n",
                     gpu, info.name, info.arch, 1e-9 * (double)info.memory, bandwidth, info.wave_size,
                     info.compute_units);
        }
        if (!text_write(out, line, strlen(line), error)) return false;
    }
#else
    (void)out, (void)error;
#endif
    return true;
}

bool list_devices(TextOutput* out, Error* error) {
    char name[256], line[1024];
    if (!cpu_name(name, sizeof name, error)) return false;
    int cores = cpu_physical_cores();
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    int length = snprintf(line, sizeof line, "cpu  %s, %d physical core%s, %.1f GB of memory, kernels", name, cores,
                          cores == 1 ? "" : "s", 1e-9 * memory);
    const CpuKernels* kernels;
    for (int i = 0; (kernels = cpu_kernels_supported(i)) != NULL && length < (int)sizeof line; i++) {
        length += snprintf(line + length, sizeof line - (size_t)length, "%s %s", i == 0 ? "" : ",", kernels->name);
    }
    return text_write(out, line, strlen(line), error) && text_write(out, "\n", 1, error) && list_gpus(out, error);
}
