// --list-devices: what a model can run on here.
#ifndef LIST_DEVICES_H
#define LIST_DEVICES_H

#include "text_output.h"

// One line per device, on `out`: the word for --device and the name; of the CPU cores, memory and kernel variants (the
// best first), of a GPU architecture, memory, bandwidth, wave size and compute units.
bool list_devices(TextOutput* out, Error* error);

#endif
