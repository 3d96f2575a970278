#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#include "utils.h"

Progress progress_start(const char* what, size_t total, bool is_wanted) {
    return (Progress){.what = what,
                      .total = total,
                      .start = seconds_now(),
                      .is_wanted = is_wanted && total > 0 && isatty(STDERR_FILENO)};
}

void progress_add(Progress* progress, size_t done) {
    progress->done += done;
    if (!progress->is_wanted || (!progress->is_shown && seconds_now() - progress->start < 1)) return;
    progress->is_shown = true;
    fprintf(stderr, "\r\033[K%s: %zu %%", progress->what, 100 * progress->done / progress->total);
}

void progress_end(Progress* progress) {
    if (progress->is_shown) fprintf(stderr, "\r\033[K");
    progress->is_shown = false;
}
