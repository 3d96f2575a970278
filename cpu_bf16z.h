// Weights in BF16Z for cpu_kernels.c, which includes this once per instruction set.
//
// A block is unpacked into what BF16 weights would be, in registers or in the first-level cache, and from there on
// everything is as with those: the same operations in the same order, so the same bits. What it costs hides behind the
// memory, which has a quarter less to bring.
#ifndef CPU_BF16Z_H
#define CPU_BF16Z_H

// Vectors of bytes, and three instructions on each sixteen bytes of them.
#if defined(__AVX512BW__)
enum { VB = 64 };
#elif defined(__AVX2__)
enum { VB = 32 };
#else
enum { VB = 16 };
#endif
typedef uint8_t vb __attribute__((vector_size(VB)));

INLINE vb vb_load(const void* p) {
    vb v;
    memcpy(&v, p, sizeof v);
    return v;
}

// The table in each sixteen bytes, and what stands in it at the given places.
#if defined(__AVX512BW__)
INLINE vb vb_table(const uint8_t* common) {
    return (vb)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(const void*)common));
}
INLINE vb vb_lookup(vb table, vb places) {
    return (vb)_mm512_shuffle_epi8((__m512i)table, (__m512i)places);
}
#elif defined(__AVX2__)
INLINE vb vb_table(const uint8_t* common) {
    return (vb)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(const void*)common));
}
INLINE vb vb_lookup(vb table, vb places) {
    return (vb)_mm256_shuffle_epi8((__m256i)table, (__m256i)places);
}
#elif defined(__aarch64__)
INLINE vb vb_table(const uint8_t* common) {
    return vb_load(common);
}
INLINE vb vb_lookup(vb table, vb places) {
    return (vb)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)places);
}
#else
INLINE vb vb_table(const uint8_t* common) {
    return vb_load(common);
}
INLINE vb vb_lookup(vb table, vb places) {
    vb found;
    UNROLL for (int i = 0; i < VB; i++) found[i] = table[places[i]];
    return found;
}
#endif

// The lower, or upper, eight bytes of each sixteen, a byte of `low` and one of `high` in turn.
#if defined(__AVX512BW__)
INLINE vb weave_lower(vb low, vb high) {
    return (vb)_mm512_unpacklo_epi8((__m512i)low, (__m512i)high);
}
INLINE vb weave_upper(vb low, vb high) {
    return (vb)_mm512_unpackhi_epi8((__m512i)low, (__m512i)high);
}
#elif defined(__AVX2__)
INLINE vb weave_lower(vb low, vb high) {
    return (vb)_mm256_unpacklo_epi8((__m256i)low, (__m256i)high);
}
INLINE vb weave_upper(vb low, vb high) {
    return (vb)_mm256_unpackhi_epi8((__m256i)low, (__m256i)high);
}
#else
INLINE vb weave_lower(vb low, vb high) {
    return SHUFFLE(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE vb weave_upper(vb low, vb high) {
    return SHUFFLE(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#endif

typedef char Bf16Block[2 * BF16Z_BLOCK]; // unpacked

// out = the block's weights in order; in place of a rare one stands something else.
INLINE void bf16z_unpack(char* out, const char* block, vb table) {
    UNROLL for (int part = 0; part < BF16Z_BLOCK / 2; part += VB) {
        vb places = vb_load(block + BF16Z_PLACES + part);
        UNROLL for (int half = 0; half < 2; half++) {
            vb low = vb_load(block + half * (BF16Z_BLOCK / 2) + part);
            vb high = vb_lookup(table, half ? places >> 4 : places & 15);
            vb lower = weave_lower(low, high), upper = weave_upper(low, high);
            memcpy(out + half * BF16Z_BLOCK + part, &lower, sizeof lower);
            memcpy(out + half * BF16Z_BLOCK + part + BF16Z_BLOCK / 2, &upper, sizeof upper);
        }
    }
}

// The same for block number b of a row, with the rare ones of `rare`, which begins with the first that is not before the
// block. Returns the first that is behind it.
INLINE const uint32_t* bf16z_unpack_all(char* out, const char* row, size_t b, const uint32_t* rare,
                                        const uint32_t* rare_end, vb table) {
    bf16z_unpack(out, row + b * BF16Z_BLOCK_BYTES, table);
    for (; rare < rare_end && bf16z_rare_column(*rare) / BF16Z_BLOCK == b; rare++) {
        out[2 * (bf16z_rare_column(*rare) % BF16Z_BLOCK) + 1] = (char)*rare; // the high byte
    }
    return rare;
}

// The first block in which any of a tile's rows has a rare weight. Most tiles have none: one question for all rows.
INLINE size_t bf16z_next_rare(const WeightRows* rows) {
    size_t next = SIZE_MAX, left = 0;
    UNROLL for (int m = 0; m < MR; m++) left |= (size_t)(rows->rare_end[m] - rows->rare[m]);
    if (left == 0) return next;
    for (int m = 0; m < MR; m++) {
        if (rows->rare[m] == rows->rare_end[m]) continue;
        size_t block = bf16z_rare_column(*rows->rare[m]) / BF16Z_BLOCK;
        next = block < next ? block : next;
    }
    return next;
}

enum { BLOCKS_AHEAD = 8 }; // 1.5 KB; 6 are better on one die, 12 on two (dev/CPU.md)

// What dot_steps does, for weights in BF16Z; `arithmetic` is that of unpacked ones. Rare weights that have been met are
// taken from rows->rare. Weights ahead are requested unless next is 0.
INLINE void bf16z_dot_steps(vf (*acc)[MR], WeightRows* rows, vb table, const char* const* x, size_t first, size_t last,
                            Arithmetic arithmetic, size_t next, int nr) {
    const size_t step = step_elements(arithmetic), steps = BF16Z_BLOCK / step;
    size_t next_rare = bf16z_next_rare(rows);
    for (size_t b = first / steps; b * steps < last; b++) {
        const bool is_plain = b < next_rare && b * steps >= first && (b + 1) * steps <= last; // nearly always
        const char *w[MR], *xb[NR];
        Bf16Block blocks[MR] __attribute__((aligned(64)));
        UNROLL for (int n = 0; n < nr; n++) xb[n] = x[n] + b * steps * sizeof(vf);
        UNROLL for (int m = 0; m < MR; m++) { // a whole block of one row, then of the next: reads best
            const char* block = rows->w[m] + b * BF16Z_BLOCK_BYTES;
            UNROLL for (int line = 0; line < BF16Z_BLOCK_BYTES; line += 64) {
                if (next > 0) __builtin_prefetch(block + BLOCKS_AHEAD * BF16Z_BLOCK_BYTES + line);
            }
            if (!is_plain) continue;
            Bf16Block plain __attribute__((aligned(64)));
            bf16z_unpack(plain, block, table);
            UNROLL for (size_t k = 0; k < steps; k++) {
                UNROLL for (int n = 0; n < nr; n++) acc[n][m] =
                    dot_add(acc[n][m], plain + k * step * sizeof(uint16_t), xb[n] + k * sizeof(vf), arithmetic);
            }
        }
        if (is_plain) continue;
        size_t from = b * steps < first ? first - b * steps : 0,
               to = last - b * steps < steps ? last - b * steps : steps;
        for (int m = 0; m < MR; m++) {
            const uint32_t* behind =
                bf16z_unpack_all(blocks[m], rows->w[m], b, rows->rare[m], rows->rare_end[m], table);
            if (to == steps) rows->rare[m] = behind;
            w[m] = blocks[m];
        }
        dot_steps(acc, w, xb, from, to, BF16Z_BLOCK, arithmetic, 0, nr);
        next_rare = bf16z_next_rare(rows);
    }
}

#endif
