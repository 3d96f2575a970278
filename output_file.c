#include "output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// May the file at `path`, if there is one, be replaced?
static bool check_target(const char* path, Error* error) {
    struct stat target, out;
    if (stat(path, &target) != 0) {
        if (errno != ENOENT) return fail(error, "%s: cannot be created: %s", path, strerror(errno));
        if (lstat(path, &target) != 0) return true; // nothing there; if the directory is missing, creating will say so
        return fail(error, "%s: is a link to nothing, which is not replaced; name a file", path);
    }
    if (!S_ISREG(target.st_mode)) {
        const char* kind = S_ISDIR(target.st_mode) ? "a directory" : S_ISFIFO(target.st_mode) ? "a pipe" : "a device";
        return fail(error, "%s: is %s, which is not replaced by a file; name a file", path, kind);
    }
    if (fstat(STDOUT_FILENO, &out) == 0 && out.st_dev == target.st_dev && out.st_ino == target.st_ino) {
        return fail(error, "%s: is where standard output goes; name another file", path);
    }
    return true;
}

static bool create(OutputFile* file, Error* error) {
    int fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) {
        return fail(error, "%s: is there already; another program is writing it, or was killed: then remove it",
                    file->temporary);
    }
    if (fd >= 0) file->stream = fdopen(fd, "wb");
    if (file->stream != NULL) return true;
    fail(error, "%s: cannot be created: %s", file->temporary, strerror(errno));
    if (fd >= 0) {
        close(fd);
        unlink(file->temporary);
    }
    return false;
}

bool output_open(OutputFile* file, const char* path, Error* error) {
    *file = (OutputFile){0};
    if (!check_target(path, error)) return false;
    file->path = realpath(path, NULL);
    if (file->path == NULL) file->path = strdup(path); // it is not there yet
    size_t length = (file->path != NULL ? strlen(file->path) : 0) + sizeof ".tmp";
    file->temporary = malloc(length);
    if (file->path == NULL || file->temporary == NULL) {
        fail(error, "%s: no memory for its name", path);
    } else {
        snprintf(file->temporary, length, "%s.tmp", file->path);
        if (create(file, error)) return true;
    }
    output_abandon(file);
    return false;
}

bool output_write(OutputFile* file, const void* bytes, size_t n, Error* error) {
    if (fwrite(bytes, 1, n, file->stream) == n) return true;
    return fail(error, "%s: cannot be written: %s", file->path, strerror(errno));
}

bool output_close(OutputFile* file, Error* error) {
    // a full disk may show only when the data leaves the buffers
    bool ok = fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
    if (!ok) fail(error, "%s: cannot be written: %s", file->path, strerror(errno));
    if (fclose(file->stream) != 0 && ok) ok = fail(error, "%s: cannot be written: %s", file->path, strerror(errno));
    if (ok && rename(file->temporary, file->path) != 0) {
        ok = fail(error, "%s: cannot be renamed to %s: %s", file->temporary, file->path, strerror(errno));
    }
    if (!ok) unlink(file->temporary);
    file->stream = NULL;
    output_abandon(file);
    return ok;
}

void output_abandon(OutputFile* file) {
    if (file->stream != NULL) {
        fclose(file->stream);
        unlink(file->temporary);
    }
    free(file->temporary);
    free(file->path);
    *file = (OutputFile){0};
}
