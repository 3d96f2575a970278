#include "mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool check_is_file(const struct stat* status, const char* path, Error* error) {
    if (S_ISREG(status->st_mode)) return true;
    const char* kind = S_ISDIR(status->st_mode) ? "a directory" : S_ISFIFO(status->st_mode) ? "a pipe" : "a device";
    return fail(error, "%s: is %s, a regular file is needed (weights are mapped into memory)", path, kind);
}

bool map_file(MappedFile* file, const char* path, Error* error) {
    *file = (MappedFile){0};
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // O_NONBLOCK: a pipe must not make us wait
    if (descriptor < 0) return fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat status;
    bool ok = fstat(descriptor, &status) == 0 || fail(error, "%s: fstat: %s", path, strerror(errno));
    ok = ok && check_is_file(&status, path, error);
    if (ok && status.st_size > 0) {
        void* bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (bytes == MAP_FAILED) {
            ok = fail(error, "%s: cannot map %lld bytes: %s", path, (long long)status.st_size, strerror(errno));
        } else {
            *file = (MappedFile){bytes, (size_t)status.st_size};
        }
    }
    close(descriptor);
    return ok;
}

void unmap_file(MappedFile* file) {
    if (file->bytes != NULL) munmap((void*)file->bytes, file->size);
    *file = (MappedFile){0};
}

static bool starts_with(const MappedFile* file, const char* magic, size_t length) {
    return file->size >= length && memcmp(file->bytes, magic, length) == 0;
}

static bool looks_like_html(const MappedFile* file) {
    size_t i = 0;
    while (i < file->size && i < 64 && memchr(" \t\r\n\xef\xbb\xbf", file->bytes[i], 7) != NULL) i++;
    return i + 1 < file->size && file->bytes[i] == '<' && memchr("!hH?", file->bytes[i + 1], 4) != NULL;
}

// The numbers that the other files of llm.c begin with.
static const char* guess_llmc_kind(const MappedFile* file) {
    uint32_t magic = 0;
    if (file->size >= sizeof magic) memcpy(&magic, file->bytes, sizeof magic); // little-endian, as weights.c asserts
    switch (magic) {
    case 20240328: return "it is llm.c's tokenizer; give it to --tokenizer and the model to --model";
    case 20240327: return "it is llm.c's debug state; the model is the file without _debug_state";
    default: break;
    }
    if (magic == __builtin_bswap32(20240326))
        return "it is an llm.c file in big-endian byte order; write it little-endian";
    return NULL;
}

const char* guess_file_kind(const MappedFile* file) {
    static const struct {
        const char* magic;
        size_t length;
        const char* guess;
    } kinds[] = {
        {"GGUF", 4, "it is a GGUF file of llama.cpp, which is not read; give the llm.c or Hugging Face original"},
        {"PK\x03\x04", 4, "it is a zip archive, perhaps a PyTorch .bin or .pt; save the model as safetensors"},
        {"\x80\x02", 2, "it is a Python pickle, perhaps an old PyTorch file; save the model as safetensors"},
        {"\x1f\x8b", 2, "it is compressed with gzip; run gunzip on it"},
        {"version https://git-lfs", 23,
         "it is a git-lfs pointer, not the file itself; run git lfs pull or download it"},
        {"\x93NUMPY", 6, "it is a NumPy array"},
        {"\x89HDF", 4, "it is an HDF5 file; save the model as safetensors"},
    };
    if (file->size == 0) return "it is empty; download or copy it again";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (starts_with(file, kinds[i].magic, kinds[i].length)) return kinds[i].guess;
    }
    const char* llmc = guess_llmc_kind(file);
    if (llmc != NULL) return llmc;
    if (looks_like_html(file))
        return "it is a web page, so the download went wrong; scripts/download_gpt2.sh fetches it";
    if (file->bytes[0] == '{') return "it is JSON text; give the directory that it lies in";
    return "its first bytes are those of no known format";
}
