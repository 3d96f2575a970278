// UTF-8 (RFC 3629), as far as printing needs it.
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

// What the n bytes at s begin with, n >= 1: the length of a whole character (1 to 4); 0 when no character begins so;
// -1 when the bytes end within a character that may still become whole.
static inline int utf8_length(const unsigned char* s, size_t n) {
    unsigned char lead = s[0];
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0; // a continuation, an overlong form of ASCII, or above U+10FFFF
    int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n) return -1;
        unsigned char low = 0x80, high = 0xbf;
        if (i == 1 && lead == 0xe0) low = 0xa0;  // overlong
        if (i == 1 && lead == 0xed) high = 0x9f; // surrogates
        if (i == 1 && lead == 0xf0) low = 0x90;  // overlong
        if (i == 1 && lead == 0xf4) high = 0x8f; // above U+10FFFF
        if (s[i] < low || s[i] > high) return 0;
    }
    return length;
}

#endif
