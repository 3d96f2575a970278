// Weights in BF16Z for cpu_kernels.c, which includes this once per instruction set.
//
// A block is unpacked to BF16 weights, in registers or in the first-level cache, and from there on everything is as
// with those: the same operations in the same order, so the same bits. The cost of unpacking is hidden behind memory,
// which has a quarter less to deliver.
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

// The table in the form that lookups need, repeated in every sixteen bytes; and its entries at the given places.
#if defined(__AVX512BW__)
typedef vb VbTable;
INLINE VbTable vb_table(const uint8_t* common) {
    return (vb)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(const void*)common));
}
INLINE vb vb_lookup(VbTable table, vb places) {
    return (vb)_mm512_shuffle_epi8((__m512i)table, (__m512i)places);
}
#elif defined(__AVX2__)
typedef vb VbTable;
INLINE VbTable vb_table(const uint8_t* common) {
    return (vb)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(const void*)common));
}
INLINE vb vb_lookup(VbTable table, vb places) {
    return (vb)_mm256_shuffle_epi8((__m256i)table, (__m256i)places);
}
#elif defined(__aarch64__)
typedef vb VbTable;
INLINE VbTable vb_table(const uint8_t* common) {
    return vb_load(common);
}
INLINE vb vb_lookup(VbTable table, vb places) {
    return (vb)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)places);
}
#else
// Without an instruction for it: each of the eight magnitudes is put wherever its place occurs, then the sign.
typedef struct {
    vb magnitude[BF16Z_COMMON / 2]; // each in every byte
} VbTable;
INLINE VbTable vb_table(const uint8_t* common) {
    VbTable table;
    UNROLL for (int i = 0; i < BF16Z_COMMON / 2; i++) table.magnitude[i] = common[i] - (vb){0};
    return table;
}
INLINE vb vb_lookup(VbTable table, vb places) {
    vb found = (places & 8) << 4, place = places & 7;
    UNROLL for (uint8_t i = 0; i < BF16Z_COMMON / 2; i++) found |= (vb)(place == i) & table.magnitude[i];
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

// out = the block's weights in order; a rare one's element holds some other value.
INLINE void bf16z_unpack(char* out, const char* block, VbTable table) {
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

// The same for block number b of a row, with its rare weights, taken from `rare`, which begins with the first that is
// not before the block. Returns the first one behind the block.
INLINE const uint32_t* bf16z_unpack_all(char* out, const char* row, size_t b, const uint32_t* rare,
                                        const uint32_t* rare_end, VbTable table) {
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

enum { BLOCKS_AHEAD = 8, BLOCKS_FAR_AHEAD = 16 }; // 1.5 KB; 6 are better on one die, 12 on two (dev/CPU.md)

// Requests the blocks that follow block b of a row.
INLINE void bf16z_request(const char* row, size_t b) {
    UNROLL for (int line = 0; line < BF16Z_BLOCK_BYTES; line += 64) {
        request(row + b * BF16Z_BLOCK_BYTES + line, BLOCKS_AHEAD * BF16Z_BLOCK_BYTES,
                BLOCKS_FAR_AHEAD * BF16Z_BLOCK_BYTES);
    }
}

// The number of rows whose blocks are unpacked before they are multiplied. One row at a time reads memory fastest, but
// with narrow vectors a block is a long chain of additions, and several of these have to be in flight.
enum { ROWS_AT_A_TIME = VL == 16 ? 1 : MR };

// acc (nr, MR) += block b, whole and without rare weights, times what x points to.
INLINE void bf16z_dot_block(vf (*acc)[MR], const WeightRows* rows, size_t b, VbTable table, const char* const* x,
                            Arithmetic arithmetic, bool is_requesting, int nr) {
    const size_t step = step_elements(arithmetic), steps = BF16Z_BLOCK / step, at_once = steps_at_once(arithmetic);
    UNROLL for (int m = 0; m < MR; m += ROWS_AT_A_TIME) {
        Bf16Block blocks[ROWS_AT_A_TIME] __attribute__((aligned(64)));
        UNROLL for (int i = 0; i < ROWS_AT_A_TIME; i++) {
            if (is_requesting) bf16z_request(rows->w[m + i], b);
            bf16z_unpack(blocks[i], rows->w[m + i] + b * BF16Z_BLOCK_BYTES, table);
        }
        UNROLL for (size_t k = 0; k < steps; k += at_once) {
            UNROLL for (int i = 0; i < ROWS_AT_A_TIME; i++) {
                UNROLL for (int n = 0; n < nr; n++) acc[n][m + i] =
                    dot_add(acc[n][m + i], blocks[i] + k * step * sizeof(uint16_t), x[n] + k * sizeof(vf), arithmetic);
            }
        }
    }
}

// dot_steps() for weights in BF16Z; `arithmetic` is that of the unpacked ones. rows->rare moves past the rare weights
// that have been used. Weights ahead are prefetched unless next is 0.
INLINE void bf16z_dot_steps(vf (*acc)[MR], WeightRows* rows, VbTable table, const char* const* x, size_t first,
                            size_t last, Arithmetic arithmetic, size_t next, int nr) {
    const size_t steps = BF16Z_BLOCK / step_elements(arithmetic);
    size_t next_rare = bf16z_next_rare(rows);
    for (size_t b = first / steps; b * steps < last; b++) {
        const char *w[MR], *xb[NR];
        UNROLL for (int n = 0; n < nr; n++) xb[n] = x[n] + b * steps * sizeof(vf);
        if (b < next_rare && b * steps >= first && (b + 1) * steps <= last) { // nearly always
            bf16z_dot_block(acc, rows, b, table, xb, arithmetic, next > 0, nr);
            continue;
        }
        Bf16Block blocks[MR] __attribute__((aligned(64)));
        size_t from = b * steps < first ? first - b * steps : 0;
        size_t to = last - b * steps < steps ? last - b * steps : steps;
        for (int m = 0; m < MR; m++) {
            if (next > 0) bf16z_request(rows->w[m], b);
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
