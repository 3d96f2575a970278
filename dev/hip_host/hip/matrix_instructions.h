// Matrix instructions on the host harness: models, lane by lane, of those that gpt2_matrix.h uses. They are written
// from the makers' descriptions of the instructions and know nothing of how gpt2_matrix.h feeds them, so a wrong layout
// there gives wrong sums here. Included by hip_runtime.h.
//
// A model says where the instruction finds number k of row r of a factor (lane and index), and where a lane's sums
// belong. Products are exact, their sum is made in float64 and rounded once; real chips round in between, by rules of
// their own.
#ifndef HIP_HOST_MATRIX_INSTRUCTIONS_H
#define HIP_HOST_MATRIX_INSTRUCTIONS_H

namespace hip_host {

struct Place {
    int lane, index;
};

// bf16 is the upper half of a binary32; of binary16 the fields move into place, and the exponent is put right by a
// product.
template <bool IS_HALF> float widen_number(uint16_t number) {
    uint32_t bits = IS_HALF ? (uint32_t)(number & 0x7fff) << 13 : (uint32_t)number << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    if (!IS_HALF) return f;
    f = (number & 0x7c00) == 0x7c00 ? (number & 0x3ff ? NAN : INFINITY) : f * 0x1p112f;
    return number & 0x8000 ? -f : f;
}

// d (Model::SUMS) += products of what the lanes bring: a (Model::A_NUMBERS) and b (Model::B_NUMBERS), 16 bits each.
template <class Model, bool IS_HALF>
HIP_HOST_UNSEEN void matrix_instruction(float* d, const uint16_t* a, const uint16_t* b) {
    if ((unsigned)Model::LANES > (unsigned)state().wave_size) give_up("a matrix instruction wider than the wave");
    Operands mine;
    for (int i = 0; i < Model::A_NUMBERS; i++) mine.numbers[i] = a[i];
    for (int i = 0; i < Model::B_NUMBERS; i++) mine.numbers[Model::A_NUMBERS + i] = b[i];
    const Operands* all = gather(mine, Model::LANES);
    if (!Model::is_well_formed(all)) give_up("a matrix instruction whose operands are not laid out as it wants them");
    int lane = (int)(block()->current->index % Model::LANES);
    for (int i = 0; i < Model::SUMS; i++) {
        double sum = (double)d[i];
        for (int k = 0; k < Model::DEPTH; k++) {
            Place x = Model::a(Model::row(lane, i), k), y = Model::b(k, Model::column(lane, i));
            sum += (double)widen_number<IS_HALF>(all[x.lane].numbers[x.index]) *
                   (double)widen_number<IS_HALF>(all[y.lane].numbers[Model::A_NUMBERS + y.index]);
        }
        d[i] = (float)sum;
    }
}

// RDNA 3, v_wmma_f32_16x16x16 with 32 lanes: row r of A and column c of B whole in lanes r and c, and again 16 lanes
// up; register i of the result holds row 2 i in the lower lanes and 2 i + 1 in the upper ones.
struct WmmaGfx11 {
    enum { LANES = 32, A_NUMBERS = 16, B_NUMBERS = 16, DEPTH = 16, SUMS = 8 };
    static Place a(int row, int k) { return {row, k}; }
    static Place b(int k, int column) { return {column, k}; }
    static int row(int lane, int i) { return 2 * i + lane / 16; }
    static int column(int lane, int) { return lane % 16; }
    static bool is_well_formed(const Operands* all) {
        const Operands &mine = all[block()->current->index % LANES],
                       &twin = all[(block()->current->index ^ 16) % LANES];
        for (int i = 0; i < A_NUMBERS + B_NUMBERS; i++) {
            if (mine.numbers[i] != twin.numbers[i]) return false;
        }
        return true;
    }
};

// RDNA 4, the same instruction: lanes 0 to 15 hold k 0 to 7, lanes 16 to 31 k 8 to 15; register i of the result holds
// row i in the lower lanes and 8 + i in the upper ones.
struct WmmaGfx12 {
    enum { LANES = 32, A_NUMBERS = 8, B_NUMBERS = 8, DEPTH = 16, SUMS = 8 };
    static Place a(int row, int k) { return {row + k / 8 * 16, k % 8}; }
    static Place b(int k, int column) { return {column + k / 8 * 16, k % 8}; }
    static int row(int lane, int i) { return i + lane / 16 * 8; }
    static int column(int lane, int) { return lane % 16; }
    static bool is_well_formed(const Operands*) { return true; }
};

// CDNA, v_mfma_f32_16x16x16: A[i][k] in lane i + 16 (k / 4), number k % 4; B likewise; D[i][j] in lane j + 16 (i / 4),
// register i % 4.
struct Mfma16x16x16 {
    enum { LANES = 64, A_NUMBERS = 4, B_NUMBERS = 4, DEPTH = 16, SUMS = 4 };
    static Place a(int row, int k) { return {row + 16 * (k / 4), k % 4}; }
    static Place b(int k, int column) { return {column + 16 * (k / 4), k % 4}; }
    static int row(int lane, int i) { return lane / 16 * 4 + i; }
    static int column(int lane, int) { return lane % 16; }
    static bool is_well_formed(const Operands*) { return true; }
};

// PTX, mma.sync.m16n8k16 on 16-bit numbers: pairs along k in lanes 4 (row % 8) + (k % 8) / 2; of A first rows 0 to 7
// and 8 to 15 of the lower half of k, then of the upper one; the result in pairs along the columns.
struct MmaM16N8K16 {
    enum { LANES = 32, A_NUMBERS = 8, B_NUMBERS = 4, DEPTH = 16, SUMS = 4 };
    static Place a(int row, int k) { return {row % 8 * 4 + k % 8 / 2, k / 8 * 4 + row / 8 * 2 + k % 2}; }
    static Place b(int k, int column) { return {column * 4 + k % 8 / 2, k / 8 * 2 + k % 2}; }
    static int row(int lane, int i) { return lane / 4 + (i >= 2 ? 8 : 0); }
    static int column(int lane, int i) { return lane % 4 * 2 + i % 2; }
    static bool is_well_formed(const Operands*) { return true; }
};

template <bool IS_HALF> void wmma_gfx11(float* d, const void* a, const void* b) {
    matrix_instruction<WmmaGfx11, IS_HALF>(d, (const uint16_t*)a, (const uint16_t*)b);
}
template <bool IS_HALF> void wmma_gfx12(float* d, const void* a, const void* b) {
    matrix_instruction<WmmaGfx12, IS_HALF>(d, (const uint16_t*)a, (const uint16_t*)b);
}
template <bool IS_HALF> void mfma_16x16x16(float* d, const void* a, const void* b) {
    matrix_instruction<Mfma16x16x16, IS_HALF>(d, (const uint16_t*)a, (const uint16_t*)b);
}
template <bool IS_HALF> void mma_m16n8k16(float* d, const void* a, const void* b) {
    matrix_instruction<MmaM16N8K16, IS_HALF>(d, (const uint16_t*)a, (const uint16_t*)b);
}

} // namespace hip_host

#endif
