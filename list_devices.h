// --list-devices: what a model can run on in this machine.
#ifndef LIST_DEVICES_H
#define LIST_DEVICES_H

#include "text_output.h"

// Prints one line per device: the value for --device and the name; for the CPU its cores, memory and kernel variants
// (the best first), for a GPU its architecture, memory, bandwidth, wave size and compute units. Of a program that knows
// GPUs, standard error has a line that says why there is none.
bool list_devices(TextOutput* out, Error* error);

#endif
