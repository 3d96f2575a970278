// The GPUs that Linux' driver for AMD (KFD) has, by their files and without HIP. By many reports the runtimes of ROCm 5 end
// the process at its first call ("hipErrorNoBinaryForGpu: Unable to find code object for all current devices!") when any
// GPU that they see has no code in the program, such as the processor's own beside the card, so that one has to know
// before.
#ifndef KFD_H
#define KFD_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KFD_TOPOLOGY "/sys/class/kfd/kfd/topology/nodes"

// Does `topology`, a folder like KFD_TOPOLOGY, name a GPU that is not among `targets` ("gfx90a gfx1030:xnack-", as
// GPU_TARGETS)? The first such one's target is put into `target`. False where the folder tells nothing.
bool kfd_has_other_gpu(char target[16], const char* topology, const char* targets);

#ifdef __cplusplus
}
#endif

#endif
