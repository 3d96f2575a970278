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
    return fail(error, "%s: is %s, a regular file is needed", path, kind);
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
            // A file that is not in memory yet is then read 2 MB at a time, and mapped so: half the time until it is in
            // memory, and 15 ms less for each process after (dev/CPU.md).
            prefer_huge_pages(bytes, (size_t)status.st_size);
        }
    }
    close(descriptor);
    return ok;
}

void unmap_file(MappedFile* file) {
    if (file->bytes != NULL) munmap((void*)file->bytes, file->size);
    *file = (MappedFile){0};
}

// Advises about the whole pages of some memory.
static void advise_pages(const void* memory, size_t size, int advice) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + size) / page * page;
    if (first < end) madvise((void*)first, end - first, advice); // a wish: an error changes nothing
}

void release_pages(const void* memory, size_t size) {
    advise_pages(memory, size, MADV_DONTNEED);
}

void prefer_huge_pages(const void* memory, size_t size) {
    advise_pages(memory, size, MADV_HUGEPAGE);
}

static bool looks_like_html(const MappedFile* file) {
    size_t i = 0;
    while (i < file->size && i < 64 && memchr(" \t\r\n\xef\xbb\xbf", file->bytes[i], 7) != NULL) i++;
    return i + 1 < file->size && file->bytes[i] == '<' && memchr("!hH?", file->bytes[i + 1], 4) != NULL;
}

bool looks_like_safetensors(const MappedFile* file) {
    return file->size > 8 && file->bytes[6] == 0 && file->bytes[7] == 0 && file->bytes[8] == '{';
}

static bool looks_like_text(const MappedFile* file) {
    size_t n = file->size < 64 ? file->size : 64, printable = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = file->bytes[i];
        printable += (c >= ' ' && c < 0x7f) || c == '\t' || c == '\r' || c == '\n';
    }
    return n >= 8 && printable == n;
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
        size_t at;
        const char* magic;
        size_t length;
        const char* guess;
    } kinds[] = {
        {0, "GGUF", 4, "it is a GGUF file of llama.cpp, which is not read; give the llm.c or Hugging Face original"},
        {0, "lmgg", 4,
         "it is a ggml file of old llama.cpp, which is not read; give the llm.c or Hugging Face original"},
        {0, "tjgg", 4,
         "it is a ggjt file of old llama.cpp, which is not read; give the llm.c or Hugging Face original"},
        {0, "fmgg", 4,
         "it is a ggmf file of old llama.cpp, which is not read; give the llm.c or Hugging Face original"},
        {0, "24ka", 4, "it is a checkpoint of llama2.c, which holds another architecture than GPT-2"},
        {0, "PK\x03\x04", 4, "it is a zip archive, perhaps a PyTorch .bin or .pt; save the model as safetensors"},
        {0, "\x80\x02", 2, "it is a Python pickle, perhaps an old PyTorch file; save the model as safetensors"},
        {0, "\x80\x03", 2, "it is a Python pickle; save the model as safetensors"},
        {0, "\x80\x04", 2, "it is a Python pickle; save the model as safetensors"},
        {0, "\x80\x05", 2, "it is a Python pickle; save the model as safetensors"},
        {0, "\x1f\x8b", 2, "it is compressed with gzip; run gunzip on it"},
        {0,
         "\xfd"
         "7zXZ",
         5, "it is compressed with xz; run unxz on it"},
        {0, "\x28\xb5\x2f\xfd", 4, "it is compressed with zstd; run unzstd on it"},
        {0, "BZh", 3, "it is compressed with bzip2; run bunzip2 on it"},
        {0, "7z\xbc\xaf\x27\x1c", 6, "it is a 7z archive; unpack it"},
        {257, "ustar", 5, "it is a tar archive, perhaps TensorFlow's original; unpack it"},
        {0, "version https://git-lfs", 23,
         "it is a git-lfs pointer, not the file itself; run git lfs pull or download it"},
        {0, "\x93NUMPY", 6, "it is a NumPy array"},
        {0, "\x89HDF", 4, "it is an HDF5 file; save the model as safetensors"},
        {4, "TFL3", 4, "it is a TensorFlow Lite model, which is not read; save the model as safetensors"},
        {0,
         "\x7f"
         "ELF",
         4, "it is a program"},
        {0, "%PDF", 4, "it is a PDF document"},
        {0, "\x89PNG", 4, "it is a picture"},
        {0, "\xff\xd8\xff", 3, "it is a picture"},
    };
    if (file->size == 0) return "it is empty; download or copy it again";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t at = kinds[i].at, length = kinds[i].length;
        if (file->size >= at + length && memcmp(file->bytes + at, kinds[i].magic, length) == 0) return kinds[i].guess;
    }
    const char* llmc = guess_llmc_kind(file);
    if (llmc != NULL) return llmc;
    if (looks_like_html(file))
        return "it is a web page, so the download went wrong; scripts/download_gpt2.sh fetches it";
    if (file->bytes[0] == '{') return "it is JSON text; give the directory that it lies in";
    if (looks_like_safetensors(file)) return "it is a safetensors file; give it to --model";
    if (looks_like_text(file)) return "it is text, perhaps the message of a download that went wrong";
    return "its first bytes are those of no known format";
}
