// --list-devices: what a model can run on here.
#ifndef LIST_DEVICES_H
#define LIST_DEVICES_H

#include "text_output.h"

// One line per device, on `out`: the word for --device, the name, cores, memory, kernel variants (the best first).
bool list_devices(TextOutput* out, Error* error);

#endif
