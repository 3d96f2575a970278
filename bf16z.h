// Bf16 in 12 bits, without loss.
//
// The high byte of a bf16 is its sign and the upper seven bits of its exponent. In the matrices of a model it takes few
// values: eight pairs of octaves, with either sign, cover all but one weight in several thousand. So the low bytes are
// stored as they are, and each high byte as its place, 4 bits, in a table of 16: the eight commonest of its matrix,
// then the same with the sign set. A weight whose high byte is not in the table, a rare one, is listed with its column.
//
// A row is a sequence of blocks of 128 weights, 192 bytes or three cache lines each:
//   0 .. 127     the low bytes, in the order of bf16z_slot
//   128 .. 191   the places: of slot i in the lower half of byte i, of slot i + 64 in the upper half
// Past the row's end place and low byte are 0. The place of a rare weight is ignored.
#ifndef BF16Z_H
#define BF16Z_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BF16Z_BLOCK = 128, BF16Z_BLOCK_BYTES = 192, BF16Z_PLACES = 128, BF16Z_COMMON = 16 };

// The slot of weight i of a block. Processors interleave the lower, or the upper, eight bytes of each sixteen of two
// vectors; with this order the result is consecutive weights.
static inline size_t bf16z_slot(size_t i) {
    size_t eight = i / 8 % 8;
    return i / 64 * 64 + eight % 4 * 16 + eight / 4 * 8 + i % 8;
}

static inline size_t bf16z_blocks(size_t C) {
    return (C + BF16Z_BLOCK - 1) / BF16Z_BLOCK;
}

// A rare weight: the column in its row, below 2^24, and its high byte.
static inline uint32_t bf16z_rare(size_t column, uint16_t weight) {
    return (uint32_t)column << 8 | weight >> 8;
}
static inline size_t bf16z_rare_column(uint32_t rare) {
    return rare >> 8;
}

// The table for a matrix, from the number of occurrences of each high byte with its sign bit cleared.
void bf16z_choose_common(uint8_t common[BF16Z_COMMON], const uint32_t counts[128]);

// Packs a row of n bf16 into blocks. Returns how many of them are rare.
size_t bf16z_pack_row(uint8_t* blocks, const uint16_t* in, const uint8_t common[BF16Z_COMMON], size_t n);

// The rare weights of a row of n bf16, by column; as many as bf16z_pack_row returned.
void bf16z_list_rare(uint32_t* rare, const uint16_t* in, const uint8_t common[BF16Z_COMMON], size_t n);

// The first n weights of a row, widened to out (n). The row's rare weights are [rare, rare_end).
void bf16z_row_to_f32(float* out, const uint8_t* blocks, const uint8_t common[BF16Z_COMMON], const uint32_t* rare,
                      const uint32_t* rare_end, size_t n);

#ifdef __cplusplus
}
#endif

#endif
