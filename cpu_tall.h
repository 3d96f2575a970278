// The matrix product with many rows, for cpu_kernels.c, which includes this once per instruction set.
//
// The tiles of dot_tile multiply along rows of weights and must then add up the lanes of every sum, which for 768
// channels takes a quarter of the time. Here a lane is a row of activations instead, and nothing is added across lanes:
// activations are transposed when they are packed, once for all columns, and a weight is multiplied with all lanes from
// where it is stored. To give the same bits, an output is summed as there: what would be lane i of its sum is made for
// one i after the other, in an order in which each meets its partner of sum_lanes4 as early as possible. So there are
// VL / 2 passes over a tile's weights, and segments keep what a pass needs in the first-level cache.
//
//   panel    PANEL_COLUMNS columns, whole tiles and whole vectors, whose sums are stored together
//   block    rows of which a segment stays in the second-level cache while a panel's tiles are multiplied
//   tile     TALL_COLUMNS columns by two groups of rows: as many sums as registers hold
#ifndef CPU_TALL_H
#define CPU_TALL_H

enum { TALL_ROWS = TALL_GROUPS * VL, PANEL_COLUMNS = TALL_PRODUCT_COLUMNS, PANEL_TILES = PANEL_COLUMNS / TALL_COLUMNS };

// What is processed at a time: steps [first, last) of the weights' rows. Q8 has its own order of sums and no segments.
typedef struct {
    size_t first, last;
} Segment;

INLINE Segment segment_of(size_t step, size_t segment, size_t steps) {
    size_t first = step / segment * segment, last = first + segment;
    return (Segment){first, last < steps ? last : steps};
}

// Where a group has lane i of a step: a vector of rows. Lanes i and i + LANE_PAIRS of a step lie together, and all of a
// segment, so that it is read straight on: (segments, LANE_PAIRS, steps of the segment, 2, VL).
INLINE size_t group_index(size_t step, size_t i, Segment segment) {
    size_t at = segment.first * LANE_PAIRS + i % LANE_PAIRS * (segment.last - segment.first) + step - segment.first;
    return (at * 2 + i / LANE_PAIRS) * VL;
}

// n packed rows become a group, see group_index.
static void group_rows(void* group, const void* packed, size_t n, DType dtype, size_t C) {
    if (arithmetic_of(dtype, C) == INT8_BY_INT8) {
        q8_group_rows(group, packed, packed_row_bytes(dtype, C), n, C);
        return;
    }
    size_t steps = num_steps(arithmetic_of(dtype, C), C), bytes = packed_row_bytes(dtype, C);
    Segment segment = {0, 0};
    for (size_t s = 0; s < steps; s++) {
        if (s == segment.last) segment = segment_of(s, segment_steps(steps), steps);
        vf rows[VL];
        UNROLL for (size_t r = 0; r < VL; r++) {
            rows[r] = r < n ? vf_load((const char*)packed + r * bytes + s * sizeof(vf)) : (vf){0};
        }
        transpose(rows);
        UNROLL for (size_t i = 0; i < VL; i++) {
            vf_store((float*)group + group_index(s, i, segment), rows[i]);
        }
    }
}

INLINE size_t tall_segments(const Product* p, Arithmetic arithmetic) {
    return arithmetic == INT8_BY_INT8 ? 1 : (num_steps(arithmetic, p->C) + p->segment - 1) / p->segment;
}
INLINE Segment tall_segment(const Product* p, size_t i, Arithmetic arithmetic) {
    return segment_of(i * p->segment, p->segment, num_steps(arithmetic, p->C));
}

// Are weights multiplied where they are stored, floats or pairs of bf16 in whole steps?
INLINE bool multiplied_in_place(Arithmetic arithmetic, size_t C) {
    return (arithmetic == WIDEN_F32 || arithmetic == BF16_BY_BF16) && C % step_elements(arithmetic) == 0;
}

// Bytes of a row of a tile of copies, which are floats, pairs of bf16, or what cpu_q8.h makes of Q8.
INLINE size_t tile_row_bytes(Arithmetic arithmetic, size_t C) {
    if (arithmetic == INT8_BY_INT8) return q8_tile_row_bytes(C);
    return num_steps(arithmetic, C) * sizeof(vf);
}

static size_t tile_bytes(DType dtype, size_t C) {
    Arithmetic arithmetic = arithmetic_of(dtype, C);
    return multiplied_in_place(arithmetic, C) ? 0 : TALL_COLUMNS * tile_row_bytes(arithmetic, C);
}

// The steps at once of weights, as 32-bit numbers: floats, or pairs of bf16.
INLINE void copy_steps(char* out, const char* w, Arithmetic arithmetic) {
    if (arithmetic == WIDEN_BF16) {
        Pairs weights = bf16_widen(w);
        vf_store(out, weights.even);
        vf_store(out + sizeof(vf), weights.odd);
    } else {
        vf_store(out, arithmetic == WIDEN_F16 ? f16_widen(w) : vf_load(w));
    }
}

// A segment of a row of weights, copied; zeros behind C.
INLINE void tile_copy(char* out, const char* row, size_t C, Segment segment, Arithmetic arithmetic) {
    const size_t w_size = arithmetic == WIDEN_F32 ? 4 : 2, step = step_elements(arithmetic);
    const size_t at_once = steps_at_once(arithmetic), whole = whole_steps(arithmetic, C);
    for (size_t s = segment.first; s < (segment.last < whole ? segment.last : whole); s += at_once) {
        copy_steps(out + s * sizeof(vf), row + s * step * w_size, arithmetic);
    }
    if (segment.last > whole) {
        char rest[64] = {0};
        memcpy(rest, row + whole * step * w_size, (C - whole * step) * w_size);
        copy_steps(out + whole * sizeof(vf), rest, arithmetic);
    }
}

// The same of row o of a matrix in BF16Z, in whole blocks.
INLINE void tile_unpack(char* out, const Product* p, size_t o, Segment segment, Arithmetic arithmetic) {
    const size_t step = step_elements(arithmetic), steps = BF16Z_BLOCK / step, at_once = steps_at_once(arithmetic);
    const char* row = p->weight + o * p->weight_bytes;
    const uint32_t *rare = p->rare + p->rare_starts[o], *rare_end = p->rare + p->rare_starts[o + 1];
    VbTable table = vb_table(p->common);
    for (; rare < rare_end && bf16z_rare_column(*rare) < segment.first / steps * BF16Z_BLOCK; rare++) {}
    for (size_t b = segment.first / steps; b * steps < segment.last; b++) {
        Bf16Block block __attribute__((aligned(64)));
        rare = bf16z_unpack_all(block, row, b, rare, rare_end, table);
        for (size_t s = 0; s < steps && b * steps + s < segment.last; s += at_once) {
            copy_steps(out + (b * steps + s) * sizeof(vf), block + s * step * 2, unpacked(arithmetic));
        }
    }
}

// Row o of the weights, whose segment is to be multiplied, as number `index` of a tile: where it is stored, or its copy
// in the tile.
INLINE const char* tile_row(const Product* p, size_t o, Segment segment, Arithmetic arithmetic, char* tile,
                            size_t index) {
    const char* row = p->weight + o * p->weight_bytes;
    if (multiplied_in_place(arithmetic, p->C)) return row;
    char* copy = tile + index * tile_row_bytes(arithmetic, p->C);
    if (arithmetic == INT8_BY_INT8) q8_tile_row(copy, row, p->scales + o * p->num_scales, p->C);
    else if (unpacked(arithmetic) != arithmetic) tile_unpack(copy, p, o, segment, arithmetic);
    else tile_copy(copy, row, p->C, segment, arithmetic);
    return copy;
}

// sum + w * x, where lanes of x belong to different rows and w is one float, or pair of bf16, for all of them.
INLINE vf tall_add(vf sum, float w, vf x, Arithmetic arithmetic) {
#if defined(__AVX512BF16__)
    if (unpacked(arithmetic) == BF16_BY_BF16) return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)_mm512_set1_ps(w));
#endif
    (void)arithmetic;
    return sum + x * vf_set(w);
}

// Weights that are needed soon, requested line by line while others are worked with: the rows of one tile after the
// other, in the order in which they are first met: tiles of a panel, segments, panels.
typedef struct {
    const Product* p;
    size_t begin;         // first column
    size_t tile, row;     // whose row comes next
    const char *at, *end; // what is left of the one before
    size_t until;         // tile
    size_t lines;         // for a pair of lanes

    const char* spread[MOST_SEGMENT_STEPS]; // of these lines those that the steps of the pair are to request
    size_t num_spread;
} Ahead;

INLINE void request_line(const char* at) {
    __builtin_prefetch(at, 0, 2); // into the second-level cache
}

INLINE void ahead_next_row(Ahead* ahead, Arithmetic arithmetic) {
    const Product* p = ahead->p;
    size_t segments = tall_segments(p, arithmetic), of_panel = ahead->tile % (PANEL_TILES * segments);
    size_t panel = ahead->tile / (PANEL_TILES * segments), segment = of_panel / PANEL_TILES;
    size_t o = ahead->begin + panel * PANEL_COLUMNS + of_panel % PANEL_TILES * TALL_COLUMNS + ahead->row;
    const char* row = p->weight + (o < p->OC ? o : p->OC - 1) * p->weight_bytes; // may be another call's
    ahead->at = row + p->weight_bytes * segment / segments;
    ahead->end = row + p->weight_bytes * (segment + 1) / segments;
    ahead->row++;
    if (ahead->row == TALL_COLUMNS) ahead->tile++, ahead->row = 0;
}

// Requests the lines of the next pair of lanes, but leaves up to `most` of them to its steps.
INLINE void ahead_request(Ahead* ahead, Arithmetic arithmetic, size_t most) {
    ahead->num_spread = 0;
    for (size_t n = 0; n < ahead->lines; n++, ahead->at += 64) {
        if (ahead->at >= ahead->end) {
            if (ahead->tile >= ahead->until) return;
            ahead_next_row(ahead, arithmetic);
        }
        if (ahead->num_spread < most) ahead->spread[ahead->num_spread++] = ahead->at;
        else request_line(ahead->at);
    }
}

// All tiles before `until` are to be requested in so many times.
INLINE void ahead_plan(Ahead* ahead, size_t until, size_t times, Arithmetic arithmetic) {
    size_t tiles = until > ahead->tile ? until - ahead->tile : 0, segments = tall_segments(ahead->p, arithmetic);
    size_t lines = tiles * TALL_COLUMNS * (ahead->p->weight_bytes / segments / 64 + 1);
    ahead->until = until;
    ahead->lines = (lines + times - 1) / times;
}

// acc (2, TALL_COLUMNS, groups) += what lanes i and i + LANE_PAIRS of a step add to a tile's sums
INLINE void tall_step(TallSums* acc, const float* const* x, const char* const* w, size_t i, size_t s, Segment segment,
                      Arithmetic arithmetic, int groups) {
    vf rows[2][TALL_GROUPS];
    UNROLL for (size_t half = 0; half < 2; half++) {
        UNROLL for (int g = 0; g < groups; g++) {
            rows[half][g] = vf_load(x[g] + group_index(s, i + half * LANE_PAIRS, segment));
        }
    }
    UNROLL for (int c = 0; c < TALL_COLUMNS; c++) {
        UNROLL for (size_t half = 0; half < 2; half++) {
            float weight;
            memcpy(&weight, w[c] + (s * VL + half * LANE_PAIRS + i) * sizeof weight, sizeof weight);
            UNROLL for (int g = 0; g < groups; g++) acc[half][c][g] =
                tall_add(acc[half][c][g], weight, rows[half][g], arithmetic);
        }
    }
}

// The same for all steps of the segment. With `spread` every second step, or each if need be, requests a line of weights:
// until memory answers, a request holds one of the few places (16 on the Xeon of dev/CPU.md) through which activations
// too come into the first-level cache, and many requests at once keep these out.
INLINE void tall_steps(TallSums* acc, const float* const* x, const char* const* w, size_t i, Segment segment,
                       Arithmetic arithmetic, int groups, const Ahead* ahead, bool spread) {
    if (spread) {
        const char* const* line = ahead->spread;
        const char* const* even_end = line + ahead->num_spread;
        const char* const* odd_end = 2 * ahead->num_spread > segment.last - segment.first ? even_end : line;
        _Pragma("GCC unroll 2") for (size_t s = segment.first; s < segment.last; s++) {
            if (line < (s % 2 == 0 ? even_end : odd_end)) request_line(*line++);
            tall_step(acc, x, w, i, s, segment, arithmetic, groups);
        }
    } else {
        UNROLL_STEPS for (size_t s = segment.first; s < segment.last; s++) {
            tall_step(acc, x, w, i, s, segment, arithmetic, groups);
        }
    }
}

INLINE void tall_sums_copy(vf (*to)[TALL_GROUPS], vf (*from)[TALL_GROUPS], int groups) {
    UNROLL for (int c = 0; c < TALL_COLUMNS; c++) {
        UNROLL for (int g = 0; g < groups; g++) to[c][g] = from[c][g];
    }
}
INLINE void tall_sums_add(vf (*to)[TALL_GROUPS], vf (*from)[TALL_GROUPS], int groups) {
    UNROLL for (int c = 0; c < TALL_COLUMNS; c++) {
        UNROLL for (int g = 0; g < groups; g++) to[c][g] += from[c][g];
    }
}

// What follows i when pairs of lanes are counted with the bits reversed: 0, 4, 2, 6, 1, ...
INLINE int next_pair(int i) {
    int bit = LANE_PAIRS / 2;
    while (i & bit) i ^= bit, bit /= 2;
    return i | bit;
}

// sums (TALL_COLUMNS, groups) = groups of rows at x times TALL_COLUMNS rows of weights at w over a segment, plus those
// of the segments before it.
INLINE void tall_tile(vf (*sums)[TALL_GROUPS], const float* const* x, const char* const* w, size_t C, Segment segment,
                      Arithmetic arithmetic, Ahead* ahead, int groups, bool spread) {
    TallSums waiting[4]; // sums of 2, 4, 8 lanes that their partners have yet to meet
    for (int n = 0, i = 0; n < LANE_PAIRS; n++, i = next_pair(i)) {
        ahead_request(ahead, arithmetic, spread ? segment.last - segment.first : 0);
        TallSums acc[2] = {{{{0}}}};
        if (arithmetic == INT8_BY_INT8) q8_tall_pair(acc, x, w, (size_t)i, C, groups);
        else tall_steps(acc, x, w, (size_t)i, segment, arithmetic, groups, ahead, spread);
        tall_sums_add(acc[0], acc[1], groups);
        int level = 0;
        for (; n >> level & 1; level++) tall_sums_add(acc[0], waiting[level], groups);
        if (n + 1 == LANE_PAIRS && segment.first > 0) tall_sums_add(acc[0], sums, groups);
        tall_sums_copy(n + 1 == LANE_PAIRS ? sums : waiting[level], acc[0], groups);
    }
}

// Sums of a panel's columns with two groups of rows, a lane for each row.
typedef vf PanelSums[PANEL_COLUMNS][TALL_GROUPS];

// Adds what the segment's weights of the tile from column o + c on give with `count` rows from r on.
INLINE void tall_rows(PanelSums* sums, const Product* p, size_t r, size_t count, size_t o, size_t c, Segment segment,
                      Arithmetic arithmetic, char* tile, Ahead* ahead, bool spread) {
    const char* w[TALL_COLUMNS];
    for (size_t i = 0; i < TALL_COLUMNS; i++) { // past the last column it is computed again
        size_t column = o + c + i < p->end ? o + c + i : p->end - 1;
        w[i] = tile_row(p, column, segment, arithmetic, tile, i);
    }
    for (size_t n = 0; n * TALL_ROWS < count; n++) {
        const char* group = p->inp + (r + n * TALL_ROWS) * p->inp_bytes;
        const float* x[TALL_GROUPS] = {(const float*)(const void*)group};
        if (count - n * TALL_ROWS > VL) {
            x[1] = (const float*)(const void*)(group + VL * p->inp_bytes);
            tall_tile(sums[n] + c, x, w, p->C, segment, arithmetic, ahead, TALL_GROUPS, spread);
        } else {
            tall_tile(sums[n] + c, x, w, p->C, segment, arithmetic, ahead, 1, spread);
        }
    }
}

// out[0 .. columns) of one row = epilogue(sum + bias), columns <= VL.
INLINE void tall_put(float* out, vf sum, vf bias, size_t columns, Epilogue epilogue) {
    vf y = sum + bias, before = {0};
    if (epilogue == EPILOGUE_ADD) {
        memcpy(&before, out, columns * sizeof(float));
        y = before + y;
    }
    if (epilogue == EPILOGUE_GELU) y = vf_gelu(y);
    memcpy(out, &y, columns * sizeof(float));
}

// Puts a panel's sums away: columns o .. p->end of `count` rows from r on.
INLINE void tall_store(const Product* p, PanelSums sums, size_t r, size_t count, size_t o) {
    for (size_t v = 0; v < PANEL_COLUMNS / VL && o + v * VL < p->end; v++) {
        size_t column = o + v * VL, columns = p->end - column < VL ? p->end - column : VL;
        vf bias = {0};
        if (p->bias != NULL) memcpy(&bias, p->bias + column, columns * sizeof(float));
        for (size_t g = 0; g * VL < count; g++) {
            float* out = p->out + (r + g * VL) * p->OC + column;
            size_t rows = count - g * VL < VL ? count - g * VL : VL;
            vf y[VL]; // a vector of columns for each row
            UNROLL for (int l = 0; l < VL; l++) y[l] = sums[v * VL + (size_t)l][g];
            transpose(y);
            for (size_t l = 0; l < rows; l++) {
                if (columns == VL) tall_put(out + l * p->OC, y[l], bias, VL, p->epilogue);
                else tall_put(out + l * p->OC, y[l], bias, columns, p->epilogue);
            }
        }
    }
}

// Puts a panel's sums away as they are, a vector of rows for each column, where a group has them: see group_index,
// pack_f32 and pack_pairs.
INLINE void tall_store_groups(const Product* p, Arithmetic arithmetic, PanelSums sums, size_t r, size_t count,
                              size_t o) {
    const size_t steps = p->OC / VL, at_once = steps_at_once(arithmetic);
    for (size_t c = 0; c < PANEL_COLUMNS && o + c < p->end; c++) {
        size_t step = (o + c) / (VL * at_once) * at_once, place = (o + c) % (VL * at_once);
        size_t at = group_index(step + place % at_once, place / at_once, segment_of(step, segment_steps(steps), steps));
        vf bias = p->bias != NULL ? vf_set(p->bias[o + c]) : (vf){0};
        for (size_t g = 0; g * VL < count; g++) {
            vf_store(p->out + (r + g * VL) * p->OC + at, vf_gelu(sums[c][g] + bias));
        }
    }
}

enum { BLOCK_BYTES = 400 * 1024, MAX_BLOCK_ROWS = 256 };

INLINE size_t block_rows(const Product* p, Arithmetic arithmetic) {
    size_t rows = BLOCK_BYTES / (p->inp_bytes / tall_segments(p, arithmetic)) / TALL_ROWS * TALL_ROWS;
    return rows < TALL_ROWS ? TALL_ROWS : rows > MAX_BLOCK_ROWS ? MAX_BLOCK_ROWS : rows;
}

// The first tile's weights are requested at once, then always those of the next two while one is worked with: as each
// pair of lanes begins or, with `spread`, step by step.
INLINE void tall_columns(const Product* p, Arithmetic arithmetic, size_t R, size_t begin, char* tile, bool spread) {
    PanelSums sums[MAX_BLOCK_ROWS / TALL_ROWS];
    size_t block = block_rows(p, arithmetic), segments = tall_segments(p, arithmetic);
    Ahead ahead = {.p = p, .begin = begin};
    ahead_plan(&ahead, 1, 1, arithmetic);
    ahead_request(&ahead, arithmetic, 0);
    for (size_t o = begin, panel = 0; o < p->end; o += PANEL_COLUMNS, panel++) {
        size_t tiles = p->end - o < PANEL_COLUMNS ? (p->end - o + TALL_COLUMNS - 1) / TALL_COLUMNS : PANEL_TILES;
        for (size_t r = 0; r < R; r += block) {
            size_t count = R - r < block ? R - r : block, pairs = (count + TALL_ROWS - 1) / TALL_ROWS;
            for (size_t n = 0; n < segments * tiles; n++) {
                size_t t = n % tiles, i = n / tiles;
                ahead_plan(&ahead, (panel * segments + i) * PANEL_TILES + t + 3, pairs * LANE_PAIRS, arithmetic);
                tall_rows(sums, p, r, count, o, t * TALL_COLUMNS, tall_segment(p, i, arithmetic), arithmetic, tile,
                          &ahead, spread);
            }
            for (size_t n = 0; n < pairs; n++) {
                size_t first = r + n * TALL_ROWS, rows = R - first < TALL_ROWS ? R - first : TALL_ROWS;
                if (p->epilogue == EPILOGUE_GELU_IN_GROUPS) tall_store_groups(p, arithmetic, sums[n], first, rows, o);
                else tall_store(p, sums[n], first, rows, o);
            }
        }
    }
}

#endif
