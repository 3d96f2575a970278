#include "print.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

// ---------------------------------------------------------------------------------------------------------------------
// A page.

bool page_open(Page* page, Error* error) {
    *page = (Page){0};
    page->out = open_memstream(&page->text, &page->length);
    return page->out != NULL || fail(error, "no memory for what is to be printed");
}

bool page_end(Page* page, TextOutput* to, Error* error) {
    bool ok = ferror(page->out) == 0;
    ok = fclose(page->out) == 0 && ok;
    ok = ok ? text_write(to, page->text, page->length, error) : fail(error, "no memory for what is to be printed");
    free(page->text);
    *page = (Page){0};
    return ok;
}

void page_drop(Page* page) {
    if (page->out != NULL) fclose(page->out);
    free(page->text);
    *page = (Page){0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Bytes on one line of a table.

// Characters that show nothing, or something else than themselves: Unicode's spaces, controls and format characters.
static bool is_invisible(unsigned c) {
    return c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad || (c >= 0x2000 && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202f) || (c >= 0x205f && c <= 0x206f) || c == 0x3000 || c == 0xfeff;
}

static unsigned code_point(const unsigned char* s, int length) {
    if (length == 1) return s[0];
    unsigned c = s[0] & (0x7fu >> length);
    for (int i = 1; i < length; i++) c = c << 6 | (s[i] & 0x3fu);
    return c;
}

void print_escaped(FILE* out, const char* bytes, size_t n, char quote) {
    const unsigned char* s = (const unsigned char*)bytes;
    for (size_t i = 0; i < n;) {
        int length = utf8_length(s + i, n - i);
        unsigned c = length > 0 ? code_point(s + i, length) : s[i];
        if (c == '\n') fputs("\\n", out);
        else if (c == '\r') fputs("\\r", out);
        else if (c == '\t') fputs("\\t", out);
        else if (c == '\\') fputs("\\\\", out);
        else if (quote != 0 && c == (unsigned char)quote) fprintf(out, "\\%c", quote);
        else if (length <= 0 || (is_invisible(c) && c < 0x100)) fprintf(out, "\\x%02x", c);
        else if (is_invisible(c)) fprintf(out, "\\u%04x", c);
        else fwrite(s + i, 1, (size_t)length, out);
        i += length > 0 ? (size_t)length : 1;
    }
}

void print_repr(FILE* out, const char* bytes, size_t n) {
    char quote = memchr(bytes, '\'', n) != NULL && memchr(bytes, '"', n) == NULL ? '"' : '\'';
    fputc(quote, out);
    print_escaped(out, bytes, n, quote);
    fputc(quote, out);
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON.

void json_quoted(FILE* out, const char* bytes, size_t n) {
    const unsigned char* s = (const unsigned char*)bytes;
    fputc('"', out);
    for (size_t i = 0; i < n;) {
        int length = utf8_length(s + i, n - i);
        if (length <= 0) fputs("\xef\xbf\xbd", out);
        else if (s[i] == '"' || s[i] == '\\') fprintf(out, "\\%c", s[i]);
        else if (s[i] == '\n') fputs("\\n", out);
        else if (s[i] < 0x20 || s[i] == 0x7f) fprintf(out, "\\u%04x", s[i]);
        else fwrite(s + i, 1, (size_t)length, out);
        i += length > 0 ? (size_t)length : 1;
    }
    fputc('"', out);
}

void json_text(FILE* out, const char* key, const char* text) {
    fprintf(out, "\"%s\": ", key);
    json_quoted(out, text, strlen(text));
    fputs(", ", out);
}

void json_number(FILE* out, const char* key, double value, const char* end) {
    char digits[32] = "null";
    for (int precision = 6; isfinite(value) && precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtof(digits, NULL) == (float)value) break;
    }
    fprintf(out, "\"%s\": %s%s", key, digits, end);
}

void json_ids(FILE* out, const char* key, const int* tokens, int n) {
    fprintf(out, "\"%s\": [", key);
    for (int i = 0; i < n; i++) fprintf(out, i == 0 ? "%d" : ", %d", tokens[i]);
    fputs("]", out);
}
