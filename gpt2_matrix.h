// Matrix instructions behind one set of functions: a wave multiplies 16 rows by 16 columns over 32 numbers of depth,
// whatever the chip. Device code for gpt2_kernels.hip.
//
// Each family is a Shape that says which numbers a lane brings and which sums it gets back:
//   LANES, PACKS, SUMS   lanes of a wave, packs of 8 numbers (16 bytes) that a lane brings of each factor, its sums
//   row, chunk           pack p of a lane holds numbers 8 chunk to 8 chunk + 7 of row `row` of the factor
//   sum_row, sum_column  where sum i of a lane belongs in the 16 x 16 result
//   COLUMNS, column_slot a lane has sums of so many columns; which of them sum i is in
//   COLUMN_LANES         lanes that differ in bits from this one up have sums of the same columns
//   IS_THERE             has the chip that this is compiled for such instructions?
//   HAS_ASYNC_COPIES     can it copy to shared memory without a register in between?
//   multiply             adds the product to the sums, in f32. The numbers are f16 if IS_HALF, else bf16
// Both factors lie with their depth contiguous (activations by token, weights by output channel), so one map serves both.
// A lane always brings whole packs. Where an instruction takes fewer numbers from a lane than a pack has, the pack feeds
// several, and each then multiplies other depths than the manual's picture shows. They are the same ones in both factors,
// so the sum is the same; what stays is that the order of summation is fixed.
//
// The layouts are those of AMD's Matrix Instruction Calculator (github.com/ROCm/amd_matrix_instruction_calculator), of
// AMD's articles "How to accelerate AI applications on RDNA 3 using WMMA" and "Using the Matrix Cores of AMD RDNA 4
// architecture GPUs" (gpuopen.com), and of "Matrix Fragments for mma.m16n8k16" in NVIDIA's PTX ISA manual.
// NativeShape is that of the chip. On the host harness all are there and the instructions are the models in dev/hip_host/hip/matrix_instructions.h.
#ifndef GPT2_MATRIX_H
#define GPT2_MATRIX_H

#include <hip/hip_runtime.h>

#include <stdint.h>
#include <string.h>

#ifdef HIP_HOST_RUNTIME_H
#define IS_HARNESS 1
#else
#define IS_HARNESS 0
#endif
#ifdef __GFX11__
#define HAS_WMMA11 1
#else
#define HAS_WMMA11 IS_HARNESS
#endif
#if defined(__gfx1200__) || defined(__gfx1201__)
#define HAS_WMMA12 1
#else
#define HAS_WMMA12 IS_HARNESS
#endif
#if defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx942__) || defined(__gfx950__)
#define HAS_MFMA 1
#else
#define HAS_MFMA IS_HARNESS
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define HAS_MMA_SYNC 1
#else
#define HAS_MMA_SYNC IS_HARNESS
#endif

enum {
    FRAGMENT = 16, // rows and columns of a product
    STEP = 32,     // its depth
    CHUNK = 8,     // numbers of a pack
    STEP_CHUNKS = STEP / CHUNK
};

#ifdef __AMDGCN__
template <int N> struct SumsOf { typedef float type __attribute__((ext_vector_type(N))); };
template <int N> struct ShortsOf { typedef short type __attribute__((ext_vector_type(N))); };
template <int N> struct HalvesOf { typedef _Float16 type __attribute__((ext_vector_type(N))); };
#else
template <int N> struct FloatArray {
    float at[N];
    __device__ __forceinline__ float& operator[](int i) { return at[i]; }
    __device__ __forceinline__ float operator[](int i) const { return at[i]; }
};
template <int N> struct SumsOf { typedef FloatArray<N> type; };
#endif

// The bits of the N numbers that begin at number `first` of a lane's packs.
template <class Numbers> __device__ static __forceinline__ Numbers numbers_at(const uint4* packs, int first) {
    Numbers numbers;
    // memcpy in HIP's headers copies byte by byte, which the compiler does not see through
    __builtin_memcpy(&numbers, (const char*)packs + first * (int)sizeof(uint16_t), sizeof numbers);
    return numbers;
}

// gfx11 (RDNA 3): v_wmma_f32_16x16x16. A lane holds all 16 numbers of row lane % 16; both halves of the wave hold the same.
struct Wmma11 {
    enum { LANES = 32, PACKS = 4, SUMS = 8, IS_THERE = HAS_WMMA11, HAS_ASYNC_COPIES = 0 };
    typedef SumsOf<SUMS>::type Sums;
    __device__ static __forceinline__ int row(int lane, int) { return lane % 16; }
    __device__ static __forceinline__ int chunk(int, int pack) { return pack; }
    __device__ static __forceinline__ int sum_row(int lane, int i) { return 2 * i + lane / 16; }
    __device__ static __forceinline__ int sum_column(int lane, int) { return lane % 16; }
    enum { COLUMNS = 1, COLUMN_LANES = 16 };
    __device__ static __forceinline__ int column_slot(int) { return 0; }
    template <bool IS_HALF>
    __device__ static __forceinline__ void multiply(Sums* sums, const uint4* a, const uint4* b) {
        (void)sums, (void)a, (void)b; // on chips without it
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
#if HAS_WMMA11 && !IS_HARNESS
            typedef ShortsOf<16>::type Shorts;
            typedef HalvesOf<16>::type Halves;
            *sums = IS_HALF ? __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(numbers_at<Halves>(a, k),
                                                                         numbers_at<Halves>(b, k), *sums)
                            : __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(numbers_at<Shorts>(a, k),
                                                                          numbers_at<Shorts>(b, k), *sums);
#elif IS_HARNESS
            hip_host::wmma_gfx11<IS_HALF>(sums->at, a + k / CHUNK, b + k / CHUNK);
#endif
        }
    }
};

// gfx12 (RDNA 4): the same product, but no number is held twice: of 16, lanes 0 to 15 hold the first 8, the others the rest.
struct Wmma12 {
    enum { LANES = 32, PACKS = 2, SUMS = 8, IS_THERE = HAS_WMMA12, HAS_ASYNC_COPIES = 0 };
    typedef SumsOf<SUMS>::type Sums;
    __device__ static __forceinline__ int row(int lane, int) { return lane % 16; }
    __device__ static __forceinline__ int chunk(int lane, int pack) { return 2 * pack + lane / 16; }
    __device__ static __forceinline__ int sum_row(int lane, int i) { return i + 8 * (lane / 16); }
    __device__ static __forceinline__ int sum_column(int lane, int) { return lane % 16; }
    enum { COLUMNS = 1, COLUMN_LANES = 16 };
    __device__ static __forceinline__ int column_slot(int) { return 0; }
    template <bool IS_HALF>
    __device__ static __forceinline__ void multiply(Sums* sums, const uint4* a, const uint4* b) {
        (void)sums, (void)a, (void)b; // on chips without it
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
#if HAS_WMMA12 && !IS_HARNESS
            typedef ShortsOf<8>::type Shorts;
            typedef HalvesOf<8>::type Halves;
            *sums = IS_HALF ? __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(numbers_at<Halves>(a + pack, 0),
                                                                               numbers_at<Halves>(b + pack, 0), *sums)
                            : __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(numbers_at<Shorts>(a + pack, 0),
                                                                                numbers_at<Shorts>(b + pack, 0), *sums);
#elif IS_HARNESS
            hip_host::wmma_gfx12<IS_HALF>(sums->at, a + pack, b + pack);
#endif
        }
    }
};

// CDNA: v_mfma_f32_16x16x16. A lane holds 4 numbers of row lane % 16, half a pack; gfx908 takes 2 of bf16 at a time.
struct Mfma {
    enum { LANES = 64, PACKS = 1, SUMS = 4, IS_THERE = HAS_MFMA, HAS_ASYNC_COPIES = 0 };
    typedef SumsOf<SUMS>::type Sums;
    __device__ static __forceinline__ int row(int lane, int) { return lane % 16; }
    __device__ static __forceinline__ int chunk(int lane, int) { return lane / 16; }
    __device__ static __forceinline__ int sum_row(int lane, int i) { return 4 * (lane / 16) + i; }
    __device__ static __forceinline__ int sum_column(int lane, int) { return lane % 16; }
    enum { COLUMNS = 1, COLUMN_LANES = 16 };
    __device__ static __forceinline__ int column_slot(int) { return 0; }
    template <bool IS_HALF>
    __device__ static __forceinline__ void multiply(Sums* sums, const uint4* a, const uint4* b) {
        (void)sums, (void)a, (void)b; // on chips without it
#pragma unroll
        for (int i = 0; i < CHUNK; i += 4) {
#if HAS_MFMA && !IS_HARNESS
            typedef HalvesOf<4>::type Halves;
            if (IS_HALF) {
                *sums = __builtin_amdgcn_mfma_f32_16x16x16f16(numbers_at<Halves>(a, i), numbers_at<Halves>(b, i), *sums,
                                                              0, 0, 0);
                continue;
            }
#ifdef __gfx908__
            typedef ShortsOf<2>::type Shorts;
            *sums = __builtin_amdgcn_mfma_f32_16x16x8bf16(numbers_at<Shorts>(a, i), numbers_at<Shorts>(b, i), *sums, 0,
                                                          0, 0);
            *sums = __builtin_amdgcn_mfma_f32_16x16x8bf16(numbers_at<Shorts>(a, i + 2), numbers_at<Shorts>(b, i + 2),
                                                          *sums, 0, 0, 0);
#else
            typedef ShortsOf<4>::type Shorts;
            *sums = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(numbers_at<Shorts>(a, i), numbers_at<Shorts>(b, i), *sums,
                                                              0, 0, 0);
#endif
#elif IS_HARNESS
            hip_host::mfma_16x16x16<IS_HALF>(sums->at, (const char*)a + 2 * i, (const char*)b + 2 * i);
#endif
        }
    }
};

// NVIDIA from sm_80 on: mma.sync.m16n8k16, twice for 16 columns. Lane 4 g + t holds numbers of rows g and g + 8.
struct MmaSync {
    enum { LANES = 32, PACKS = 2, SUMS = 8, IS_THERE = HAS_MMA_SYNC, HAS_ASYNC_COPIES = 1 };
    typedef SumsOf<SUMS>::type Sums;
    __device__ static __forceinline__ int row(int lane, int pack) { return lane / 4 + 8 * pack; }
    __device__ static __forceinline__ int chunk(int lane, int) { return lane % 4; }
    __device__ static __forceinline__ int sum_row(int lane, int i) { return lane / 4 + 8 * (i / 2 % 2); }
    __device__ static __forceinline__ int sum_column(int lane, int i) { return 8 * (i / 4) + 2 * (lane % 4) + i % 2; }
    enum { COLUMNS = 4, COLUMN_LANES = 4 };
    __device__ static __forceinline__ int column_slot(int i) { return i / 4 * 2 + i % 2; }
    template <bool IS_HALF>
    __device__ static __forceinline__ void multiply(Sums* sums, const uint4* a, const uint4* b) {
        (void)sums, (void)a, (void)b; // on chips without it
#pragma unroll
        for (int half = 0; half < 2; half++) { // of the packs
#pragma unroll
            for (int columns = 0; columns < 2; columns++) {
                float* d = (float*)sums + 4 * columns;
                const unsigned a_pairs[4] = {half == 0 ? a[0].x : a[0].z, half == 0 ? a[1].x : a[1].z,
                                             half == 0 ? a[0].y : a[0].w, half == 0 ? a[1].y : a[1].w};
                const unsigned b_pairs[2] = {half == 0 ? b[columns].x : b[columns].z,
                                             half == 0 ? b[columns].y : b[columns].w};
                (void)d, (void)a_pairs, (void)b_pairs;
#if HAS_MMA_SYNC && !IS_HARNESS
                if (IS_HALF) {
                    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                        "{%0,%1,%2,%3};"
                        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                        : "r"(a_pairs[0]), "r"(a_pairs[1]), "r"(a_pairs[2]), "r"(a_pairs[3]), "r"(b_pairs[0]),
                          "r"(b_pairs[1]));
                } else {
                    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                        "{%0,%1,%2,%3};"
                        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                        : "r"(a_pairs[0]), "r"(a_pairs[1]), "r"(a_pairs[2]), "r"(a_pairs[3]), "r"(b_pairs[0]),
                          "r"(b_pairs[1]));
                }
#elif IS_HARNESS
                hip_host::mma_m16n8k16<IS_HALF>(d, a_pairs, b_pairs);
#endif
            }
        }
    }
};

#if HAS_WMMA12 && !IS_HARNESS
struct NativeShape : Wmma12 {};
#elif HAS_MFMA && !IS_HARNESS
struct NativeShape : Mfma {};
#elif defined(__CUDACC__)
struct NativeShape : MmaSync {};
#else
struct NativeShape : Wmma11 {};
#endif

#endif
