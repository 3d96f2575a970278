#include "file_header.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are used as the little-endian files hold them");
_Static_assert(sizeof(FileHeader) == HEADER_BYTES, "the header has no gaps");

enum { MAX_T = 2, V, L, NH, C, VP };

bool has_magic(const MappedFile* file, int32_t magic) {
    return file->size >= sizeof magic && memcmp(file->bytes, &magic, sizeof magic) == 0;
}

bool header_read(FileHeader* header, const MappedFile* file, const char* path, Error* error) {
    if (file->size < sizeof *header) {
        return fail(error, "%s: is cut short: %zu bytes, the header alone has %zu; download or copy it again", path,
                    file->size, sizeof *header);
    }
    memcpy(header, file->bytes, sizeof *header);
    return true;
}

GPT2Config header_config(const FileHeader* header) {
    const int32_t* field = header->field;
    return (GPT2Config){
        .max_seq_len = field[MAX_T],
        .vocab_size = field[V],
        .padded_vocab_size = field[VP],
        .num_layers = field[L],
        .num_heads = field[NH],
        .channels = field[C],
    };
}

FileHeader header_make(int32_t magic, int32_t version, const GPT2Config* config) {
    return (FileHeader){{
        [HEADER_MAGIC] = magic,
        [HEADER_VERSION] = version,
        [MAX_T] = config->max_seq_len,
        [V] = config->vocab_size,
        [L] = config->num_layers,
        [NH] = config->num_heads,
        [C] = config->channels,
        [VP] = config->padded_vocab_size,
    }};
}

bool header_check_size(const MappedFile* file, size_t expected, const char* path, Error* error) {
    if (file->size == expected) return true;
    return fail(error, "%s: has %zu bytes where its header promises %zu; it is %s, download or copy it again", path,
                file->size, expected, file->size < expected ? "cut short" : "damaged or something was appended");
}
