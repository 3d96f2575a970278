// The progress of long work, shown on a terminal.
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

// Begins with progress_start(); where nothing is to be shown, all functions do nothing.
typedef struct {
    const char* what;
    size_t done, total;
    double start; // seconds
    bool is_wanted, is_shown;
} Progress;

// Work called `what`, of `total` units of any kind. Nothing is shown unless is_wanted and standard error is a terminal.
Progress progress_start(const char* what, size_t total, bool is_wanted);

// `done` more units are done. A percentage is shown once the work has taken a second.
void progress_add(Progress* progress, size_t done);

// Removes the line from the terminal.
void progress_end(Progress* progress);

#endif
