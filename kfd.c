#include "kfd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

// The target of node `number`, "gfx1036": its version is written as major * 10000 + minor * 100 + stepping, and the
// stepping is a hexadecimal digit of the name (90010 is gfx90a). Empty for a processor, and where the driver does not
// tell. False behind the last node.
static bool node_target(char target[16], const char* topology, int number) {
    char path[512], line[256];
    unsigned version = 0;
    snprintf(path, sizeof path, "%s/%d/properties", topology, number);
    target[0] = '\0';
    FILE* file = fopen(path, "r");
    if (file == NULL) return errno != ENOENT; // a container may be kept from some of them
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "gfx_target_version %u", &version) != 1) continue;
    fclose(file);
    if (version > 0 && version < 1000000)
        snprintf(target, 16, "gfx%u%u%x", version / 10000, version / 100 % 100, version % 100);
    return true;
}

// Is it one of these words, up to the settings that may follow behind a colon?
static bool is_among(const char* target, const char* targets) {
    size_t length = strlen(target);
    for (const char* at = targets; (at = strstr(at, target)) != NULL; at += length) {
        bool begins = at == targets || at[-1] == ' ', ends = strchr(" :", at[length]) != NULL; // or at the very end
        if (begins && ends) return true;
    }
    return false;
}

bool kfd_has_other_gpu(char target[16], const char* topology, const char* targets) {
    for (int number = 0; node_target(target, topology, number); number++) {
        if (target[0] != '\0' && !is_among(target, targets)) return true;
    }
    return false;
}
