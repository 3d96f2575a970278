#include "bf16z.h"

#include <stdbool.h>
#include <string.h>

#include "dtype.h"

enum { SIGN = 0x80, MAGNITUDES = BF16Z_COMMON / 2 };

void bf16z_choose_common(uint8_t common[BF16Z_COMMON], const uint32_t counts[128]) {
    uint8_t order[128];
    for (int i = 0; i < 128; i++) order[i] = (uint8_t)i;
    for (int i = 0; i < MAGNITUDES; i++) {
        int best = i;
        for (int j = i + 1; j < 128; j++) best = counts[order[j]] > counts[order[best]] ? j : best;
        common[i] = order[best];
        common[i + MAGNITUDES] = order[best] | SIGN;
        order[best] = order[i];
    }
}

// One block; constant counts, so that compilers make vectors of the loops.
static inline __attribute__((always_inline)) size_t pack_block(uint8_t* block, const uint16_t* in,
                                                               const uint8_t* common) {
    uint8_t low[BF16Z_BLOCK], magnitude[BF16Z_BLOCK], place[BF16Z_BLOCK], is_common[BF16Z_BLOCK] = {0};
    for (int i = 0; i < BF16Z_BLOCK; i++) {
        low[i] = (uint8_t)in[i];
        magnitude[i] = in[i] >> 8 & ~SIGN;
        place[i] = in[i] >> 15 ? MAGNITUDES : 0;
    }
    for (int m = 0; m < MAGNITUDES; m++) {
        for (int i = 0; i < BF16Z_BLOCK; i++) {
            uint8_t equal = magnitude[i] == common[m] ? 0xff : 0;
            place[i] |= equal & (uint8_t)m;
            is_common[i] |= equal;
        }
    }
    uint8_t places[BF16Z_BLOCK];
    for (size_t i = 0; i < BF16Z_BLOCK; i += 8) { // neighbours up to there: see bf16z_slot
        memcpy(block + bf16z_slot(i), low + i, 8);
        memcpy(places + bf16z_slot(i), place + i, 8);
    }
    for (int i = 0; i < 64; i++) block[BF16Z_PLACES + i] = (uint8_t)(places[i] | places[i + 64] << 4);
    int rare = 0;
    for (int i = 0; i < BF16Z_BLOCK; i++) rare += is_common[i] == 0;
    return (size_t)rare;
}

WIDE_VECTORS static size_t pack_row(uint8_t* blocks, const uint16_t* in, const uint8_t* common, size_t n) {
    size_t rare = 0, whole = n / BF16Z_BLOCK;
    for (size_t b = 0; b < whole; b++) {
        rare += pack_block(blocks + b * BF16Z_BLOCK_BYTES, in + b * BF16Z_BLOCK, common);
    }
    if (whole * BF16Z_BLOCK == n) return rare;
    uint16_t last[BF16Z_BLOCK];
    for (size_t i = 0; i < BF16Z_BLOCK; i++) last[i] = (uint16_t)(common[0] << 8); // what place 0 and a 0 stand for
    memcpy(last, in + whole * BF16Z_BLOCK, (n - whole * BF16Z_BLOCK) * sizeof *last);
    return rare + pack_block(blocks + whole * BF16Z_BLOCK_BYTES, last, common);
}

size_t bf16z_pack_row(uint8_t* blocks, const uint16_t* in, const uint8_t common[BF16Z_COMMON], size_t n) {
    return pack_row(blocks, in, common, n);
}

void bf16z_list_rare(uint32_t* rare, const uint16_t* in, const uint8_t common[BF16Z_COMMON], size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memchr(common, in[i] >> 8, BF16Z_COMMON) == NULL) *rare++ = bf16z_rare(i, in[i]);
    }
}

void bf16z_row_to_f32(float* out, const uint8_t* blocks, const uint8_t common[BF16Z_COMMON], const uint32_t* rare,
                      const uint32_t* rare_end, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t* block = blocks + i / BF16Z_BLOCK * BF16Z_BLOCK_BYTES;
        size_t slot = bf16z_slot(i % BF16Z_BLOCK);
        int place = block[BF16Z_PLACES + slot % 64] >> slot / 64 * 4 & 15;
        bool is_rare = rare < rare_end && bf16z_rare_column(*rare) == i;
        unsigned high = is_rare ? *rare++ & 0xff : common[place];
        out[i] = bf16_to_f32((uint16_t)(high << 8 | block[slot]));
    }
}
