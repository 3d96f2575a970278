// The GPU device: GPT-2's forward pass in HIP, every kernel and its host code.
//
// One source for AMD GPUs (hipcc), NVIDIA GPUs (nvcc with dev/hip_cuda) and no GPU at all (g++ with dev/hip_host).
//
// How tokens run. All weights lie on the card, rows padded with zeros to whole 16-byte packs. What changes from token
// to token (position, slots, tokens) is read from device memory. A layer is
//     q, k, v = LayerNorm(x) · qkvw, k and v into the cache; attention; x += attention · attprojw
//     x += GELU(LayerNorm(x) · fcw) · fcprojw
// and behind the last come LayerNorm, the product with wte, and the choice of the token.
//
// One token per sequence runs by one of three routes, which give the same bits: its stages launched one by one, the
// same launches captured once as a graph, or one persistent kernel, decode_token, whose blocks pass their numbers to
// each other through memory (dev/GPU.md). The device times them and keeps the fastest.
//
// Two regimes. A run of at most DECODE_TOKENS tokens per sequence reads each weight once for all rows (decode_stage,
// decode_attention); a longer one is cut into tiles that share what they load, on chips with matrix instructions by
// them (matrix_matmul, matrix_attention, gpt2_matrix.h), else by prefill_matmul and prefill_attention. The choice
// depends on the run's T alone, and within a regime each output is summed in an order that depends only on the sizes of
// the model. So the result is bit-equal from run to run, and whatever the batch and the chunks are.
//
// Lanes work together in groups of 32, which is a wave of RDNA and half a wave of CDNA; shuffles name that width, so
// both are right. All arithmetic is f32, but for the factors of matrix instructions; built without contraction, fmaf is
// written where it is meant.
#include <hip/hip_runtime.h>

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpt2_kernels.h"
#include "gpt2_matrix.h"
#include "kfd.h"

enum {
    GROUP = 32,               // lanes that shuffle together
    THREADS = 256,            // of every block
    GROUPS = THREADS / GROUP, // of every block
    PACK_BYTES = 16,          // what one lane loads at once
    ROW_ALIGN = 32,           // elements that rows of matrices and activations are padded to; Q8_BLOCK as well
    HEAD_ALIGN = 8,           // elements that heads are padded to
    DECODE_TOKENS = 8,        // runs of at most so many tokens per sequence take the decode kernels
    DECODE_ROWS = 8,          // rows that these handle together at most
    DECODE_THREADS = 512,     // of their blocks
    READERS = 4,              // groups of them that read activations, keys and values
    WORKERS = DECODE_THREADS / GROUP - READERS, // groups that multiply
    COLUMNS = 2,                                // of a product that a worker makes together
    PARTIAL_PAIRS = 16,                         // times COLUMNS columns whose slices a block adds up together
    RANGE = READERS * GROUP,                    // keys whose part in attention is computed by itself
    PERSISTENT_ROWS = 2,                        // rows that the persistent kernel takes at most
    DECODE_SHARED = 40000,                      // bytes of shared memory that one stage may ask for
    PERSISTENT_SHARED = 59000,                  // and the persistent kernel; either has some more of its own
    PATIENCE = 1 << 21,                         // looks of its threads at one place before they give up: about a second
    NOT_PICKED = -2,                            // where a token is to be written
    PREFILL_ROWS = 512,                         // rows of one chunk of a longer run
    TILE = 64,                                  // rows and columns of a tile of prefill_matmul
    TILE_K = 32,                                // its depth, one Q8 block
    TILE_STRIDE = TILE + 4,                     // in shared memory: 16-byte rows that start in different banks
    KEYS = GROUP,                               // keys that attention looks at together, one per lane
    HEAD_SLICE = 128,                           // channels of a head whose sums one block keeps
    SUMS = HEAD_SLICE / GROUP,                  // of them in one lane
    SCORE_SLICE = 64,      // channels of q and k that prefill_attention holds in shared memory at once
    QUERIES_PER_GROUP = 4, // of prefill_attention
    QUERIES = GROUPS * QUERIES_PER_GROUP,
    ATTENTION_WAVES = 4, // of one of its blocks, each with 16 queries
    PROBE_ANSWERS = 2,
    MAX_ALLOCATIONS = 64
};

// ---------------------------------------------------------------------------------------------------------------------
// Numbers

// __builtin_memcpy, as in gpt2_matrix.h: memcpy in HIP's headers is a loop over bytes. LLVM 21 kept every byte of what a
// lane had loaded in a register of its own, and spilled.
__device__ static __forceinline__ float float_of_bits(unsigned bits) {
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

__device__ static __forceinline__ unsigned bits_of_float(float f) {
    unsigned bits;
    __builtin_memcpy(&bits, &f, sizeof bits);
    return bits;
}

// IEEE binary16 to binary32, exact. Where there is no instruction for it: the fields move into place, which leaves the
// exponent 112 too small, and a multiplication puts that right for subnormals too.
__device__ static __forceinline__ float half_to_float(unsigned half) {
#ifdef __AMDGCN__
    unsigned short bits = (unsigned short)half;
    _Float16 f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return (float)f;
#elif defined(__CUDA_ARCH__)
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)half));
    return f;
#else
    float magnitude = float_of_bits((half & 0x7fff) << 13) * 0x1p112f;
    unsigned bits = bits_of_float(magnitude);
    if (magnitude >= 65536.0f) bits |= 0x7f800000; // infinity or NaN
    return float_of_bits(bits | (half & 0x8000) << 16);
#endif
}

// binary32 to binary16, to nearest, ties to even. Without an instruction for it: a subnormal half counts steps of
// 2^-24, which are the last bits of numbers between 0.5 and 1.
__device__ static __forceinline__ uint16_t float_to_half(float f) {
#ifdef __AMDGCN__
    _Float16 half = (_Float16)f;
    uint16_t bits;
    __builtin_memcpy(&bits, &half, sizeof bits);
    return bits;
#elif defined(__CUDA_ARCH__)
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    return bits;
#else
    unsigned bits = bits_of_float(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f)));
    }
    return (uint16_t)(sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13);
#endif
}

// binary32 to bfloat16, to nearest, ties to even.
__device__ static __forceinline__ uint16_t float_to_bf16(float f) {
    unsigned bits = bits_of_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); // a NaN stays one
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What a matrix instruction multiplies with weights of a format.
__host__ __device__ static constexpr int matrix_format(int dtype) {
    return dtype == DTYPE_F16 || dtype == DTYPE_Q8 ? DTYPE_F16 : DTYPE_BF16;
}

// Activations (rows, ...) on their way from one kernel to the next, as the matrix product that reads them wants them:
// f32, or rounded to the bf16 or f16 that a matrix instruction multiplies.
struct Activation {
    void* data;
    int format; // DTYPE_F32, or matrix_format() of the weights
};

// One activation rounded for a matrix instruction. What is finite stays so.
__device__ static __forceinline__ uint16_t rounded_activation(int format, float value) {
    if (format == DTYPE_BF16) return float_to_bf16(value);
    return float_to_half(fabsf(value) < INFINITY ? fminf(fmaxf(value, -65504), 65504) : value);
}

__device__ static __forceinline__ void activation_put(Activation out, size_t at, float value) {
    if (out.format == DTYPE_F32) ((float*)out.data)[at] = value;
    else ((uint16_t*)out.data)[at] = rounded_activation(out.format, value);
}

// Weights as they lie on the card: rows (rows, stride) with stride = columns rounded up to ROW_ALIGN, zeros behind.
struct Matrix {
    const void* data;
    const uint16_t* scales; // Q8: (rows, stride / Q8_BLOCK), binary16
};

// The KV cache's format beside matrices of this one: f16, but f32 beside f32, where its rounding would show.
__host__ __device__ static constexpr int cache_format(int dtype) {
    return dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_F16;
}

// How 16 bytes of a format become floats. A Q8 pack lies within one block; its scale is applied to sums.
template <int DTYPE> struct Format;

template <> struct Format<DTYPE_F32> {
    enum { PACK = 4, CACHE = cache_format(DTYPE_F32) };
    __device__ static __forceinline__ void unpack(float* w, uint4 raw) {
        w[0] = float_of_bits(raw.x), w[1] = float_of_bits(raw.y);
        w[2] = float_of_bits(raw.z), w[3] = float_of_bits(raw.w);
    }
};

template <> struct Format<DTYPE_BF16> {
    enum { PACK = 8, CACHE = cache_format(DTYPE_BF16) };
    __device__ static __forceinline__ void unpack(float* w, uint4 raw) {
        const unsigned pairs[4] = {raw.x, raw.y, raw.z, raw.w};
        for (int i = 0; i < 4; i++) {
            w[2 * i] = float_of_bits(pairs[i] << 16);
            w[2 * i + 1] = float_of_bits(pairs[i] & 0xffff0000);
        }
    }
};

template <> struct Format<DTYPE_F16> {
    enum { PACK = 8, CACHE = cache_format(DTYPE_F16) };
    __device__ static __forceinline__ void unpack(float* w, uint4 raw) {
        const unsigned pairs[4] = {raw.x, raw.y, raw.z, raw.w};
        for (int i = 0; i < 4; i++) {
            w[2 * i] = half_to_float(pairs[i] & 0xffff);
            w[2 * i + 1] = half_to_float(pairs[i] >> 16);
        }
    }
};

template <> struct Format<DTYPE_Q8> {
    enum { PACK = 16, CACHE = cache_format(DTYPE_Q8) };
    __device__ static __forceinline__ void unpack(float* w, uint4 raw) {
        const unsigned quads[4] = {raw.x, raw.y, raw.z, raw.w};
        for (int i = 0; i < 16; i++) w[i] = (float)((int)(quads[i / 4] << (24 - i % 4 * 8)) >> 24);
    }
};

// The scale of pack number `pack` of row `row`; 1 for the formats that have none.
template <int DTYPE>
__device__ static __forceinline__ float pack_scale(Matrix weight, size_t row, int pack, int stride) {
    if (DTYPE != DTYPE_Q8) return 1;
    return half_to_float(weight.scales[row * (size_t)(stride / Q8_BLOCK) + (size_t)(pack / (Q8_BLOCK / 16))]);
}

// The value of the lane whose number in the group differs by DISTANCE alone, of values that repeat every 2 DISTANCE
// lanes. AMD's __shfl_xor goes through the unit of shared memory; rows of 16 lanes are rotated without it, which comes
// to the same here.
template <int DISTANCE> __device__ static __forceinline__ float across(float value) {
#ifdef __AMDGCN__
    int bits = (int)bits_of_float(value);
    if (DISTANCE < 16)
        return float_of_bits(
            (unsigned)__builtin_amdgcn_mov_dpp(bits, 0x120 + DISTANCE % 16, 0xf, 0xf, true)); // row_ror
#if defined(__GFX10__) || defined(__GFX11__) || defined(__GFX12__)
    return float_of_bits(
        __builtin_amdgcn_permlanex16((unsigned)bits, (unsigned)bits, 0x76543210, 0xfedcba98, false, false));
#else
    return float_of_bits((unsigned)__builtin_amdgcn_ds_swizzle(bits, 16 << 10 | 31)); // lanes exclusive-or 16
#endif
#else
    return __shfl_xor(value, DISTANCE, GROUP);
#endif
}

// The sum, or the largest, of 32 lanes, in every one of them; always added in the same order.
__device__ static __forceinline__ float group_sum(float value) {
    value += across<16>(value);
    value += across<8>(value);
    value += across<4>(value);
    value += across<2>(value);
    return value + across<1>(value);
}

__device__ static __forceinline__ float group_max(float value) {
    value = fmaxf(value, across<16>(value));
    value = fmaxf(value, across<8>(value));
    value = fmaxf(value, across<4>(value));
    value = fmaxf(value, across<2>(value));
    return fmaxf(value, across<1>(value));
}

// The sum over the block, in every thread. `partial` (GROUPS) is shared memory.
__device__ static __forceinline__ float block_sum(float value, float* partial) {
    value = group_sum(value);
    if (threadIdx.x % GROUP == 0) partial[threadIdx.x / GROUP] = value;
    __syncthreads();
    float sum = 0;
    for (int g = 0; g < GROUPS; g++) sum += partial[g];
    __syncthreads(); // before partial is used again
    return sum;
}

// GELU in its tanh form, as GPT-2 was trained with: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
__device__ static __forceinline__ float gelu(float x) {
    float cube = 0.044715f * x * x * x;
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + cube)));
}

// ---------------------------------------------------------------------------------------------------------------------
// Words between blocks
//
// In the persistent kernel a block reads what other blocks of the same launch write. Every number travels by itself:
// its place is EMPTY until it is written, once, and whoever needs it looks until it is there. So no barrier of the grid
// is needed, no fence and no counter: what is read is the message itself, and relaxed atomic accesses, which pass by
// the caches that a compute unit keeps for itself, are enough.
//
// All blocks run together, so every number comes. Should one not come all the same, nobody looks for ever: after
// `patience` looks a thread gives up for its block, which then waits for nothing any more. The kernel so comes to its
// end with numbers that mean nothing, says that it has not picked, and the host goes on by another route.

static const unsigned EMPTY = 0xffffffff; // a NaN that is never written

// How many times a thread of this block looks at one place before it gives up; 0 once one has. In shared memory.
__device__ static __forceinline__ int* patience() {
    __shared__ int looks;
    return &looks;
}

__device__ static __forceinline__ int patience_left() {
#if defined(__AMDGCN__)
    return __hip_atomic_load(patience(), __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
#elif defined(__CUDA_ARCH__)
    return *(const volatile int*)patience();
#else
    return __atomic_load_n(patience(), __ATOMIC_RELAXED);
#endif
}

__device__ static __forceinline__ void set_patience(int looks) {
#if defined(__AMDGCN__)
    __hip_atomic_store(patience(), looks, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
#elif defined(__CUDA_ARCH__)
    *(volatile int*)patience() = looks;
#else
    __atomic_store_n(patience(), looks, __ATOMIC_RELAXED);
#endif
}

__device__ static __forceinline__ unsigned long long agent_load(const float* pair) {
#if defined(__AMDGCN__)
    return __hip_atomic_load((const unsigned long long*)pair, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#elif defined(__CUDA_ARCH__)
    unsigned low, high; // two accesses of 32 bits, as the stores are: CUDA's memory model orders only equals
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                 : "=r"(low), "=r"(high)
                 : "l"(__cvta_generic_to_global(pair)));
    return (unsigned long long)high << 32 | low;
#else
    return __atomic_load_n((const unsigned long long*)pair, __ATOMIC_RELAXED);
#endif
}

__device__ static __forceinline__ void agent_store(float* word, unsigned bits) {
#if defined(__AMDGCN__)
    __hip_atomic_store((unsigned*)word, bits, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#elif defined(__CUDA_ARCH__)
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(word)), "r"(bits));
#else
    __atomic_store_n((unsigned*)word, bits, __ATOMIC_RELAXED);
#endif
}

// Waits until this wave's stores have reached the cache that they go to first, where AMD's __syncthreads does not: its
// fence counts on the order within a compute unit, which holds between two waves of it but not for a third one
// elsewhere that learns from the second what the first has done.
__device__ static __forceinline__ void stores_arrive() {
#if defined(__GFX12__)
    asm volatile("s_wait_storecnt 0x0" ::: "memory");
#elif defined(__GFX10__) || defined(__GFX11__)
    asm volatile("s_waitcnt_vscnt null, 0x0" ::: "memory");
#elif defined(__AMDGCN__)
    asm volatile("s_waitcnt vmcnt(0)" ::: "memory");
#endif
}

// Adds one and returns what was there. What was written before is seen by whoever comes later.
__device__ static __forceinline__ int agent_arrive(int* counter) {
#if defined(__AMDGCN__)
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
    stores_arrive(); // clang 19 takes the write-back of gfx942's cache for something that needs no wait
    int before = __hip_atomic_fetch_add(counter, 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
    return before;
#elif defined(__CUDA_ARCH__)
    int before;
    asm volatile("atom.acq_rel.gpu.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
#else
    return __atomic_fetch_add(counter, 1, __ATOMIC_ACQ_REL);
#endif
}

// After `looks` looks in vain: is there to be another one? The harness lets the other threads run meanwhile.
__device__ static __forceinline__ bool look_again(int looks) {
#if defined(__AMDGCN__)
    __builtin_amdgcn_s_sleep(1);
#elif !defined(__CUDA_ARCH__)
    __nanosleep(1);
#endif
    if (looks < patience_left()) return true;
    set_patience(0);
    return false;
}

// All threads of the block wait for each other, and see what was written to shared memory. Unlike __syncthreads on an
// AMD card it does not wait for loads from global memory that are under way.
__device__ static __forceinline__ void block_barrier() {
#if defined(__GFX12__)
    asm volatile("s_wait_dscnt 0x0\n\ts_barrier_signal -1\n\ts_barrier_wait -1" ::: "memory");
#elif defined(__AMDGCN__)
    asm volatile("s_waitcnt lgkmcnt(0)\n\ts_barrier" ::: "memory");
#else
    __syncthreads();
#endif
}

// Writes a number where others may be looking for it (WAITS), or will read it in a later launch.
template <bool WAITS> __device__ static __forceinline__ void leave(float* place, float value) {
    unsigned bits = bits_of_float(value);
    if (WAITS) agent_store(place, bits == EMPTY ? 0x7fc00000 : bits);
    else *place = value;
}

// Two neighbouring numbers of a row, or the last one alone.
struct Place {
    const float* at;
    bool has_second;
};

// Number `at` of a row of n and the one behind it; past the end, the last pair.
__device__ static __forceinline__ Place place_in(const float* row, int at, int n) {
    int nearest = min(at, (n - 1) & ~1);
    Place place = {row + nearest, nearest + 1 < n};
    return place;
}

// N pairs, number i from where(i), in which a missing second is 0. All loads are under way together. WAITS: again and
// again, until every number has been written, or patience is at its end.
template <bool WAITS, int N, class Where> __device__ static __forceinline__ void take(float2 (&pairs)[N], Where where) {
    bool is_missing;
    int looks = 0;
    do {
        is_missing = false;
        unsigned long long bits[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (WAITS) bits[i] = agent_load(where(i).at);
            else pairs[i] = *(const float2*)where(i).at;
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            bool has_second = where(i).has_second;
            if (WAITS) {
                unsigned low = (unsigned)bits[i], high = (unsigned)(bits[i] >> 32);
                is_missing |= low == EMPTY || (high == EMPTY && has_second);
                pairs[i] = make_float2(float_of_bits(low), float_of_bits(high));
            }
            if (!has_second) pairs[i].y = 0;
        }
    } while (is_missing && look_again(++looks));
}

// ---------------------------------------------------------------------------------------------------------------------
// Where a matrix product's results go

// What is done to sum + bias.
enum OutputKind {
    OUTPUT_STORE, // out = value
    OUTPUT_GELU,  // hidden = GELU(value)
    OUTPUT_ADD,   // out += value: the residual connection
    OUTPUT_QKV    // q goes to out, k and v to this layer's cache
};

// Sizes that the kernels around attention share. A head is padded with zeros to `head_stride` elements, a multiple of
// HEAD_ALIGN, so that it is made of whole packs in every format.
struct Heads {
    int C, NH, hs, head_stride, maxT;
    int T;     // tokens of this chunk per sequence; row m is token m % T of sequence m / T
    int first; // in the attention of a long run: tokens of the chunk that come before these T and have no query
};

struct Output {
    int kind;
    int stride;        // floats from one row of out to the next
    float* out;        // (rows, stride); OUTPUT_QKV: (rows, NH, head_stride)
    Activation hidden; // OUTPUT_GELU: (rows, stride), in place of out
    void* keys;        // OUTPUT_QKV: this layer's caches (max_batch, NH, maxT, head_stride)
    void* values;
    const int* step; // OUTPUT_QKV: [position, slots (max_batch)]
    Heads heads;     // OUTPUT_QKV
};

// Where the cache of one head of one sequence begins, in elements.
__device__ static __forceinline__ size_t cache_offset(Heads heads, int slot, int head) {
    return ((size_t)slot * (size_t)heads.NH + (size_t)head) * (size_t)heads.maxT * (size_t)heads.head_stride;
}

// Where one row of a matrix product goes: element 0 of its row of `out`, and for OUTPUT_QKV of its token in the cache.
struct RowPlace {
    size_t out, cache;
};

__device__ static __forceinline__ RowPlace row_place(const Output& output, int row) {
    const Heads& heads = output.heads;
    RowPlace place = {(size_t)row * (size_t)output.stride, 0};
    if (output.kind != OUTPUT_QKV) return place;
    int slot = output.step[1 + row / heads.T], position = output.step[0] + row % heads.T;
    place.out = (size_t)row * (size_t)(heads.NH * heads.head_stride);
    place.cache = cache_offset(heads, slot, 0) + (size_t)position * (size_t)heads.head_stride;
    return place;
}

// Where one column goes from there. OUTPUT_QKV: part 0 is q, 1 k, 2 v.
struct ColumnPlace {
    int part;
    size_t at;
};

__device__ static __forceinline__ ColumnPlace column_place(const Output& output, int column) {
    const Heads& heads = output.heads;
    ColumnPlace place = {0, (size_t)column};
    if (output.kind != OUTPUT_QKV) return place;
    int head = column % heads.C / heads.hs, channel = column % heads.C % heads.hs;
    place.part = column / heads.C;
    place.at = (place.part == 0 ? (size_t)(head * heads.head_stride) : cache_offset(heads, 0, head)) + (size_t)channel;
    return place;
}

// Puts away one sum + bias. CACHE is the format of the KV cache.
template <int CACHE>
__device__ static __forceinline__ void put_at(const Output& output, RowPlace row, ColumnPlace column, float value) {
    if (column.part > 0) {
        void* cache = column.part == 1 ? output.keys : output.values;
        if (CACHE == DTYPE_F32) ((float*)cache)[row.cache + column.at] = value;
        else ((uint16_t*)cache)[row.cache + column.at] = float_to_half(value);
    } else if (output.kind == OUTPUT_GELU) {
        activation_put(output.hidden, row.out + column.at, gelu(value));
    } else {
        float* out = output.out + row.out + column.at;
        *out = output.kind == OUTPUT_ADD ? *out + value : value;
    }
}

// The same by the numbers of row and column.
template <int CACHE>
__device__ static __forceinline__ void put(const Output& output, int row, int column, float value) {
    put_at<CACHE>(output, row_place(output, row), column_place(output, column), value);
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels

// Tells that code for this card is there and runs: answer[0] = lanes of a wave, answer[1] = lanes that a matrix
// instruction takes, 0 where there is none.
extern "C" __global__ void __launch_bounds__(THREADS) probe(int* answer) {
    if (threadIdx.x == 0) answer[0] = warpSize, answer[1] = NativeShape::IS_THERE ? NativeShape::LANES : 0;
}

// Two neighbouring elements of a row of a matrix, times its scale.
template <int DTYPE>
__device__ static __forceinline__ float2 matrix_pair(Matrix matrix, size_t row, int e, int stride) {
    size_t at = row * (size_t)stride + (size_t)e;
    if (DTYPE == DTYPE_F32) return *(const float2*)((const float*)matrix.data + at);
    if (DTYPE == DTYPE_Q8) {
        float scale = half_to_float(matrix.scales[at / Q8_BLOCK]);
        const signed char* q = (const signed char*)matrix.data + at;
        return make_float2((float)q[0] * scale, (float)q[1] * scale);
    }
    unsigned raw = *(const unsigned*)((const uint16_t*)matrix.data + at);
    if (DTYPE == DTYPE_F16) return make_float2(half_to_float(raw & 0xffff), half_to_float(raw >> 16));
    return make_float2(float_of_bits(raw << 16), float_of_bits(raw & 0xffff0000));
}

// Two channels of wte[token] + wpe[position]: what a token means plus where it stands.
template <int DTYPE>
__device__ static __forceinline__ float2 embedded_pair(Matrix wte, Matrix wpe, int token, int position, int e,
                                                       int stride) {
    float2 a = matrix_pair<DTYPE>(wte, (size_t)token, e, stride),
           b = matrix_pair<DTYPE>(wpe, (size_t)position, e, stride);
    return make_float2(a.x + b.x, a.y + b.y);
}
// x (rows, stride) = wte[token] + wpe[position]. One block per row.
template <int DTYPE>
__global__ void __launch_bounds__(THREADS)
    embed(float* x, Matrix wte, Matrix wpe, const int* step, const int* tokens, int T, int stride) {
    int row = (int)blockIdx.x, position = step[0] + row % T;
    for (int e = 2 * (int)threadIdx.x; e < stride; e += 2 * THREADS) {
        *(float2*)(x + (size_t)row * (size_t)stride + e) =
            embedded_pair<DTYPE>(wte, wpe, tokens[row], position, e, stride);
    }
}

// out (rows, stride) = (x - mean) / sqrt(variance + 1e-5) * weight + bias over the C channels of a row: LayerNorm, Ba
// et al. 2016. One block per row. Row r is made from row r / count * pitch + first + r % count of `in`: `count` rows
// out of every `pitch`, starting at `first`.
extern "C" __global__ void __launch_bounds__(THREADS)
    layernorm(Activation out, const float* in, const float* weight, const float* bias, int C, int stride, int count,
              int pitch, int first) {
    __shared__ float partial[GROUPS];
    int row = (int)blockIdx.x, source = row / count * pitch + first + row % count;
    const float* x = in + (size_t)source * (size_t)stride;
    float sum = 0, squares = 0;
    for (int c = (int)threadIdx.x; c < C; c += THREADS) sum += x[c];
    float mean = block_sum(sum, partial) / (float)C;
    for (int c = (int)threadIdx.x; c < C; c += THREADS) squares += (x[c] - mean) * (x[c] - mean);
    float scale = 1.0f / sqrtf(block_sum(squares, partial) / (float)C + 1e-5f);
    for (int c = (int)threadIdx.x; c < C; c += THREADS) {
        activation_put(out, (size_t)row * (size_t)stride + (size_t)c, (x[c] - mean) * scale * weight[c] + bias[c]);
    }
}

// What one thread of prefill_matmul brings into a tile: 16-byte packs of both factors, on their way in registers.
template <int DTYPE> struct TilePacks {
    enum {
        PACK = Format<DTYPE>::PACK,
        IN_LOADS = TILE * TILE_K / 4 / THREADS,
        WEIGHT_PACKS = TILE * TILE_K / PACK,
        WEIGHT_LOADS = (WEIGHT_PACKS + THREADS - 1) / THREADS
    };
    float4 in[IN_LOADS];
    uint4 weight[WEIGHT_LOADS];
    float scale[WEIGHT_LOADS];

    // Starts the loads of columns start to start + TILE_K. Rows past the last repeat it.
    __device__ __forceinline__ void load(const float* from, Matrix matrix, int first_row, int rows, int first_column,
                                         int OC, int stride, int start) {
#pragma unroll
        for (int i = 0; i < IN_LOADS; i++) {
            int number = (int)threadIdx.x + i * THREADS, row = number / (TILE_K / 4), k = number % (TILE_K / 4) * 4;
            in[i] = *(const float4*)(from + (size_t)min(first_row + row, rows - 1) * (size_t)stride + start + k);
        }
#pragma unroll
        for (int i = 0; i < WEIGHT_LOADS; i++) {
            int number = min((int)threadIdx.x + i * THREADS, WEIGHT_PACKS - 1), row = number / (TILE_K / PACK);
            int pack = start / PACK + number % (TILE_K / PACK);
            size_t weight_row = (size_t)min(first_column + row, OC - 1);
            weight[i] = ((const uint4*)matrix.data)[weight_row * (size_t)(stride / PACK) + (size_t)pack];
            scale[i] = pack_scale<DTYPE>(matrix, weight_row, pack, stride);
        }
    }

    // Widens them into shared memory, transposed.
    __device__ __forceinline__ void store(float (*in_tile)[TILE_STRIDE], float (*weight_tile)[TILE_STRIDE]) const {
#pragma unroll
        for (int i = 0; i < IN_LOADS; i++) {
            int number = (int)threadIdx.x + i * THREADS, row = number / (TILE_K / 4), k = number % (TILE_K / 4) * 4;
            in_tile[k][row] = in[i].x, in_tile[k + 1][row] = in[i].y;
            in_tile[k + 2][row] = in[i].z, in_tile[k + 3][row] = in[i].w;
        }
#pragma unroll
        for (int i = 0; i < WEIGHT_LOADS; i++) {
            int number = (int)threadIdx.x + i * THREADS;
            int row = number / (TILE_K / PACK), k = number % (TILE_K / PACK) * PACK;
            if (number >= WEIGHT_PACKS) break;
            float values[PACK];
            Format<DTYPE>::unpack(values, weight[i]);
#pragma unroll
            for (int j = 0; j < PACK; j++) weight_tile[k + j][row] = values[j] * scale[i];
        }
    }
};

// output (rows, OC) = in (rows, stride) · weight (OC, stride)ᵀ + bias (OC, or NULL) for many rows, in tiles of TILE x
// TILE outputs. TILE_K columns of both factors at a time lie in shared memory, while the next ones are on their way to
// registers; each thread sums 4 x 4 outputs, in the order of the columns.
template <int DTYPE>
__global__ void __launch_bounds__(THREADS)
    prefill_matmul(Output output, const float* in, Matrix weight, const float* bias, int rows, int stride, int OC) {
    __shared__ __attribute__((aligned(16))) float in_tile[TILE_K][TILE_STRIDE], weight_tile[TILE_K][TILE_STRIDE];
    int first_row = (int)blockIdx.x * TILE, first_column = (int)blockIdx.y * TILE;
    int my_row = (int)threadIdx.x / 16 * 4, my_column = (int)threadIdx.x % 16 * 4;
    float sum[4][4];
    for (int i = 0; i < 16; i++) sum[i / 4][i % 4] = 0;
    TilePacks<DTYPE> packs;
    packs.load(in, weight, first_row, rows, first_column, OC, stride, 0);

    for (int start = 0; start < stride; start += TILE_K) {
        __syncthreads(); // the tiles of the round before were read by everyone
        packs.store(in_tile, weight_tile);
        __syncthreads();
        if (start + TILE_K < stride) packs.load(in, weight, first_row, rows, first_column, OC, stride, start + TILE_K);
#pragma unroll 4
        for (int k = 0; k < TILE_K; k++) {
            float4 a4 = *(const float4*)&in_tile[k][my_row], w4 = *(const float4*)&weight_tile[k][my_column];
            const float a[4] = {a4.x, a4.y, a4.z, a4.w}, w[4] = {w4.x, w4.y, w4.z, w4.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a[i], w[j], sum[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = first_row + my_row + i, column = first_column + my_column + j;
            if (row >= rows || column >= OC) continue;
            put<cache_format(DTYPE)>(output, row, column, bias == NULL ? sum[i][j] : sum[i][j] + bias[column]);
        }
    }
}

// The tiles of matrix_matmul: SIZE x SIZE outputs for a block, DEPTH columns of both factors in shared memory at a
// time. The waves share the outputs as DOWN x ACROSS rectangles. Whatever the tile, each output is summed in the same
// order.
template <class Shape, int SIZE> struct Tiling {
    enum {
        DOWN = 2,
        ACROSS = SIZE == 128 ? 4 : 2,
        THREADS_OF_BLOCK = DOWN * ACROSS * Shape::LANES,
        ROWS = SIZE / DOWN / FRAGMENT, // fragments of one wave
        COLUMNS = SIZE / ACROSS / FRAGMENT,
        DEPTH = SIZE == 128 ? 32 : 64,
        CHUNKS = DEPTH / CHUNK // packs of one row of a tile
    };
};

// Where a pack lies in a tile in shared memory. Rows follow each other without a gap; the order of the packs in a row
// changes from row to row, so that the 8 lanes that a chip serves at a time find theirs in 8 different places of 128
// bytes, be it the same chunk of 8 rows or 4 chunks of 2 rows.
template <int CHUNKS> __device__ static __forceinline__ int pack_place(int row, int chunk) {
    return row * CHUNKS + (chunk ^ (((row & 1) << 2 | (row >> 1 & 3)) & (CHUNKS - 1)));
}

// Copies a pack from global to shared memory without a register in between, or zeros; it is there after copies_await.
// The harness copies at once.
__device__ static __forceinline__ void copy_async(uint4* to, const uint4* from, bool is_inside) {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(is_inside ? 16 : 0)
                 : "memory");
#else
    *to = is_inside ? *from : make_uint4(0, 0, 0, 0);
#endif
}

// Ends a group of copies.
__device__ static __forceinline__ void copies_end_group() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all groups but the last one are there.
__device__ static __forceinline__ void copies_await() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
}

__device__ static __forceinline__ uint4 floats_to_halves(float4 a, float4 b) {
    const float in[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    unsigned pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned low = rounded_activation(DTYPE_F16, in[2 * i]), high = rounded_activation(DTYPE_F16, in[2 * i + 1]);
        pairs[i] = low | high << 16;
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Eight int8 as f16, which holds them exactly.
__device__ static __forceinline__ uint4 bytes_to_halves(unsigned low, unsigned high) {
    unsigned pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned quad = (i < 2 ? low : high) >> (i % 2 * 16);
        pairs[i] = (unsigned)float_to_half((float)(int8_t)quad) | (unsigned)float_to_half((float)(int8_t)(quad >> 8))
                                                                      << 16;
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Keeps AMD's compiler from moving what follows, which waits for loads, before the products that are to hide them.
__device__ static __forceinline__ void products_first() {
#ifdef __AMDGCN__
    __builtin_amdgcn_sched_barrier(0);
#endif
}

// How a block of matrix_matmul brings its tiles into shared memory: rows first_row... of the activations and rows
// first_column... of the weights (what is past the last repeats it), zeros past the end of the rows. Where the chip can
// copy to shared memory by itself (ASYNC), AHEAD tiles are on their way, else the next one waits in registers.
template <class Shape, int DTYPE, int SIZE> struct TileStream {
    typedef Tiling<Shape, SIZE> Tile;
    enum {
        IS_Q8 = DTYPE == DTYPE_Q8,
        ASYNC = Shape::HAS_ASYNC_COPIES && !IS_Q8, // bytes have to be widened on the way
        AHEAD = ASYNC ? 2 : 1,
        STAGES = AHEAD + 1,
        THREADS_OF_BLOCK = Tile::THREADS_OF_BLOCK,
        CHUNKS = Tile::CHUNKS,
        WIDE_ROWS = IS_Q8 ? SIZE : 2 * SIZE, // that lie in memory with 16 bits
        WIDE_PACKS = WIDE_ROWS * CHUNKS / THREADS_OF_BLOCK,
        BYTE_CHUNKS = CHUNKS / 2,        // Q8: packs in a row
        BYTE_PACKS = SIZE * BYTE_CHUNKS, // at most one for each thread
        SCALES = Tile::DEPTH / Q8_BLOCK,
        STEPS_AT_ONCE =
            IS_Q8 ? 1 : Tile::DEPTH / STEP // that the compiler may mix; Q8's would not fit into the registers
    };
    struct Stage {
        uint4 packs[2 * SIZE * CHUNKS +
                    (IS_Q8 ? SCALES * SIZE / 4 : 0)]; // activations, weights, their scales (SCALES, SIZE)
        __device__ __forceinline__ float* scales() { return (float*)(void*)(packs + 2 * SIZE * CHUNKS); }
    };
    const uint16_t* in;
    Matrix weight;
    int first_row, rows, first_column, OC, stride;
    uint4 wide[WIDE_PACKS], bytes[IS_Q8 ? (BYTE_PACKS + THREADS_OF_BLOCK - 1) / THREADS_OF_BLOCK : 1];
    uint16_t scale;

    // Starts the loads of columns start to start + DEPTH.
    __device__ __forceinline__ void fetch(Stage* stage, int start) {
#pragma unroll
        for (int i = 0; i < WIDE_PACKS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK, row = number / CHUNKS, chunk = number % CHUNKS;
            bool is_inside = start + chunk * CHUNK < stride;
            const uint16_t* from = row < SIZE ? in + (size_t)min(first_row + row, rows - 1) * (size_t)stride
                                              : (const uint16_t*)weight.data +
                                                    (size_t)min(first_column + row - SIZE, OC - 1) * (size_t)stride;
            const uint4* pack = (const uint4*)(from + (is_inside ? start + chunk * CHUNK : 0));
            if (ASYNC) copy_async(&stage->packs[pack_place<CHUNKS>(row, chunk)], pack, is_inside);
            else wide[i] = *pack; // to be looked at when it lands: not before the products are under way
        }
        if (IS_Q8) fetch_bytes(start);
    }

    __device__ __forceinline__ void fetch_bytes(int start) {
#pragma unroll
        for (int i = 0; i * THREADS_OF_BLOCK < BYTE_PACKS; i++) {
            int number = min((int)threadIdx.x + i * THREADS_OF_BLOCK, BYTE_PACKS - 1), row = number / BYTE_CHUNKS;
            int at = start + number % BYTE_CHUNKS * 16;
            const char* from = (const char*)weight.data + (size_t)min(first_column + row, OC - 1) * (size_t)stride;
            bytes[i] = *(const uint4*)(from + (at < stride ? at : 0));
        }
        int blocks = stride / Q8_BLOCK, row = min(first_column + (int)threadIdx.x % SIZE, OC - 1);
        scale = weight.scales[(size_t)row * (size_t)blocks +
                              (size_t)min(start / Q8_BLOCK + (int)threadIdx.x / SIZE, blocks - 1)];
    }

    // Puts what fetch brought into registers where it belongs, zeros past the end of the rows.
    __device__ __forceinline__ void land(Stage* stage, int start) const {
        if (!ASYNC) {
#pragma unroll
            for (int i = 0; i < WIDE_PACKS; i++) {
                int number = (int)threadIdx.x + i * THREADS_OF_BLOCK, chunk = number % CHUNKS;
                bool is_inside = start + chunk * CHUNK < stride;
                stage->packs[pack_place<CHUNKS>(number / CHUNKS, chunk)] = is_inside ? wide[i] : make_uint4(0, 0, 0, 0);
            }
        }
        if (IS_Q8) land_bytes(stage, start);
    }

    __device__ __forceinline__ void land_bytes(Stage* stage, int start) const {
#pragma unroll
        for (int i = 0; i * THREADS_OF_BLOCK < BYTE_PACKS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK;
            int row = SIZE + number / BYTE_CHUNKS, chunk = number % BYTE_CHUNKS * 2;
            if (number >= BYTE_PACKS) break;
            uint4 pack = start + chunk * CHUNK < stride ? bytes[i] : make_uint4(0, 0, 0, 0);
            stage->packs[pack_place<CHUNKS>(row, chunk)] = bytes_to_halves(pack.x, pack.y);
            stage->packs[pack_place<CHUNKS>(row, chunk + 1)] = bytes_to_halves(pack.z, pack.w);
        }
        if ((int)threadIdx.x < SIZE * SCALES) stage->scales()[threadIdx.x] = half_to_float(scale);
    }
};

// A lane's packs of the fragment that begins at row `first_row` of a tile, at step `step`.
template <class Shape, int CHUNKS>
__device__ static __forceinline__ void load_fragment(uint4* packs, const uint4* tile, int lane, int first_row,
                                                     int step) {
#pragma unroll
    for (int p = 0; p < Shape::PACKS; p++) {
        packs[p] =
            tile[pack_place<CHUNKS>(first_row + Shape::row(lane, p), step * STEP_CHUNKS + Shape::chunk(lane, p))];
    }
}

// Adds the product of one Q8 block: its sums, multiplied by the scale of their column.
template <class Shape>
__device__ static __forceinline__ void multiply_block(typename Shape::Sums* sums, const uint4* a, const uint4* b,
                                                      const float* scales, int lane) {
    typename Shape::Sums block;
#pragma unroll
    for (int i = 0; i < Shape::SUMS; i++) block[i] = 0;
    Shape::template multiply<true>(&block, a, b);
#pragma unroll
    for (int i = 0; i < Shape::SUMS; i++) (*sums)[i] = fmaf(scales[Shape::sum_column(lane, i)], block[i], (*sums)[i]);
}

// Where a wave of a tile works, in rows and columns of the tile.
struct WavePlace {
    int lane, wave, row, column;
};

template <class Tile, class Shape> __device__ static __forceinline__ WavePlace wave_place() {
    WavePlace p;
    p.lane = (int)threadIdx.x % Shape::LANES, p.wave = (int)threadIdx.x / Shape::LANES;
    p.row = p.wave / Tile::ACROSS * Tile::ROWS * FRAGMENT, p.column = p.wave % Tile::ACROSS * Tile::COLUMNS * FRAGMENT;
    return p;
}

// Adds step `step` of a stage to a wave's sums.
template <class Shape, int DTYPE, int SIZE, class Sums, class Stage>
__device__ static __forceinline__ void multiply_step(Sums& sums, Stage* stage, WavePlace place, int step) {
    typedef Tiling<Shape, SIZE> Tile;
    uint4 b[Tile::COLUMNS][Shape::PACKS];
#pragma unroll
    for (int n = 0; n < Tile::COLUMNS; n++) {
        load_fragment<Shape, Tile::CHUNKS>(b[n], stage->packs, place.lane, SIZE + place.column + n * FRAGMENT, step);
    }
#pragma unroll
    for (int m = 0; m < Tile::ROWS; m++) {
        uint4 a[Shape::PACKS];
        load_fragment<Shape, Tile::CHUNKS>(a, stage->packs, place.lane, place.row + m * FRAGMENT, step);
#pragma unroll
        for (int n = 0; n < Tile::COLUMNS; n++) {
            const float* scales = stage->scales() + step * SIZE + place.column + n * FRAGMENT;
            if (DTYPE == DTYPE_Q8) multiply_block<Shape>(&sums[m][n], a, b[n], scales, place.lane);
            else Shape::template multiply<DTYPE == DTYPE_F16>(&sums[m][n], a, b[n]);
        }
    }
}

// Puts a block's sums away, through shared memory, 16 rows of each wave at a time, so that neighbouring threads write
// neighbouring columns, each thread always the same one: where rows and columns go takes divisions, which are made once.
template <class Shape, int DTYPE, int SIZE, class Sums>
__device__ static __forceinline__ void put_tile(const Output& output, const Sums& sums, void* shared, const float* bias,
                                                WavePlace place, int rows, int OC) {
    typedef Tiling<Shape, SIZE> Tile;
    enum { SLAB_ROWS = Tile::DOWN * FRAGMENT, SLAB_STRIDE = SIZE + 4, ROWS_AT_ONCE = Tile::THREADS_OF_BLOCK / SIZE };
    float* slab = (float*)shared;                                              // (SLAB_ROWS, SLAB_STRIDE)
    RowPlace* row_places = (RowPlace*)(void*)(slab + SLAB_ROWS * SLAB_STRIDE); // (SIZE)
    int first_row = (int)blockIdx.x * SIZE, column = (int)blockIdx.y * SIZE + (int)threadIdx.x % SIZE;
    ColumnPlace column_to = column_place(output, min(column, OC - 1));
    float column_bias = bias == NULL ? 0 : bias[min(column, OC - 1)];
    __syncthreads(); // the last tile was read by everyone
    if ((int)threadIdx.x < SIZE)
        row_places[threadIdx.x] = row_place(output, min(first_row + (int)threadIdx.x, rows - 1));
#pragma unroll
    for (int m = 0; m < Tile::ROWS; m++) {
#pragma unroll
        for (int i = 0; i < Tile::COLUMNS * Shape::SUMS; i++) {
            int n = i / Shape::SUMS, j = i % Shape::SUMS;
            int row = place.wave / Tile::ACROSS * FRAGMENT + Shape::sum_row(place.lane, j);
            slab[row * SLAB_STRIDE + place.column + n * FRAGMENT + Shape::sum_column(place.lane, j)] = sums[m][n][j];
        }
        __syncthreads();
        for (int r = (int)threadIdx.x / SIZE; r < SLAB_ROWS; r += ROWS_AT_ONCE) {
            int row = (r / FRAGMENT * Tile::ROWS + m) * FRAGMENT + r % FRAGMENT;
            if (first_row + row >= rows || column >= OC) break;
            put_at<cache_format(DTYPE)>(output, row_places[row], column_to,
                                        slab[r * SLAB_STRIDE + (int)threadIdx.x % SIZE] + column_bias);
        }
        __syncthreads(); // the slab was read by everyone
    }
}

// The product for many rows on a chip with matrix instructions: in (rows, stride) has been rounded to what they
// multiply, matrix_format(); products are exact and sums f32. Bytes of q8 are exact in f16, which rounds `in` 8 times
// finer than bf16 would; each block of 32 is summed by itself and its f32 sum multiplied by the scale. So nothing but
// the rounding of `in` is lost, whatever the weights.
template <class Shape, int DTYPE, int SIZE>
__global__ void __launch_bounds__((Tiling<Shape, SIZE>::THREADS_OF_BLOCK))
    matrix_matmul(Output output, const uint16_t* in, Matrix weight, const float* bias, int rows, int stride, int OC) {
    typedef Tiling<Shape, SIZE> Tile;
    typedef TileStream<Shape, DTYPE, SIZE> Stream;
    typedef typename Shape::Sums Sums;
    __shared__ typename Stream::Stage stages[Stream::STAGES];
    if (!Shape::IS_THERE) return; // never launched there
    WavePlace place = wave_place<Tile, Shape>();
    Stream stream;
    stream.in = in, stream.weight = weight, stream.rows = rows, stream.OC = OC, stream.stride = stride;
    stream.first_row = (int)blockIdx.x * SIZE, stream.first_column = (int)blockIdx.y * SIZE;
    Sums sums[Tile::ROWS][Tile::COLUMNS];
#pragma unroll
    for (int i = 0; i < Tile::ROWS * Tile::COLUMNS * Shape::SUMS; i++) {
        sums[i / Shape::SUMS / Tile::COLUMNS][i / Shape::SUMS % Tile::COLUMNS][i % Shape::SUMS] = 0;
    }
    int tiles = (stride + Tile::DEPTH - 1) / Tile::DEPTH;
    for (int t = 0; t < Stream::AHEAD; t++) {
        if (t == 0 || t < tiles) {
            stream.fetch(&stages[t], t * Tile::DEPTH);
            stream.land(&stages[t], t * Tile::DEPTH);
        }
        if (Stream::ASYNC) copies_end_group();
    }
    for (int t = 0; t < tiles; t++) {
        if (Stream::ASYNC) copies_await();
        __syncthreads(); // tile t is there, and the stage of tile t - 1, where the next one goes, was read by everyone
        typename Stream::Stage *stage = &stages[t % Stream::STAGES],
                               *next = &stages[(t + Stream::AHEAD) % Stream::STAGES];
        if (t + Stream::AHEAD < tiles) stream.fetch(next, (t + Stream::AHEAD) * Tile::DEPTH);
        if (Stream::ASYNC) copies_end_group();
#pragma unroll Stream::STEPS_AT_ONCE
        for (int step = 0; step < Tile::DEPTH / STEP; step++)
            multiply_step<Shape, DTYPE, SIZE>(sums, stage, place, step);
        products_first();
        stream.land(next, (t + Stream::AHEAD) * Tile::DEPTH); // behind the last tile nobody looks at it
    }
    put_tile<Shape, DTYPE, SIZE>(output, sums, stages, bias, place, rows, OC);
}

// The state of an online softmax (Milakov and Gimelshein 2018) in a group of lanes: the largest score so far, and the
// sums of exp(score - largest) and of that times v. When a larger score comes, what was summed shrinks accordingly.
struct OnlineSoftmax {
    float largest, total;
    float sum[SUMS]; // of channel slice + i * GROUP + lane
};

__device__ static __forceinline__ OnlineSoftmax softmax_begin() {
    OnlineSoftmax s;
    s.largest = -INFINITY, s.total = 0;
    for (int i = 0; i < SUMS; i++) s.sum[i] = 0;
    return s;
}

// Takes in one score per lane (-INFINITY: none). Returns this lane's exp(score - largest).
__device__ static __forceinline__ float softmax_scores(OnlineSoftmax* s, float score) {
    float largest = fmaxf(s->largest, group_max(score));
    if (largest == -INFINITY) return 0; // nothing yet
    float weight = expf(score - largest), shrink = expf(s->largest - largest);
    s->total = s->total * shrink + group_sum(weight);
    for (int i = 0; i < SUMS; i++) s->sum[i] *= shrink;
    s->largest = largest;
    return weight;
}

// The pack of a cache that begins at element `at`, widened to where 16-byte stores are possible.
template <int CACHE> __device__ static __forceinline__ void widen_pack(float* out, const void* cache, size_t at) {
    enum { PACK = Format<CACHE>::PACK };
    float values[PACK];
    Format<CACHE>::unpack(values, ((const uint4*)cache)[at / PACK]);
#pragma unroll
    for (int i = 0; i < PACK; i += 4) {
        *(float4*)(out + i) = make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    }
}

// What a block of prefill_attention works on: QUERIES queries of sequence b from first_query on, one head, channels from
// `slice` on.
struct QueryBlock {
    int b, first_query, head, slice;
    int position; // of the first of them
    int num_keys; // that any of them sees
    size_t cache; // the head's first element in the caches
};

__device__ static __forceinline__ QueryBlock query_block(Heads heads, const int* step) {
    QueryBlock q;
    int blocks = (heads.T + QUERIES - 1) / QUERIES; // per sequence
    q.b = (int)blockIdx.x / blocks, q.first_query = (int)blockIdx.x % blocks * QUERIES;
    q.head = (int)blockIdx.y, q.slice = (int)blockIdx.z * HEAD_SLICE;
    q.position = step[0] + heads.first + q.first_query;
    q.num_keys = step[0] + heads.first + min(q.first_query + (int)QUERIES, heads.T);
    q.cache = cache_offset(heads, step[1 + q.b], q.head);
    return q;
}

// tile (KEYS, ROW): `channels` channels, from element `from` of a position on, of KEYS positions of the cache.
template <int CACHE, int WIDTH, int ROW>
__device__ static __forceinline__ void bring_positions(float (*tile)[ROW], const void* cache, const QueryBlock& block,
                                                       Heads heads, int first, int from, int channels) {
    enum { PACK = Format<CACHE>::PACK };
    for (int i = (int)threadIdx.x; i < KEYS * (WIDTH / PACK); i += THREADS) {
        int row = i / (WIDTH / PACK), channel = i % (WIDTH / PACK) * PACK;
        if (channel >= channels) continue;
        size_t position = (size_t)min(first + row, block.num_keys - 1);
        size_t at = block.cache + position * (size_t)heads.head_stride;
        widen_pack<CACHE>(&tile[row][channel], cache, at + (size_t)(from + channel));
    }
}

// tile (QUERIES, SCORE_SLICE): the same of the block's queries.
__device__ static __forceinline__ void bring_queries(float (*tile)[SCORE_SLICE], const float* q,
                                                     const QueryBlock& block, Heads heads, int from, int quads) {
    for (int i = (int)threadIdx.x; i < QUERIES * (SCORE_SLICE / 4); i += THREADS) {
        int row = i / (SCORE_SLICE / 4), quad = i % (SCORE_SLICE / 4);
        if (quad >= quads) continue;
        size_t row_of_q = (size_t)(block.b * heads.T + min(block.first_query + row, heads.T - 1));
        size_t query = row_of_q * (size_t)heads.NH + (size_t)block.head;
        *(float4*)&tile[row][quad * 4] = *(const float4*)(q + query * (size_t)heads.head_stride + from + quad * 4);
    }
}

// out (rows, stride): causal attention, softmax(q · kᵀ / sqrt(hs)) · v over the keys up to the query's own position,
// for many queries. One block per QUERIES queries of a sequence, head and slice of channels. The block walks over the
// keys in tiles of KEYS that it holds in shared memory for all its queries; scores exist only for one tile, in
// registers. Tiles lie at multiples of KEYS from position 0, and a tile beyond a query's own position changes nothing,
// so where a chunk or a block begins does not show.
template <int CACHE>
__global__ void __launch_bounds__(THREADS)
    prefill_attention(Activation out, const float* q, const void* keys, const void* values, const int* step,
                      Heads heads, int stride, float score_scale) {
    // a stride of 4 floats more than a power of two, so that lanes read their keys' 16 bytes from different banks
    __shared__ __attribute__((aligned(16))) float key_tile[KEYS][SCORE_SLICE + 4];
    __shared__ __attribute__((aligned(16))) float query_tile[QUERIES][SCORE_SLICE];
    __shared__ __attribute__((aligned(16))) float value_tile[KEYS][HEAD_SLICE];
    const QueryBlock block = query_block(heads, step);
    int lane = (int)threadIdx.x % GROUP, my_queries = (int)threadIdx.x / GROUP * QUERIES_PER_GROUP;
    OnlineSoftmax softmax[QUERIES_PER_GROUP];
#pragma unroll
    for (int i = 0; i < QUERIES_PER_GROUP; i++) softmax[i] = softmax_begin();

    for (int tile = 0; tile < block.num_keys; tile += KEYS) {
        float score[QUERIES_PER_GROUP] = {0};
        for (int from = 0; from < heads.head_stride; from += SCORE_SLICE) {
            int quads = min((int)SCORE_SLICE, heads.head_stride - from) / 4;
            __syncthreads(); // the tiles were read by everyone
            bring_positions<CACHE, SCORE_SLICE>(key_tile, keys, block, heads, tile, from, quads * 4);
            bring_queries(query_tile, q, block, heads, from, quads);
            __syncthreads();
            for (int i = 0; i < quads; i++) {
                float4 k = *(const float4*)&key_tile[lane][i * 4];
#pragma unroll
                for (int j = 0; j < QUERIES_PER_GROUP; j++) {
                    float4 a = *(const float4*)&query_tile[my_queries + j][i * 4];
                    score[j] = fmaf(a.x, k.x, fmaf(a.y, k.y, fmaf(a.z, k.z, fmaf(a.w, k.w, score[j]))));
                }
            }
        }
        bring_positions<CACHE, HEAD_SLICE>(value_tile, values, block, heads, tile, block.slice,
                                           heads.head_stride - block.slice);
        __syncthreads();
        float weight[QUERIES_PER_GROUP];
#pragma unroll
        for (int j = 0; j < QUERIES_PER_GROUP; j++) {
            bool is_seen = tile + lane <= block.position + my_queries + j && tile + lane < block.num_keys;
            weight[j] = softmax_scores(&softmax[j], is_seen ? score[j] * score_scale : -INFINITY);
        }
        for (int k = 0; k < KEYS; k++) {
            float key_weight[QUERIES_PER_GROUP];
#pragma unroll
            for (int j = 0; j < QUERIES_PER_GROUP; j++) key_weight[j] = __shfl(weight[j], k, GROUP);
#pragma unroll
            for (int i = 0; i < SUMS; i++) {
                if (block.slice + i * GROUP + lane >= heads.head_stride) break;
                float value = value_tile[k][i * GROUP + lane];
#pragma unroll
                for (int j = 0; j < QUERIES_PER_GROUP; j++) {
                    softmax[j].sum[i] = fmaf(key_weight[j], value, softmax[j].sum[i]);
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < QUERIES_PER_GROUP; j++) {
        int query = block.first_query + my_queries + j;
        if (query >= heads.T) continue;
        size_t out_row = (size_t)(block.b * heads.T + query) * (size_t)stride + (size_t)(block.head * heads.hs);
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            int channel = block.slice + i * GROUP + lane;
            if (channel < heads.hs)
                activation_put(out, out_row + (size_t)channel, softmax[j].sum[i] / softmax[j].total);
        }
    }
}

// How a block of matrix_attention brings keys and values of one head into shared memory, KEY_TILE positions at a time:
// the keys as they are, with zeros past the head's end, the values transposed, for the product sums over positions
// (there what is past the head's end gives sums that nobody looks at). What is past the last position repeats it.
template <class Shape, int HEAD> struct CacheStream {
    enum {
        THREADS_OF_BLOCK = ATTENTION_WAVES * Shape::LANES,
        KEY_TILE = HEAD <= 64 ? 64 : 32, // by the registers and the shared memory that there are
        CHUNKS = HEAD / CHUNK,
        KEY_PACKS = KEY_TILE * CHUNKS / THREADS_OF_BLOCK,
        VALUE_PAIRS = KEY_TILE / 2 * CHUNKS / THREADS_OF_BLOCK
    };
    const uint4 *keys, *values; // of this head
    int num_keys, packs;        // packs: of one position
    uint4 key[KEY_PACKS], value[VALUE_PAIRS][2];

    __device__ __forceinline__ uint4 load(const uint4* cache, int position, int chunk) const {
        return cache[(size_t)min(position, num_keys - 1) * (size_t)packs + (size_t)min(chunk, packs - 1)];
    }

    __device__ __forceinline__ void fetch(int tile) {
#pragma unroll
        for (int i = 0; i < KEY_PACKS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK;
            key[i] = load(keys, tile + number / CHUNKS, number % CHUNKS);
        }
#pragma unroll
        for (int i = 0; i < VALUE_PAIRS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK, position = tile + number % (KEY_TILE / 2) * 2;
            value[i][0] = load(values, position, number / (KEY_TILE / 2));
            value[i][1] = load(values, position + 1, number / (KEY_TILE / 2));
        }
    }

    // key_tile (KEY_TILE, HEAD), value_tile (HEAD, KEY_TILE), both f16.
    __device__ __forceinline__ void land(uint4* key_tile, uint4* value_tile) const {
#pragma unroll
        for (int i = 0; i < KEY_PACKS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK;
            key_tile[pack_place<CHUNKS>(number / CHUNKS, number % CHUNKS)] =
                number % CHUNKS < packs ? key[i] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < VALUE_PAIRS; i++) {
            int number = (int)threadIdx.x + i * THREADS_OF_BLOCK, position = number % (KEY_TILE / 2) * 2;
            int channel = number / (KEY_TILE / 2) * CHUNK;
            const unsigned first[4] = {value[i][0].x, value[i][0].y, value[i][0].z, value[i][0].w};
            const unsigned second[4] = {value[i][1].x, value[i][1].y, value[i][1].z, value[i][1].w};
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                unsigned low = first[j / 2] >> (j % 2 * 16) & 0xffff, high = second[j / 2] >> (j % 2 * 16) << 16;
                unsigned* row =
                    (unsigned*)(void*)&value_tile[pack_place<KEY_TILE / CHUNK>(channel + j, position / CHUNK)];
                row[position % CHUNK / 2] = low | high;
            }
        }
    }
};

// The largest, or the sum, of what the lanes bring that have sums of the same columns.
template <class Shape, bool IS_SUM> __device__ static __forceinline__ float column_reduce(float value) {
#pragma unroll
    for (int distance = Shape::COLUMN_LANES; distance < Shape::LANES; distance *= 2) {
        float other = __shfl_xor(value, distance, Shape::LANES);
        value = IS_SUM ? value + other : fmaxf(value, other);
    }
    return value;
}

// The same number. What made it is not fused with what rounds it, as clang 19 does (v_fma_mixlo_f16).
__device__ static __forceinline__ float apart(float number) {
#if defined(__AMDGCN__)
    asm("" : "+v"(number));
#endif
    return number;
}

// What matrix_attention is made of. Everything is computed transposed: scores (keys, queries) = k · qᵀ, out (channels,
// queries) = vᵀ · weightsᵀ, so that what belongs to one query lies in few lanes.
template <class Shape, int HEAD> struct MatrixAttention {
    typedef CacheStream<Shape, HEAD> Stream;
    typedef typename Shape::Sums Sums;
    enum {
        KEY_TILE = Stream::KEY_TILE,
        CHUNKS = HEAD / CHUNK,
        KEY_CHUNKS = KEY_TILE / CHUNK,
        KEY_FRAGMENTS = KEY_TILE / FRAGMENT,
        CHANNEL_FRAGMENTS = HEAD / FRAGMENT,
        BLOCK_QUERIES = ATTENTION_WAVES * FRAGMENT,
        // of the softmax: small ones are then no subnormal halves, which gfx90a takes for 0; the total has it too
        WEIGHT_SCALE = 1 << 15
    };
    int lane, wave;
    Sums sums[CHANNEL_FRAGMENTS];
    float largest[Shape::COLUMNS], total[Shape::COLUMNS]; // of the online softmax, Milakov and Gimelshein 2018

    __device__ __forceinline__ void begin() {
        lane = (int)threadIdx.x % Shape::LANES, wave = (int)threadIdx.x / Shape::LANES;
#pragma unroll
        for (int i = 0; i < CHANNEL_FRAGMENTS * Shape::SUMS; i++) sums[i / Shape::SUMS][i % Shape::SUMS] = 0;
#pragma unroll
        for (int c = 0; c < Shape::COLUMNS; c++) largest[c] = -INFINITY, total[c] = 0;
    }

    // query_tile (BLOCK_QUERIES, HEAD): rows of q, from element `at` and so many floats apart, rounded to f16.
    __device__ static __forceinline__ void bring_queries(uint4* query_tile, const float* q, size_t at, size_t apart,
                                                         int num_queries, int packs) {
        for (int i = (int)threadIdx.x; i < BLOCK_QUERIES * CHUNKS; i += Stream::THREADS_OF_BLOCK) {
            int row = min(i / CHUNKS, num_queries - 1), chunk = i % CHUNKS;
            const float4* from = (const float4*)(q + at + (size_t)row * apart) + min(chunk, packs - 1) * 2;
            uint4 pack = floats_to_halves(from[0], from[1]);
            query_tile[pack_place<CHUNKS>(i / CHUNKS, chunk)] = chunk < packs ? pack : make_uint4(0, 0, 0, 0);
        }
    }

    // score (KEY_TILE, the wave's queries) = a tile's keys · qᵀ
    __device__ __forceinline__ void multiply_keys(Sums* score, const uint4* key_tile, const uint4* query_tile) const {
#pragma unroll
        for (int i = 0; i < KEY_FRAGMENTS * Shape::SUMS; i++) score[i / Shape::SUMS][i % Shape::SUMS] = 0;
#pragma unroll 1
        for (int s = 0; s < HEAD / STEP; s++) {
            uint4 query[Shape::PACKS];
            load_fragment<Shape, CHUNKS>(query, query_tile, lane, wave * FRAGMENT, s);
#pragma unroll
            for (int f = 0; f < KEY_FRAGMENTS; f++) {
                uint4 a[Shape::PACKS];
                load_fragment<Shape, CHUNKS>(a, key_tile, lane, f * FRAGMENT, s);
                Shape::template multiply<true>(&score[f], a, query);
            }
        }
    }

    // weights (the wave's queries, KEY_TILE) from the scores of the keys from position `tile` on, of which a query sees
    // those up to its own position, `position` + its number in the wave. When a larger score comes, what was summed
    // shrinks.
    __device__ __forceinline__ void weigh(uint16_t* weights, Sums* score, int tile, int position, float score_scale) {
        float best[Shape::COLUMNS], part[Shape::COLUMNS];
#pragma unroll
        for (int c = 0; c < Shape::COLUMNS; c++) best[c] = -INFINITY, part[c] = 0;
#pragma unroll
        for (int i = 0; i < KEY_FRAGMENTS * Shape::SUMS; i++) {
            int f = i / Shape::SUMS, j = i % Shape::SUMS, c = Shape::column_slot(j);
            bool is_seen = tile + f * FRAGMENT + Shape::sum_row(lane, j) <= position + Shape::sum_column(lane, j);
            score[f][j] = is_seen ? score[f][j] * score_scale : -INFINITY;
            best[c] = fmaxf(best[c], score[f][j]);
        }
#pragma unroll
        for (int c = 0; c < Shape::COLUMNS; c++) {
            float before = largest[c];
            largest[c] = fmaxf(before, column_reduce<Shape, false>(best[c]));
            best[c] = expf(before - largest[c]); // from here on: what the sums shrink by
        }
#pragma unroll
        for (int i = 0; i < KEY_FRAGMENTS * Shape::SUMS; i++) {
            int f = i / Shape::SUMS, j = i % Shape::SUMS, c = Shape::column_slot(j);
            int key = f * FRAGMENT + Shape::sum_row(lane, j);
            float weight = apart(expf(score[f][j] - largest[c]) * WEIGHT_SCALE);
            part[c] += weight;
            weights[pack_place<KEY_CHUNKS>(Shape::sum_column(lane, j), key / CHUNK) * CHUNK + key % CHUNK] =
                float_to_half(weight);
        }
#pragma unroll
        for (int c = 0; c < Shape::COLUMNS; c++) total[c] = total[c] * best[c] + column_reduce<Shape, true>(part[c]);
#pragma unroll
        for (int i = 0; i < CHANNEL_FRAGMENTS * Shape::SUMS; i++)
            sums[i / Shape::SUMS][i % Shape::SUMS] *= best[Shape::column_slot(i % Shape::SUMS)];
    }

    // sums (HEAD, the wave's queries) += a tile's vᵀ · weightsᵀ
    __device__ __forceinline__ void add_values(const uint4* value_tile, const uint4* weights) {
#pragma unroll 1
        for (int s = 0; s < KEY_TILE / STEP; s++) {
            uint4 weight[Shape::PACKS];
            load_fragment<Shape, KEY_CHUNKS>(weight, weights, lane, 0, s);
#pragma unroll
            for (int f = 0; f < CHANNEL_FRAGMENTS; f++) {
                uint4 a[Shape::PACKS];
                load_fragment<Shape, KEY_CHUNKS>(a, value_tile, lane, f * FRAGMENT, s);
                Shape::template multiply<true>(&sums[f], a, weight);
            }
        }
    }

    // result (BLOCK_QUERIES, HEAD), from the wave's sums
    __device__ __forceinline__ void divide(uint16_t* result, int format) const {
#pragma unroll
        for (int i = 0; i < CHANNEL_FRAGMENTS * Shape::SUMS; i++) {
            int f = i / Shape::SUMS, j = i % Shape::SUMS, row = wave * FRAGMENT + Shape::sum_column(lane, j);
            float value = sums[f][j] / total[Shape::column_slot(j)];
            result[row * HEAD + f * FRAGMENT + Shape::sum_row(lane, j)] = rounded_activation(format, value);
        }
    }
};

// Causal attention of many queries by matrix instructions, for heads of at most HEAD channels and a cache in f16; q is
// rounded to f16, and so are the weights of the softmax. One block per ATTENTION_WAVES x 16 queries of a sequence and
// head, the longest first; each wave has 16 queries. Tiles lie at multiples of KEY_TILE from position 0, and a tile
// beyond a query's own position changes nothing, so where a chunk or a block begins does not show.
template <class Shape, int HEAD>
__global__ void __launch_bounds__((CacheStream<Shape, HEAD>::THREADS_OF_BLOCK))
    matrix_attention(Activation out, const float* q, const void* keys, const void* values, const int* step, Heads heads,
                     int stride, float score_scale) {
    typedef MatrixAttention<Shape, HEAD> Attention;
    enum { KEY_TILE = Attention::KEY_TILE, QUERY_TILE = Attention::BLOCK_QUERIES };
    __shared__ uint4 query_tile[QUERY_TILE * Attention::CHUNKS], key_tile[KEY_TILE * Attention::CHUNKS];
    __shared__ uint4 value_tile[HEAD * Attention::KEY_CHUNKS];
    __shared__ uint4 weight_tiles[ATTENTION_WAVES][FRAGMENT * Attention::KEY_CHUNKS]; // (queries, keys) of each wave
    if (!Shape::IS_THERE) return;                                                     // never launched there
    Attention attention;
    attention.begin();
    int blocks = (heads.T + QUERY_TILE - 1) / QUERY_TILE, b = (int)blockIdx.x / blocks, head = (int)blockIdx.y;
    int first_query = (blocks - 1 - (int)blockIdx.x % blocks) * QUERY_TILE;
    int queries = min((int)QUERY_TILE, heads.T - first_query), first_row = b * heads.T + first_query;
    size_t cache = cache_offset(heads, step[1 + b], head) / CHUNK, q_row = (size_t)(heads.NH * heads.head_stride);
    typename Attention::Stream stream;
    stream.keys = (const uint4*)keys + cache, stream.values = (const uint4*)values + cache;
    int position = step[0] + heads.first + first_query; // of the first query
    stream.num_keys = position + queries, stream.packs = heads.head_stride / CHUNK;
    stream.fetch(0);
    Attention::bring_queries(query_tile, q, (size_t)first_row * q_row + (size_t)(head * heads.head_stride), q_row,
                             queries, stream.packs);
    for (int tile = 0; tile < stream.num_keys; tile += KEY_TILE) {
        __syncthreads(); // the tile before was read by everyone
        stream.land(key_tile, value_tile);
        __syncthreads();
        if (tile + KEY_TILE < stream.num_keys) stream.fetch(tile + KEY_TILE);
        typename Attention::Sums score[Attention::KEY_FRAGMENTS];
        attention.multiply_keys(score, key_tile, query_tile);
        uint4* weights = weight_tiles[attention.wave];
        attention.weigh((uint16_t*)(void*)weights, score, tile, position + attention.wave * FRAGMENT, score_scale);
        __syncthreads(); // the weights are there
        attention.add_values(value_tile, weights);
    }
    // through shared memory, so that neighbouring lanes write neighbouring channels
    __syncthreads();
    uint16_t* result = (uint16_t*)(void*)query_tile; // (QUERY_TILE, HEAD)
    attention.divide(result, out.format);
    __syncthreads();
    for (int row = attention.wave; row < queries; row += ATTENTION_WAVES) {
        size_t at = (size_t)(first_row + row) * (size_t)stride + (size_t)(head * heads.hs);
        for (int channel = attention.lane; channel < heads.hs; channel += Shape::LANES)
            ((uint16_t*)out.data)[at + (size_t)channel] = result[row * HEAD + channel];
    }
}

// Copies the first `length` positions of one slot to another. One block per head, grid.y the layers, keys then values.
// PACK elements of the cache are 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_slot(void* keys, void* values, int PACK, Heads heads, size_t layer_packs, int to, int from, int length) {
    uint4* cache = (uint4*)(blockIdx.z == 0 ? keys : values) + blockIdx.y * layer_packs;
    uint4* target = cache + cache_offset(heads, to, (int)blockIdx.x) / (size_t)PACK;
    const uint4* source = cache + cache_offset(heads, from, (int)blockIdx.x) / (size_t)PACK;
    size_t packs = (size_t)length * (size_t)(heads.head_stride / PACK);
    for (size_t i = threadIdx.x; i < packs; i += THREADS) target[i] = source[i];
}

// ---------------------------------------------------------------------------------------------------------------------
// Picking the next token on the card

// How one sequence picks: sampler.h's options, and the number that was drawn for this token.
struct Pick {
    SamplerOptions options;
    int forbidden; // a token, or -1
    int num_recent;
    double uniform;            // of [0, 1)
    int recent[REPEAT_WINDOW]; // the tokens that repeat_penalty is for, each once
};

// Probabilities are counted in integers, so that sums do not depend on who comes first: 2^38 for the likeliest token.
// 2^24 tokens of that mass, the largest vocabulary there is, still fit into 64 bits.
typedef unsigned long long Mass;

__device__ static __forceinline__ Mass mass_of(float logit, float largest, float temperature) {
    return (Mass)(expf((fminf(logit, FLT_MAX) - largest) / temperature) * 0x1p38f);
}

// A 64-bit number that orders tokens: by logit, and the lower id first among equals. 0 for what can never be chosen,
// a NaN or -infinity.
__device__ static __forceinline__ unsigned long long rank_of(float logit, int id) {
    if (!(logit > -INFINITY)) return 0;
    unsigned bits = bits_of_float(logit + 0.0f); // -0 counts as 0
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)bits << 32 | (0xffffffffu - (unsigned)id);
}

// What all threads of a block share while one sequence picks.
struct PickState {
    unsigned long long bins[DECODE_THREADS]; // one per thread, or per value of 8 bits
    unsigned long long rank;                 // found so far by likeliest_until, bit by bit from the top
    Mass above;                              // mass of the ranks above all those that begin like it
};

// The largest rank such that the tokens of that rank and above, among those of at least `floor`, reach `target` (at
// least 1, at most what there is). The mass of a token is 1 when it is only counted. A radix search: the masses are
// summed by the rank's next 8 bits, and the search goes on in the bin where the target is reached. Most logits share a
// few bins, where thousands of atomic additions would come one after the other: a thread adds up what goes to the same
// bin.
__device__ static __forceinline__ unsigned long long likeliest_until(PickState* state, const float* logits, int V,
                                                                     unsigned long long floor, Mass target,
                                                                     bool is_counted, float largest) {
    __syncthreads();
    if (threadIdx.x == 0) state->rank = 0, state->above = 0;
#pragma unroll 1
    for (int shift = 56; shift >= 0; shift -= 8) {
        state->bins[threadIdx.x] = 0;
        __syncthreads();
        unsigned long long known = shift == 56 ? 0 : ~0ull << (shift + 8), rank = state->rank;
        int held = 0;
        Mass mass = 0; // still to be added to that bin
        for (int id = (int)threadIdx.x; id < V; id += DECODE_THREADS) {
            unsigned long long r = rank_of(logits[id], id);
            if (r == 0 || r < floor || (r & known) != rank) continue;
            int bin = (int)(r >> shift & 255);
            if (bin != held && mass > 0) atomicAdd(&state->bins[held], mass), mass = 0;
            held = bin, mass += is_counted ? (Mass)1 : mass_of(logits[id], largest, 1);
        }
        if (mass > 0) atomicAdd(&state->bins[held], mass);
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = 255;
            while (bin > 0 && state->above + state->bins[bin] < target) state->above += state->bins[bin--];
            state->rank |= (unsigned long long)bin << shift;
        }
        __syncthreads();
    }
    return state->rank;
}

// The sum over the block of what each thread brings, in every thread.
__device__ static __forceinline__ Mass block_mass(PickState* state, Mass mass) {
    __syncthreads();
    state->bins[threadIdx.x] = mass;
    __syncthreads();
    Mass sum = 0;
    for (int i = 0; i < DECODE_THREADS; i++) sum += state->bins[i];
    return sum;
}

// The rank of the likeliest token, 0 when none is possible.
__device__ static __forceinline__ unsigned long long likeliest(PickState* state, const float* logits, int V) {
    unsigned long long best = 0;
    for (int id = (int)threadIdx.x; id < V; id += DECODE_THREADS) {
        unsigned long long rank = rank_of(logits[id], id);
        best = rank > best ? rank : best;
    }
    __syncthreads();
    state->bins[threadIdx.x] = best;
    __syncthreads();
    for (int i = 0; i < DECODE_THREADS; i++) best = state->bins[i] > best ? state->bins[i] : best;
    return best;
}

// The token in whose share of the mass, in the order of ids, the drawn number falls: the threads sum one stretch of ids
// each, and the thread whose stretch holds the point walks through it.
__device__ static __forceinline__ void draw(PickState* state, int* next, const float* logits, int V,
                                            unsigned long long floor, float least, float largest, const Pick* pick) {
    int stretch = (V + DECODE_THREADS - 1) / DECODE_THREADS, begin = min((int)threadIdx.x * stretch, V),
        end = min(begin + stretch, V);
    Mass mine = 0, before = 0;
    for (int id = begin; id < end; id++) {
        if (rank_of(logits[id], id) < floor || !(logits[id] >= least)) continue;
        mine += mass_of(logits[id], largest, pick->options.temperature);
    }
    Mass whole = block_mass(state, mine);
    Mass point = (Mass)(pick->uniform * (double)whole);
    for (int i = 0; i < (int)threadIdx.x; i++) before += state->bins[i];
    if (point < before || point >= before + mine) return; // exactly one thread goes on
    for (int id = begin; id < end; id++) {
        if (rank_of(logits[id], id) < floor || !(logits[id] >= least)) continue;
        before += mass_of(logits[id], largest, pick->options.temperature);
        if (point < before) {
            *next = id;
            return;
        }
    }
}

// The token that logits (V) lead to: argmax without randomness, else top-k, top-p, min-p, temperature and draw, in the
// order and meaning of sampler.h. *next is written by one thread.
__device__ static __forceinline__ void pick_from(PickState* state, int* next, const float* logits, int V,
                                                 const Pick* pick) {
    unsigned long long best = likeliest(state, logits, V), floor = 1;
    int best_id = (int)(0xffffffffu - (unsigned)best);
    if (best == 0 || !(pick->options.temperature > 0)) {
        if (threadIdx.x == 0) *next = best == 0 || !isfinite(logits[best_id]) ? -1 : best_id;
        return;
    }
    float largest = fminf(logits[best_id], FLT_MAX);
    if (pick->options.top_k > 0 && pick->options.top_k < V) {
        Mass possible = 0;
        for (int id = (int)threadIdx.x; id < V; id += DECODE_THREADS) possible += rank_of(logits[id], id) != 0;
        possible = block_mass(state, possible);
        if ((Mass)pick->options.top_k < possible) {
            floor = likeliest_until(state, logits, V, floor, (Mass)pick->options.top_k, true, largest);
        }
    }
    if (pick->options.top_p < 1) {
        Mass mass = 0;
        for (int id = (int)threadIdx.x; id < V; id += DECODE_THREADS) {
            if (rank_of(logits[id], id) >= floor) mass += mass_of(logits[id], largest, 1);
        }
        mass = block_mass(state, mass);
        Mass target = (Mass)((double)pick->options.top_p * (double)mass);
        target = target < 1 ? 1 : target > mass ? mass : target;
        floor = likeliest_until(state, logits, V, floor, target, false, largest);
    }
    float least = pick->options.min_p > 0 ? largest + logf(pick->options.min_p) : -INFINITY;
    draw(state, next, logits, V, floor, least, largest, pick);
}

// Picks from one sequence's logits with all threads of the block. The repetition penalty and the forbidden token change
// logits for the time of the choice only.
__device__ static __forceinline__ void pick_row(PickState* state, int* next, float* logits, int V, const Pick* pick) {
    int thread = (int)threadIdx.x;
    int token = thread < pick->num_recent ? pick->recent[thread] : -1; // whose logit this thread changes
    float before = token >= 0 ? logits[token] : 0, forbidden_before = 0;
    if (token >= 0)
        logits[token] = before > 0 ? before / pick->options.repeat_penalty : before * pick->options.repeat_penalty;
    __syncthreads();
    if (thread == 0 && pick->forbidden >= 0) {
        forbidden_before = logits[pick->forbidden];
        logits[pick->forbidden] = -INFINITY;
    }
    __syncthreads();
    pick_from(state, next, logits, V, pick);
    __syncthreads();
    if (thread == 0 && pick->forbidden >= 0) logits[pick->forbidden] = forbidden_before;
    __syncthreads();
    if (token >= 0) logits[token] = before;
    __syncthreads();
}

// Without randomness and penalties the token of the highest rank is the one.
__host__ __device__ static __forceinline__ bool is_plain_greedy(const Pick* pick) {
    return !(pick->options.temperature > 0) && pick->num_recent == 0;
}

// The token of a rank; -1 for none, and when its logit is infinite.
__device__ static __forceinline__ int token_of_rank(unsigned long long rank, const float* logits) {
    int id = (int)(0xffffffffu - (unsigned)rank);
    return rank == 0 || !isfinite(logits[id]) ? -1 : id;
}

// The highest rank of each row, over the lanes of a block's workers, goes into best (rows). shared (WORKERS, ROWS).
template <int ROWS>
__device__ static __forceinline__ void keep_best(unsigned long long* best, unsigned long long (*shared)[ROWS],
                                                 unsigned long long mine, int rows) {
    int lane = (int)threadIdx.x % GROUP, group = (int)threadIdx.x / GROUP, r = (int)threadIdx.x;
    unsigned long long other = __shfl_xor(mine, 1, GROUP);
    mine = other > mine ? other : mine;
    if (group >= READERS && lane % COLUMNS == 0 && lane / COLUMNS < ROWS)
        shared[group - READERS][lane / COLUMNS] = mine;
    __syncthreads();
    if (r >= rows) return;
    for (int w = 0; w < WORKERS; w++) mine = w == 0 || shared[w][r] > mine ? shared[w][r] : mine;
    atomicMax(best + r, mine);
}

// next (B): the token that each sequence picks from logits (B, V), one block each; -1 when no logit is finite. best (B)
// holds the highest ranks, and is left 0 for the next token.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
    pick_token(int* next, float* logits, unsigned long long* best, const Pick* picks, int V) {
    __shared__ PickState state;
    const Pick* pick = picks + blockIdx.x;
    float* mine = logits + (size_t)blockIdx.x * (size_t)V;
    if (!is_plain_greedy(pick)) pick_row(&state, next + blockIdx.x, mine, V, pick);
    else if (threadIdx.x == 0) next[blockIdx.x] = token_of_rank(best[blockIdx.x], mine);
    if (threadIdx.x == 0) best[blockIdx.x] = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Decoding: the stages of a token
//
// A block has two kinds of groups. READERS bring what a stage starts from into shared memory, make the LayerNorm that
// belongs to it, and look at keys and values; WORKERS multiply. Whole waves are one or the other, at any wave size, so
// the two are separate programs that meet at block_barrier().
//
// The order of every sum follows from the sizes of the model, never from the grid or the number of rows: a LayerNorm is
// made by one group; a column is multiplied by one group, in slices of the row as long as C, that are added in order; a
// softmax is made over ranges of RANGE keys, that are put together in order. So launches of single stages and the
// persistent kernel, on a card of any size, give the same bits.

enum Stage { STAGE_QKV, STAGE_ATTPROJ, STAGE_FC, STAGE_FCPROJ, STAGE_HEAD, NUM_STAGES };

// What the stages of a layer leave for each other. Launches use the same memory for all layers, and `middle` is `x`.
struct Flow {
    float* q;        // (rows, NH, head_stride); WAITS: (3, rows, NH, head_stride), q, k and v
    float* partials; // (rows, NH, ranges, 2 + head_stride): largest score, total and sums of each range of keys
    float* middle;   // (rows, stride): x after attention
    float* hidden;   // (rows, hidden_stride)
    float* x;        // (rows, stride): x after the layer
};

// What all stages know. The first argument of every kernel that runs them.
struct Decode {
    Heads heads;
    int rows, L, V;
    int stride, hidden_stride; // floats in a row of (rows, C) and (rows, 4C)
    int ranges;                // that a cache may have
    Matrix wte, wpe;
    Matrix matrices[NUM_STAGES];         // of all layers, what each stage multiplies with
    const float* biases[NUM_STAGES];     // the same; NULL: none
    const float* ln_weights[NUM_STAGES]; // of all layers, of the LayerNorm that a stage begins with
    const float* ln_biases[NUM_STAGES];
    char *keys, *values;      // of all layers
    size_t cache_bytes;       // of one layer
    Flow flow;                // of the first layer
    size_t layer_floats;      // WAITS: from one layer's to the next
    float* logits;            // (rows, V)
    unsigned long long* best; // (rows): the highest rank_of a logit so far; NULL: not wanted
};

// The same as d, but read anew: without this the compiler would like to keep all of it, and whatever follows from it,
// in registers from the kernel's beginning to its end.
__device__ static __forceinline__ const Decode& again(const Decode& d) {
#ifdef __AMDGCN__
    (void)d;
    auto arguments = __builtin_amdgcn_kernarg_segment_ptr();
    asm volatile("" : "+s"(arguments));
    return *(const Decode*)arguments;
#else
    return d;
#endif
}

// A number that the compiler cannot see through, so that what is computed from it is not kept for the next layer.
__device__ static __forceinline__ int opaque(int number) {
#if defined(__AMDGCN__)
    asm volatile("" : "+v"(number));
#elif defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

// A matrix product of a stage: one layer of the matrix (OC, stride), whose rows are summed in `slices` slices.
struct Product {
    Matrix weight;
    const float* bias; // (OC) or NULL
    int OC, stride, slices;
};

__host__ __device__ static __forceinline__ Matrix matrix_at(Matrix matrix, size_t row, int stride, int dtype) {
    matrix.data = (const char*)matrix.data + row * (size_t)stride *
                                                 (dtype == DTYPE_F32  ? 4
                                                  : dtype == DTYPE_Q8 ? 1
                                                                      : 2);
    if (dtype == DTYPE_Q8) matrix.scales += row * (size_t)(stride / Q8_BLOCK);
    return matrix;
}

template <int DTYPE>
__host__ __device__ static __forceinline__ Product stage_product(const Decode& d, int stage, int layer) {
    Product p;
    int C = d.heads.C;
    p.stride = stage == STAGE_FCPROJ ? d.hidden_stride : d.stride;
    p.slices = stage == STAGE_FCPROJ ? 4 : 1;
    p.OC = stage == STAGE_QKV ? 3 * C : stage == STAGE_FC ? 4 * C : stage == STAGE_HEAD ? d.V : C;
    size_t row = stage == STAGE_HEAD ? 0 : (size_t)layer * (size_t)p.OC;
    p.weight = matrix_at(d.matrices[stage], row, p.stride, DTYPE);
    p.bias = stage == STAGE_HEAD ? NULL : d.biases[stage] + row;
    return p;
}

// The columns of a product that one block makes, counted in COLUMNS.
struct Share {
    int first, count;
};

__device__ static __forceinline__ Share block_share(int OC) {
    int all = (OC + COLUMNS - 1) / COLUMNS, blocks = (int)gridDim.x, block = (int)blockIdx.x;
    int least = all / blocks, more = all % blocks;
    Share share = {block * least + min(block, more), least + (block < more)};
    return share;
}

// Where element `e` of a row lies among the `packs` packs of it that are in shared memory: the first four elements of
// every pack, then the second four, and so on, so that lanes with neighbouring packs read neighbouring 16 bytes.
template <int DTYPE> __device__ static __forceinline__ int staged_index(int e, int packs) {
    enum { PACK = Format<DTYPE>::PACK };
    return e % PACK / 4 * packs * 4 + e / PACK * 4 + e % 4;
}

// Is this wave one of the readers? The same for all its lanes, and the compiler is told so.
__device__ static __forceinline__ bool is_reader() {
#ifdef __AMDGCN__
    return __builtin_amdgcn_readfirstlane((int)threadIdx.x) < READERS * GROUP;
#else
    return __shfl((int)threadIdx.x, 0, GROUP) < READERS * GROUP;
#endif
}

// A group has two vectors of n floats brought from memory into the cache that all units share, and does not wait for
// it. On AMD a wave's loads return in order, so there it would.
__device__ static __forceinline__ void bring_near(const float* a, const float* b, int n) {
#if defined(__CUDA_ARCH__)
    enum { PART = 8 }; // floats: a line of the caches is filled in parts of 32 bytes
    for (int at = (int)threadIdx.x % GROUP * PART; at < n; at += GROUP * PART) {
        asm volatile("prefetch.global.L2 [%0];\n\tprefetch.global.L2 [%1];" ::"l"(a + at), "l"(b + at));
    }
#else
    (void)a, (void)b, (void)n;
#endif
}

// A group has them in the unit's own cache when this returns. What was loaded is used for nothing, but so that no
// compiler can leave it out.
__device__ static __forceinline__ void touch(const float* a, const float* b, int n) {
#if defined(__CUDA_ARCH__)
    enum { PART = 8, N = 3 }; // 768 floats at once
    for (int first = (int)threadIdx.x % GROUP * PART; first < n; first += N * GROUP * PART) {
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < N; i++) {
            int at = min(first + i * GROUP * PART, n - 1);
            bits ^= bits_of_float(a[at]) ^ bits_of_float(b[at]);
        }
        asm volatile("{\n\t.reg .pred p;\n\tsetp.eq.u32 p, %0, 0x5bd1e995;\n\t@p nanosleep.u32 0;\n\t}" ::"r"(bits));
    }
#elif defined(__AMDGCN__)
    enum { LINE = 32 }; // floats
    for (int at = opaque((int)threadIdx.x) % GROUP * LINE; at < n; at += GROUP * LINE)
        asm volatile("" ::"v"(a[at]), "v"(b[at]));
#else
    (void)a, (void)b, (void)n;
#endif
}

// Steps in which a group goes through a row of channels, two to a lane, and how many it has under way together.
enum { ROW_STEP = 2 * GROUP, ROW_STEPS = 12 };

// ROW_STEPS steps of stage_x, from the lane's channel `at` on. WHOLE: all of them are channels, so that nothing is
// asked.
template <int DTYPE, bool WAITS, bool WHOLE>
__device__ static __forceinline__ float stage_steps(float sum, float* place, float* keep, const float* from, int at,
                                                    int C, int stride) {
    enum { STAGED_STEP = ROW_STEP / Format<DTYPE>::PACK * 4 };
    float2 x[ROW_STEPS];
    take<WAITS, ROW_STEPS>(x, [=](int i) {
        Place whole = {from + at + i * ROW_STEP, true};
        return WHOLE ? whole : place_in(from, at + i * ROW_STEP, C);
    });
#pragma unroll
    for (int i = 0; i < ROW_STEPS; i++) {
        if (!WHOLE && at + i * ROW_STEP >= stride) continue;
        if (!WHOLE && at + i * ROW_STEP >= C) x[i] = make_float2(0, 0);
        sum += x[i].x;
        sum += x[i].y;
        *(float2*)(place + i * STAGED_STEP) = x[i];
        if (keep != NULL) *(float2*)(keep + at + i * ROW_STEP) = x[i];
    }
    return sum;
}

// A group brings x (stride), a row of C channels, to shared memory, and to `keep` unless that is NULL; zeros behind.
// The sum of the lane's channels is returned.
template <int DTYPE, bool WAITS>
__device__ static __forceinline__ float stage_x(float* staged, float* keep, const float* from, int C, int stride) {
    enum { ROUND = ROW_STEPS * ROW_STEP, STAGED_ROUND = ROUND / Format<DTYPE>::PACK * 4 }; // 768 channels
    int lane = opaque((int)threadIdx.x) % GROUP, first = 0;
    float* place = staged + staged_index<DTYPE>(2 * lane, stride / Format<DTYPE>::PACK);
    float sum = 0;
    for (; first + ROUND <= C; first += ROUND, place += STAGED_ROUND) {
        sum = stage_steps<DTYPE, WAITS, true>(sum, place, keep, from, first + 2 * lane, C, stride);
    }
    for (; first < stride; first += ROUND, place += STAGED_ROUND) {
        sum = stage_steps<DTYPE, WAITS, false>(sum, place, keep, from, first + 2 * lane, C, stride);
    }
    return sum;
}

// The same when x is the embedding of a token.
template <int DTYPE>
__device__ static __forceinline__ float stage_embedding(float* staged, float* keep, const Decode& d, int token,
                                                        int position) {
    enum { N = 12, STEP = 2 * GROUP }; // all loads of 768 channels are under way together: nothing hides their latency
    int lane = opaque((int)threadIdx.x) % GROUP, packs = d.stride / Format<DTYPE>::PACK;
    float sum = 0;
#pragma unroll 1
    for (int at = 2 * lane; at < d.stride; at += N * STEP) {
        float2 x[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = embedded_pair<DTYPE>(d.wte, d.wpe, token, position, min(at + i * STEP, d.stride - 2), d.stride);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int e = at + i * STEP;
            if (e >= d.stride) continue;
            sum += x[i].x;
            sum += x[i].y;
            *(float2*)(staged + staged_index<DTYPE>(e, packs)) = x[i];
            *(float2*)(keep + e) = x[i];
        }
    }
    return sum;
}

// staged_layernorm's two passes. WHOLE: all lanes have channels in every step, so that nothing is asked.
template <int DTYPE, bool WHOLE>
__device__ static __forceinline__ void layernorm_passes(float* place, float sum, const float* weight, const float* bias,
                                                        int C) {
    enum { STAGED_STEP = ROW_STEP / Format<DTYPE>::PACK * 4 };
    int lane = opaque((int)threadIdx.x) % GROUP;
    float squares = 0, mean = group_sum(sum) / (float)C;
    float* at = place;
#pragma unroll 4
    for (int first = 0; first < C; first += ROW_STEP, at += STAGED_STEP) {
        int e = first + 2 * lane;
        if (!WHOLE && e >= C) break;
        float2 v = *(const float2*)at;
        squares += (v.x - mean) * (v.x - mean);
        if (WHOLE || e + 1 < C) squares += (v.y - mean) * (v.y - mean);
    }
    float scale = 1.0f / sqrtf(group_sum(squares) / (float)C + 1e-5f);
#pragma unroll 4
    for (int first = 0; first < C; first += ROW_STEP, place += STAGED_STEP) {
        int e = first + 2 * lane, second = WHOLE ? e + 1 : min(e + 1, C - 1);
        if (!WHOLE && e >= C) break;
        float2 v = *(const float2*)place;
        v.x = (v.x - mean) * scale * weight[e] + bias[e];
        v.y = WHOLE || second > e ? (v.y - mean) * scale * weight[second] + bias[second] : 0;
        *(float2*)place = v;
    }
}

// Of a row that the group has in shared memory, with the sum of the lane's channels, it makes
//     (x - mean) / sqrt(variance + 1e-5) * weight + bias
// over the C channels: LayerNorm, Ba et al. 2016.
template <int DTYPE>
__device__ static __forceinline__ void staged_layernorm(float* staged, float sum, const float* weight,
                                                        const float* bias, int C, int stride) {
    int lane = opaque((int)threadIdx.x) % GROUP;
    float* place = staged + staged_index<DTYPE>(2 * lane, stride / Format<DTYPE>::PACK);
    if (C % ROW_STEP == 0) layernorm_passes<DTYPE, true>(place, sum, weight, bias, C);
    else layernorm_passes<DTYPE, false>(place, sum, weight, bias, C);
}

// All readers bring `n` elements of a row, from element `first`, to shared memory; zeros up to `padded`.
template <int DTYPE, bool WAITS>
__device__ static __forceinline__ void stage_row(float* staged, const float* from, int first, int n, int padded) {
    enum { N = 12, STEP = 2 * READERS * GROUP, STAGED_STEP = STEP / Format<DTYPE>::PACK * 4 };
    int lane = opaque((int)threadIdx.x);
    float* place = staged + staged_index<DTYPE>(2 * lane, padded / Format<DTYPE>::PACK);
    for (int at = 2 * lane; at < padded; at += N * STEP, place += N * STAGED_STEP) {
        float2 x[N];
        take<WAITS, N>(x, [=](int i) { return place_in(from + first, at + i * STEP, n); });
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (at + i * STEP < padded)
                *(float2*)(place + i * STAGED_STEP) = at + i * STEP < n ? x[i] : make_float2(0, 0);
        }
    }
}

// All readers put the ranges of a row's attention together and bring it to shared memory, heads side by side. partials
// is the row's (NH, ranges, 2 + head_stride), of which the first num_ranges of each head count. A range whose largest
// score is l, of exp(score - l) the total t and, weighted with it, the values' sums s, adds exp(l - L) t and exp(l - L)
// s where L is the largest of all. RANGES are looked at together.
template <int DTYPE, bool WAITS, int RANGES>
__device__ static __forceinline__ void stage_ranges(float* staged, const Decode& d, const float* partials,
                                                    int num_ranges) {
    enum { N = 3, LANES = READERS * GROUP };
    int lane = opaque((int)threadIdx.x), packs = d.stride / Format<DTYPE>::PACK;
    int pairs = (d.heads.hs + 1) / 2, all = d.heads.NH * pairs, size = 2 + d.heads.head_stride;
    for (int start = lane; start < all; start += LANES * N) {
        float largest[N], total[N];
        float2 sum[N];
        // of a head with an odd size the last pair is whole as well: a zero lies behind it
#pragma unroll
        for (int i = 0; i < N; i++) largest[i] = -INFINITY, total[i] = 0, sum[i] = make_float2(0, 0);
        for (int range = 0; range < num_ranges; range += RANGES) {
            // for each of N pairs of channels and each range: largest score and total, and the sums
            float2 parts[N * RANGES * 2];
            take<WAITS, N * RANGES * 2>(parts, [=](int k) {
                int number = min(start + k / (2 * RANGES) * LANES, all - 1),
                    r = min(range + k / 2 % RANGES, num_ranges - 1);
                const float* part = partials + (size_t)(number / pairs * d.ranges + r) * (size_t)size;
                Place place = {k % 2 == 0 ? part : part + 2 + number % pairs * 2, true};
                return place;
            });
#pragma unroll
            for (int i = 0; i < N; i++) {
                float before = largest[i];
#pragma unroll
                for (int r = 0; r < RANGES; r++) {
                    float score = range + r < num_ranges ? parts[(i * RANGES + r) * 2].x : -INFINITY;
                    largest[i] = fmaxf(largest[i], score);
                }
                float shrink = expf(before - largest[i]);
                total[i] *= shrink, sum[i].x *= shrink, sum[i].y *= shrink;
#pragma unroll
                for (int r = 0; r < RANGES; r++) {
                    float2 head = parts[(i * RANGES + r) * 2], part = parts[(i * RANGES + r) * 2 + 1];
                    float factor = range + r < num_ranges ? expf(head.x - largest[i]) : 0;
                    total[i] = fmaf(factor, head.y, total[i]);
                    sum[i].x = fmaf(factor, part.x, sum[i].x);
                    sum[i].y = fmaf(factor, part.y, sum[i].y);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            int number = start + i * LANES, channel = number % pairs * 2, e = number / pairs * d.heads.hs + channel;
            if (number >= all) continue;
            staged[staged_index<DTYPE>(e, packs)] = sum[i].x / total[i];
            if (channel + 1 < d.heads.hs) staged[staged_index<DTYPE>(e + 1, packs)] = sum[i].y / total[i];
        }
    }
    for (int e = d.heads.C + lane; e < d.stride; e += LANES) staged[staged_index<DTYPE>(e, packs)] = 0;
}

// A text begins with one range, which need not be read four times.
template <int DTYPE, bool WAITS>
__device__ static __forceinline__ void stage_attention(float* staged, const Decode& d, const float* partials,
                                                       int num_ranges) {
    if (num_ranges == 1) stage_ranges<DTYPE, WAITS, 1>(staged, d, partials, num_ranges);
    else stage_ranges<DTYPE, WAITS, 4>(staged, d, partials, num_ranges);
}

// What a block needs in shared memory to look at a range of keys.
struct AttentionPlace {
    float* query; // (head_stride)
    char* key;    // (head_stride) of the cache's format: k of the query's own position, when it is not in the cache yet
    char* value;
    float* sums;  // (READERS, head_stride)
    float* heads; // (READERS, 2): largest score and total
};

// Packs in shared memory, for all parts of a place.
__host__ __device__ static __forceinline__ int attention_place_floats(int head_stride) {
    return (3 + READERS) * head_stride + 2 * READERS;
}

__device__ static __forceinline__ AttentionPlace attention_place(float* memory, int head_stride) {
    AttentionPlace place;
    place.query = memory;
    place.key = (char*)(memory + head_stride), place.value = (char*)(memory + 2 * head_stride);
    place.sums = memory + 3 * head_stride, place.heads = memory + (3 + READERS) * head_stride;
    return place;
}

// One row's query of one head against one range of keys.
struct Item {
    int row, head, range;
    int position;     // of the query
    const void* keys; // (maxT, head_stride) of that sequence and head
    const void* values;
};

// Which keys and channels a lane of a group takes up when values are summed: `width` lanes share a key, one pack each.
struct ValueLanes {
    int width, at_once, rounds, sub, pack; // keys at once, and how many times to sum all 32
};

__device__ static __forceinline__ ValueLanes value_lanes(int packs, int first_pack) {
    ValueLanes v;
    int lane = opaque((int)threadIdx.x) % GROUP;
    v.width = min(packs - first_pack, (int)GROUP), v.at_once = GROUP / v.width;
    v.rounds = (GROUP + v.at_once - 1) / v.at_once;
    v.sub = lane / v.width, v.pack = first_pack + lane % v.width;
    return v;
}

enum { PACKS_AT_ONCE = 8 };

// Starts the loads of packs first to first + PACKS_AT_ONCE of the lane's key. Past the end, the last once more.
__device__ static __forceinline__ void load_key(uint4 (&raw)[PACKS_AT_ONCE], const void* keys, int key, int cached,
                                                int packs, int first) {
    const uint4* row = (const uint4*)keys + (size_t)min(key, cached - 1) * (size_t)packs;
#pragma unroll
    for (int i = 0; i < PACKS_AT_ONCE; i++) raw[i] = row[min(first + i, packs - 1)];
}

// Of the values that the lane sums in rounds first to first + PACKS_AT_ONCE.
__device__ static __forceinline__ void load_values(uint4 (&raw)[PACKS_AT_ONCE], const void* values, int first_key,
                                                   int cached, int packs, ValueLanes v, int first) {
#pragma unroll
    for (int i = 0; i < PACKS_AT_ONCE; i++) {
        int key = min(first_key + (first + i) * v.at_once + v.sub, cached - 1);
        raw[i] = ((const uint4*)values)[(size_t)key * (size_t)packs + (size_t)v.pack];
    }
}

// The readers bring q, and k and v of the query's own position when the range holds it (WAITS), to shared memory.
template <int CACHE, bool WAITS>
__device__ static __forceinline__ void stage_query(AttentionPlace place, const Decode& d, const float* all_q,
                                                   Item item) {
    enum { N = WAITS ? 3 : 1 }; // q, k and v
    int head_stride = d.heads.head_stride, hs = d.heads.hs;
    bool has_own = WAITS && item.position / RANGE == item.range;
    const float* q = all_q + ((size_t)item.row * (size_t)d.heads.NH + (size_t)item.head) * (size_t)head_stride;
    size_t part = (size_t)d.rows * (size_t)d.heads.NH * (size_t)head_stride;
    for (int e = 2 * opaque((int)threadIdx.x); e < head_stride; e += 2 * READERS * GROUP) {
        float2 x[N];
        take<WAITS, N>(x, [=](int i) { return place_in(q + (size_t)i * part, e, hs); });
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = e < hs ? x[i] : make_float2(0, 0);
        *(float2*)(place.query + e) = x[0];
        if (!has_own) continue;
#pragma unroll
        for (int i = 1; i < N; i++) {
            char* own = i == 1 ? place.key : place.value;
            if (CACHE == DTYPE_F32) *(float2*)(void*)((float*)(void*)own + e) = x[i];
            else
                *(unsigned*)(void*)((uint16_t*)(void*)own + e) = float_to_half(x[i].x) | (unsigned)float_to_half(x[i].y)
                                                                                             << 16;
        }
    }
}

// The lane's score: q · k of its key. Four sums, so that not every multiplication waits for the one before.
template <int CACHE, bool WAITS>
__device__ static __forceinline__ float key_score(AttentionPlace place, uint4 (&raw)[PACKS_AT_ONCE], Item item, int key,
                                                  int cached, int packs) {
    enum { PACK = Format<CACHE>::PACK };
    float score[4] = {0, 0, 0, 0};
    for (int first = 0; first < packs; first += PACKS_AT_ONCE) {
        if (first > 0 && cached > 0) load_key(raw, item.keys, key, cached, packs, first);
#pragma unroll
        for (int i = 0; i < PACKS_AT_ONCE; i++) {
            if (first + i >= packs) break;
            float k[PACK];
            if (WAITS && key == item.position) raw[i] = ((const uint4*)(const void*)place.key)[first + i];
            Format<CACHE>::unpack(k, raw[i]);
#pragma unroll
            for (int j = 0; j < PACK; j += 4) {
                float4 q = *(const float4*)(place.query + (first + i) * PACK + j);
                score[0] = fmaf(q.x, k[j], score[0]), score[1] = fmaf(q.y, k[j + 1], score[1]);
                score[2] = fmaf(q.z, k[j + 2], score[2]), score[3] = fmaf(q.w, k[j + 3], score[3]);
            }
        }
    }
    return (score[0] + score[1]) + (score[2] + score[3]);
}

// sums (head_stride) of the group: its 32 values, each times the weight that its lane holds.
template <int CACHE, bool WAITS>
__device__ static __forceinline__ void weigh_values(float* sums, AttentionPlace place, uint4 (&raw)[PACKS_AT_ONCE],
                                                    Item item, float weight, int first_key, int cached, int packs) {
    enum { PACK = Format<CACHE>::PACK };
    int lane = opaque((int)threadIdx.x) % GROUP;
    for (int first_pack = 0; first_pack < packs; first_pack += GROUP) {
        ValueLanes v = value_lanes(packs, first_pack);
        float sum[PACK];
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] = 0;
        for (int first = 0; first < v.rounds; first += PACKS_AT_ONCE) {
            if (first_pack + first > 0 && cached > 0) load_values(raw, item.values, first_key, cached, packs, v, first);
#pragma unroll
            for (int i = 0; i < PACKS_AT_ONCE; i++) {
                if (first + i >= v.rounds) break;
                int k = (first + i) * v.at_once + v.sub, key = first_key + k;
                float key_weight = __shfl(weight, min(k, GROUP - 1), GROUP), value[PACK];
                bool is_seen = v.sub < v.at_once && k < GROUP && key <= item.position;
                if (WAITS && key == item.position) raw[i] = ((const uint4*)(const void*)place.value)[v.pack];
                Format<CACHE>::unpack(value, is_seen ? raw[i] : make_uint4(0, 0, 0, 0));
#pragma unroll
                for (int j = 0; j < PACK; j++) sum[j] = fmaf(is_seen ? key_weight : 0, value[j], sum[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            float whole = sum[j];
            for (int s = 1; s < v.at_once; s++) whole += __shfl(sum[j], (lane + s * v.width) % GROUP, GROUP);
            if (lane < v.width) sums[v.pack * PACK + j] = whole;
        }
    }
}

// The part that one range of keys has in a query's attention, into flow.partials. The readers make it; all threads of
// the block come to the barriers.
template <int CACHE, bool WAITS>
__device__ static __forceinline__ void attend_range(AttentionPlace place, const Decode& d, const Flow& flow,
                                                    Item item) {
    int thread = opaque((int)threadIdx.x), lane = thread % GROUP, group = thread / GROUP,
        head_stride = d.heads.head_stride;
    int packs = head_stride / Format<CACHE>::PACK, first_key = item.range * RANGE + group * GROUP,
        key = first_key + lane;
    int cached = WAITS ? item.position : item.position + 1; // keys that lie in the cache
    uint4 key_raw[PACKS_AT_ONCE], value_raw[PACKS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < PACKS_AT_ONCE; i++) key_raw[i] = value_raw[i] = make_uint4(0, 0, 0, 0);
    if (cached > 0) { // under way while the query is waited for
        load_key(key_raw, item.keys, key, cached, packs, 0);
        load_values(value_raw, item.values, first_key, cached, packs, value_lanes(packs, 0), 0);
    }
    stage_query<CACHE, WAITS>(place, d, flow.q, item);
    block_barrier();
    float score = key_score<CACHE, WAITS>(place, key_raw, item, key, cached, packs) * (1.0f / sqrtf((float)d.heads.hs));
    float largest = group_max(key <= item.position ? score : -INFINITY);
    float weight = key <= item.position ? expf(score - largest) : 0, total = group_sum(weight);
    weigh_values<CACHE, WAITS>(place.sums + group * head_stride, place, value_raw, item, weight, first_key, cached,
                               packs);
    if (lane == 0) place.heads[2 * group] = largest, place.heads[2 * group + 1] = total;
    block_barrier();
    float factor[READERS], whole = 0, most = place.heads[0];
#pragma unroll
    for (int g = 1; g < READERS; g++) most = fmaxf(most, place.heads[2 * g]);
#pragma unroll
    for (int g = 0; g < READERS; g++) {
        factor[g] = expf(place.heads[2 * g] - most);
        whole = fmaf(factor[g], place.heads[2 * g + 1], whole);
    }
    size_t number = ((size_t)item.row * (size_t)d.heads.NH + (size_t)item.head) * (size_t)d.ranges + (size_t)item.range;
    float* partial = flow.partials + number * (size_t)(2 + head_stride);
    if (thread == 0) leave<WAITS>(partial, most), leave<WAITS>(partial + 1, whole);
    for (int e = thread; e < head_stride; e += READERS * GROUP) {
        float sum = 0;
#pragma unroll
        for (int g = 0; g < READERS; g++) sum = fmaf(factor[g], place.sums[g * head_stride + e], sum);
        leave<WAITS>(partial + 2 + e, sum);
    }
}

// Item number `number` of a layer's rows * NH * num_ranges.
template <int CACHE>
__device__ static __forceinline__ Item make_item(const Decode& d, int layer, const int* step, int number,
                                                 int num_ranges) {
    Item item;
    item.range = number % num_ranges, item.head = number / num_ranges % d.heads.NH;
    item.row = number / num_ranges / d.heads.NH;
    item.position = step[0] + item.row % d.heads.T;
    size_t at = cache_offset(d.heads, step[1 + item.row / d.heads.T], item.head) * (CACHE == DTYPE_F32 ? 4 : 2);
    at += (size_t)layer * d.cache_bytes;
    item.keys = d.keys + at, item.values = d.values + at;
    return item;
}

// Where the results of a stage go, sums + bias.
struct StageOutput {
    int kind;
    int stride;          // floats from one row of out to the next
    float* out;          // (rows, stride); OUTPUT_QKV: q (rows, NH, head_stride)
    const float* before; // OUTPUT_ADD: (rows, before_stride), what the value is added to
    int before_stride;
    void* keys; // OUTPUT_QKV: this layer's caches (max_batch, NH, maxT, head_stride)
    void* values;
    const int* step; // OUTPUT_QKV: [position, slots (max_batch)]
    int rows;        // OUTPUT_QKV, WAITS: k and v go to out as well, behind q, (rows, NH, head_stride) each
    Heads heads;     // OUTPUT_QKV
};

// Puts away column `column` of row `row`. CACHE is the format of the KV cache; WAITS: somebody is waiting for it.
template <int CACHE, bool WAITS>
__device__ static __forceinline__ void deliver(const StageOutput& output, int row, int column, float value) {
    if (output.kind != OUTPUT_QKV) {
        float* out = output.out + (size_t)row * (size_t)output.stride + column;
        if (output.kind == OUTPUT_GELU) value = gelu(value);
        if (output.kind == OUTPUT_ADD) value += output.before[(size_t)row * (size_t)output.before_stride + column];
        leave<WAITS>(out, value);
        return;
    }
    const Heads& heads = output.heads;
    int part = (column >= heads.C) + (column >= 2 * heads.C), rest = column - part * heads.C;
    int head = rest / heads.hs, channel = rest - head * heads.hs;
    int place = (WAITS ? part * output.rows : 0) + row;
    if (part == 0 || WAITS) {
        leave<WAITS>(output.out + ((size_t)place * (size_t)heads.NH + (size_t)head) * (size_t)heads.head_stride +
                         channel,
                     value);
    }
    if (part == 0) return;
    int slot = output.step[1 + row / heads.T], position = output.step[0] + row % heads.T;
    void* cache = part == 1 ? output.keys : output.values;
    size_t at = cache_offset(heads, slot, head) + (size_t)position * (size_t)heads.head_stride + (size_t)channel;
    if (CACHE == DTYPE_F32) ((float*)cache)[at] = value;
    else ((uint16_t*)cache)[at] = float_to_half(value);
}

// What a worker multiplies with next: LOADS packs per lane of each of COLUMNS columns, on their way in registers.
template <int DTYPE> struct Chunk {
    enum {
        PACK = Format<DTYPE>::PACK,
        LOADS = DTYPE == DTYPE_Q8 ? 2 : 3,
        PACKS = LOADS * GROUP
    }; // 768 elements, or half of them in f32
    uint4 raw[COLUMNS][LOADS];
    float scale[COLUMNS][DTYPE == DTYPE_Q8 ? LOADS : 1];
    float bias; // of the column that the lane puts away

    // Starts the loads of packs first to first + PACKS of columns `pair` * COLUMNS and on. Past a row's end its last
    // pack is loaded once more, past the last column that column: a branch would make one load wait for another.
    __device__ __forceinline__ void load(const Product& product, int pair, int first) {
        int lane = opaque((int)threadIdx.x) % GROUP, packs = product.stride / PACK;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            size_t row = (size_t)min(pair * COLUMNS + c, product.OC - 1);
            const uint4* w = (const uint4*)product.weight.data + row * (size_t)packs;
#pragma unroll
            for (int i = 0; i < LOADS; i++) {
                int p = min(first + lane + i * GROUP, packs - 1);
                raw[c][i] = w[p];
                if (DTYPE == DTYPE_Q8) scale[c][i] = pack_scale<DTYPE>(product.weight, row, p, product.stride);
            }
        }
        bias = product.bias == NULL ? 0 : product.bias[min(pair * COLUMNS + lane % COLUMNS, product.OC - 1)];
    }

    // Adds its part to the sums: sum += in · weightᵀ over packs first to `end` of rows of which packs `base` and on,
    // `staged` of them, are in shared memory.
    template <int ROWS>
    __device__ __forceinline__ void multiply(float (&sum)[COLUMNS][ROWS], const float* in, int in_stride, int first,
                                             int end, int base, int staged) const {
        int lane = opaque((int)threadIdx.x) % GROUP;
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (first + i * GROUP >= end) break; // the same for all lanes
            int p = first + lane + i * GROUP, at = min(p, end - 1) - base;
            unsigned keep = p < end ? 0xffffffff : 0;
            float values[COLUMNS][PACK];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                uint4 w = raw[c][i];
                Format<DTYPE>::unpack(values[c], make_uint4(w.x & keep, w.y & keep, w.z & keep, w.w & keep));
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float part[COLUMNS];
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) part[c] = DTYPE == DTYPE_Q8 ? 0 : sum[c][r];
#pragma unroll
                for (int k = 0; k < PACK; k += 4) {
                    float4 x = *(const float4*)(in + r * in_stride + (k / 4 * staged + at) * 4);
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) {
                        part[c] = fmaf(values[c][k], x.x, part[c]);
                        part[c] = fmaf(values[c][k + 1], x.y, part[c]);
                        part[c] = fmaf(values[c][k + 2], x.z, part[c]);
                        part[c] = fmaf(values[c][k + 3], x.w, part[c]);
                    }
                }
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    sum[c][r] = DTYPE == DTYPE_Q8 ? fmaf(scale[c][i], part[c], sum[c][r]) : part[c];
            }
        }
    }
};

// A product as one block makes it: its columns, the slices whose activations are in shared memory, and the tasks, each
// one pair of columns in one slice, that its workers take in turn.
struct Work {
    Product product;
    StageOutput output;
    const float* in; // (ROWS, in_stride) in shared memory
    int in_stride;
    Share share;
    int packs, slice_packs;  // of a whole row, of a slice
    int first_slice, slices; // those in shared memory
    int first_row, rows;     // of the output, that the rows in shared memory are
    float* sums;             // (2, PARTIAL_PAIRS * COLUMNS, all slices, ROWS) in shared memory, if there are several
    const int* forbidden;    // of the head, if ranks are wanted: (ROWS) tokens that have none, or -1; else NULL
};

template <int DTYPE>
__device__ static __forceinline__ Work make_work(const Product& product, const StageOutput& output) {
    Work w;
    w.product = product, w.output = output;
    w.share = block_share(product.OC);
    w.packs = product.stride / Format<DTYPE>::PACK;
    w.slice_packs = (w.packs + product.slices - 1) / product.slices;
    w.first_slice = 0, w.slices = product.slices;
    w.in = NULL, w.in_stride = 0, w.first_row = 0, w.rows = 0, w.sums = NULL; // until something is staged
    w.forbidden = NULL;
    return w;
}

// Where a worker is: a task among `tasks`, and a chunk of it.
struct Cursor {
    int task, pair, first, end; // pair of columns; packs of the row that are left of the slice
    int slice;
};

template <int DTYPE> __device__ static __forceinline__ Cursor cursor_at(const Work& w, int first_pair, int task) {
    Cursor c;
    c.task = task, c.pair = w.share.first + first_pair + task / w.slices, c.slice = w.first_slice + task % w.slices;
    c.first = c.slice * w.slice_packs, c.end = min(c.first + w.slice_packs, w.packs);
    return c;
}

template <int DTYPE> __device__ static __forceinline__ Cursor cursor_next(const Work& w, int first_pair, Cursor c) {
    c.first += Chunk<DTYPE>::PACKS;
    return c.first < c.end ? c : cursor_at<DTYPE>(w, first_pair, c.task + WORKERS);
}

__device__ static __forceinline__ int worker() {
    return opaque((int)threadIdx.x) / GROUP - READERS;
}

// Starts the loads of the worker's chunk number `number`, from the block's pair first_pair on. There may be no such
// chunk: then something is loaded that nobody uses.
template <int DTYPE>
__device__ static __forceinline__ void request(Chunk<DTYPE>* chunk, const Work& w, int first_pair, int number) {
    Cursor c = cursor_at<DTYPE>(w, first_pair, worker());
    for (int i = 0; i < number; i++) c = cursor_next<DTYPE>(w, first_pair, c);
    chunk->load(w.product, c.pair, min(c.first, w.packs - 1));
}

// Puts one task's sums away, which are in all lanes: lane r * COLUMNS + c takes those of column c and row r. best is
// the lane's highest rank so far.
template <int CACHE, int ROWS, bool WAITS>
__device__ static __forceinline__ void finish_task(const Work& w, const float (&sum)[COLUMNS][ROWS], Cursor cursor,
                                                   int first_pair, float bias, unsigned long long& best) {
    int lane = opaque((int)threadIdx.x) % GROUP, column = cursor.pair * COLUMNS + lane % COLUMNS, r = lane / COLUMNS;
    float mine = 0;
#pragma unroll
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        float total = group_sum(sum[i % COLUMNS][i / COLUMNS]);
        mine = lane == i ? total : mine;
    }
    if (cursor.slice == 0) mine += bias;
    if (r >= w.rows || column >= w.product.OC) return;
    if (w.product.slices > 1) {
        int local = (cursor.pair - w.share.first - first_pair) * COLUMNS + lane % COLUMNS;
        w.sums[(local * w.product.slices + cursor.slice) * ROWS + r] = mine;
        return;
    }
    deliver<CACHE, WAITS>(w.output, w.first_row + r, column, mine);
    if (w.forbidden != NULL && column != w.forbidden[r]) {
        unsigned long long rank = rank_of(mine, column);
        best = rank > best ? rank : best;
    }
}

// The tasks of a worker among `pairs` pairs of columns from the block's pair first_pair on. chunks hold the first ones'
// weights; each is loaded anew as soon as it has been used.
template <int DTYPE, int ROWS, bool WAITS, int DEPTH>
__device__ static __forceinline__ void multiply(Chunk<DTYPE>* chunks, const Work& w, int first_pair, int pairs,
                                                unsigned long long& best) {
    int tasks = pairs * w.slices, base = w.first_slice * w.slice_packs;
    int staged = min(w.slices * w.slice_packs, w.packs - base);
    Cursor now = cursor_at<DTYPE>(w, first_pair, worker()), ahead = now;
    float sum[COLUMNS][ROWS];
#pragma unroll
    for (int i = 0; i < COLUMNS * ROWS; i++) sum[i % COLUMNS][i / COLUMNS] = 0;
#pragma unroll
    for (int i = 0; i < DEPTH; i++) ahead = cursor_next<DTYPE>(w, first_pair, ahead);
    while (now.task < tasks) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            if (now.task >= tasks) break;
            chunks[i].template multiply<ROWS>(sum, w.in, w.in_stride, now.first, now.end, base, staged);
            float bias = chunks[i].bias;
            if (ahead.task < tasks) chunks[i].load(w.product, ahead.pair, ahead.first);
            Cursor next = DEPTH == 1 ? ahead : cursor_next<DTYPE>(w, first_pair, now);
            ahead = cursor_next<DTYPE>(w, first_pair, ahead);
            if (next.task != now.task) {
                finish_task<Format<DTYPE>::CACHE, ROWS, WAITS>(w, sum, now, first_pair, bias, best);
#pragma unroll
                for (int k = 0; k < COLUMNS * ROWS; k++) sum[k % COLUMNS][k / COLUMNS] = 0;
            }
            now = next;
        }
    }
}

// How often the workers meet to add up slices.
__device__ static __forceinline__ int slice_rounds(int OC) {
    return (block_share(OC).count + PARTIAL_PAIRS - 1) / PARTIAL_PAIRS;
}

// The same for a product that may be in slices. If it is: after every PARTIAL_PAIRS pairs of columns, or when the last
// slices have been multiplied, all threads of the block meet and the slices are added in their order.
template <int DTYPE, int ROWS, bool WAITS>
__device__ static __forceinline__ void multiply_slices(Chunk<DTYPE>* chunk, Work w, unsigned long long& best) {
    int slices = w.product.slices, thread = opaque((int)threadIdx.x) - READERS * GROUP;
    int at_once = slices == 1 ? max(1, w.share.count) : (int)PARTIAL_PAIRS;
    float* sums = w.sums;
    for (int first = 0, round = 0; first < w.share.count; first += at_once, round++) {
        int pairs = min(w.share.count - first, at_once);
        w.sums = sums + round % 2 * (PARTIAL_PAIRS * COLUMNS * slices * ROWS);
        if (first > 0) request<DTYPE>(chunk, w, first, 0); // the first round's are on their way
        multiply<DTYPE, ROWS, WAITS, 1>(chunk, w, first, pairs, best);
        if (w.first_slice + w.slices < slices || slices == 1) return;
        block_barrier();
        for (int i = thread; i < pairs * COLUMNS * w.rows; i += WORKERS * GROUP) {
            int local = i / w.rows, r = i % w.rows, column = (w.share.first + first) * COLUMNS + local;
            if (column >= w.product.OC) continue;
            float whole = w.sums[local * slices * ROWS + r];
            for (int s = 1; s < slices; s++) whole += w.sums[(local * slices + s) * ROWS + r];
            deliver<Format<DTYPE>::CACHE, WAITS>(w.output, w.first_row + r, column, whole);
        }
    }
}
// Where a stage's results go. `before` (rows, before_stride) is x as the stage found it.
template <int DTYPE>
__device__ static __forceinline__ StageOutput stage_output(const Decode& d, const Flow& flow, int stage, int layer,
                                                           const int* step, const float* before) {
    StageOutput o;
    o.kind = stage == STAGE_QKV    ? OUTPUT_QKV
             : stage == STAGE_FC   ? OUTPUT_GELU
             : stage == STAGE_HEAD ? OUTPUT_STORE
                                   : OUTPUT_ADD;
    o.stride = stage == STAGE_FC ? d.hidden_stride : stage == STAGE_HEAD ? d.V : d.stride;
    o.out = stage == STAGE_QKV       ? flow.q
            : stage == STAGE_ATTPROJ ? flow.middle
            : stage == STAGE_FC      ? flow.hidden
            : stage == STAGE_FCPROJ  ? flow.x
                                     : d.logits;
    o.before = before, o.before_stride = d.stride;
    o.keys = d.keys + (size_t)layer * d.cache_bytes, o.values = d.values + (size_t)layer * d.cache_bytes;
    o.step = step, o.heads = d.heads, o.rows = d.rows;
    return o;
}

// ---------------------------------------------------------------------------------------------------------------------
// Decoding: one launch for each stage

// Floats of shared memory that decode_stage() needs for `slices` slices of ROWS rows at once.
template <int DTYPE>
__host__ __device__ static __forceinline__ int stage_row_floats(int stride, int all_slices, int slices) {
    int packs = stride / Format<DTYPE>::PACK;
    return min((packs + all_slices - 1) / all_slices * slices, packs) * Format<DTYPE>::PACK;
}

// One stage of `d.rows` rows, ROWS of them per block of grid.y. Only as many slices of them are in shared memory at a
// time as have room there. For the head, row r is made from row r / count * pitch + first + r % count of x: `count`
// rows out of every `pitch`.
struct HeadRows {
    int count, pitch, first;
};

template <int DTYPE, int ROWS>
__global__ void __launch_bounds__(DECODE_THREADS) decode_stage(Decode all, int stage, int layer, const int* step,
                                                               HeadRows head, const Pick* picks, int slices_at_once) {
    const Decode& d = again(all);
    HIP_DYNAMIC_SHARED(float4, memory)
    __shared__ float sums[2 * PARTIAL_PAIRS * COLUMNS * 4 * ROWS];
    __shared__ unsigned long long best[WORKERS][ROWS];
    __shared__ int forbidden[ROWS];
    int first_row = (int)blockIdx.y * ROWS, rows = min((int)ROWS, d.rows - first_row);
    Product product = stage_product<DTYPE>(d, stage, layer);
    Work work = make_work<DTYPE>(product, stage_output<DTYPE>(d, d.flow, stage, layer, step, d.flow.x));
    int row_floats = stage_row_floats<DTYPE>(product.stride, product.slices, slices_at_once);
    int reader = (int)threadIdx.x / GROUP;
    unsigned long long lane_best = 0;
    work.in = (const float*)memory, work.in_stride = row_floats, work.slices = slices_at_once;
    work.first_row = first_row, work.rows = rows, work.sums = sums;
    if (d.best != NULL && (int)threadIdx.x < rows)
        forbidden[threadIdx.x] = picks[first_row + (int)threadIdx.x].forbidden;

    if (is_reader()) {
        for (int first = 0; first < product.slices; first += slices_at_once) {
            if (first > 0) block_barrier(); // the slices before were read
            int element = first * work.slice_packs * Format<DTYPE>::PACK;
            int part = max(0, min(row_floats, product.stride - element));
            for (int r = 0; r < rows; r++) {
                float* staged = (float*)memory + r * row_floats;
                int row = first_row + r;
                if (stage == STAGE_FCPROJ) {
                    stage_row<DTYPE, false>(staged, d.flow.hidden + (size_t)row * (size_t)d.hidden_stride, element,
                                            part, part);
                } else if (stage == STAGE_ATTPROJ) {
                    size_t heads = (size_t)d.heads.NH * (size_t)d.ranges * (size_t)(2 + d.heads.head_stride);
                    int num_ranges = (step[0] + row % d.heads.T) / RANGE + 1;
                    stage_attention<DTYPE, false>(staged, d, d.flow.partials + (size_t)row * heads, num_ranges);
                } else if (r % READERS == reader) {
                    int source =
                        stage == STAGE_HEAD ? row / head.count * head.pitch + head.first + row % head.count : row;
                    size_t at = (size_t)layer * (size_t)d.heads.C;
                    float sum = stage_x<DTYPE, false>(staged, NULL, d.flow.x + (size_t)source * (size_t)d.stride,
                                                      d.heads.C, d.stride);
                    staged_layernorm<DTYPE>(staged, sum, d.ln_weights[stage] + at, d.ln_biases[stage] + at, d.heads.C,
                                            d.stride);
                }
            }
            block_barrier();
        }
        if (product.slices > 1) {
            for (int i = slice_rounds(product.OC); i > 0; i--) block_barrier();
        }
    } else {
        Chunk<DTYPE> chunk;
        request<DTYPE>(&chunk, work, 0, 0);
        if (d.best != NULL) work.forbidden = forbidden;
        for (int first = 0; first < product.slices; first += slices_at_once) {
            work.first_slice = first, work.slices = min(slices_at_once, product.slices - first);
            if (first > 0) {
                block_barrier();
                request<DTYPE>(&chunk, work, 0, 0);
            }
            block_barrier();
            multiply_slices<DTYPE, ROWS, false>(&chunk, work, lane_best);
        }
    }
    if (d.best != NULL) keep_best<ROWS>(d.best + first_row, best, lane_best, rows);
}

// One block for each range of keys, head and row; ranges that the row has not got are left alone.
template <int CACHE>
__global__ void __launch_bounds__(READERS* GROUP) decode_attention(Decode d, int layer, const int* step) {
    HIP_DYNAMIC_SHARED(float4, memory)
    int row = (int)blockIdx.z, num_ranges = (step[0] + row % d.heads.T) / RANGE + 1;
    if ((int)blockIdx.x >= num_ranges) return;
    int number = (row * d.heads.NH + (int)blockIdx.y) * num_ranges + (int)blockIdx.x;
    Item item = make_item<CACHE>(d, layer, step, number, num_ranges);
    attend_range<CACHE, false>(attention_place((float*)memory, d.heads.head_stride), d, d.flow, item);
}

// ---------------------------------------------------------------------------------------------------------------------
// Decoding: the whole token in one launch

// What a step of the persistent kernel is about, handed over with the launch.
struct StepArguments {
    int position;
    int slots[PERSISTENT_ROWS], tokens[PERSISTENT_ROWS], forbidden[PERSISTENT_ROWS];
    bool is_greedy;    // without penalties: the highest logit but the forbidden token's
    const Pick* picks; // (rows): otherwise
    int* next;         // (rows): the tokens, -1 for none; left alone when a block has given up waiting
    int* arrived;      // blocks that are done, and how many of them have given up; 0 before and after
    int patience;      // looks at one place before a block gives up
    float* other;      // the memory between the stages that the next token will use, layer by layer
};

// The block's shared memory.
struct TokenPlace {
    float* in[2]; // (ROWS, stride) and (ROWS, hidden_stride): what the stage multiplies, in turn
    float* x[2];  // (ROWS, stride): x before and after attention
    float* sums;
    float* attention;
    int* step;      // [position, slots (ROWS)]
    int* tokens;    // (ROWS)
    int* forbidden; // (ROWS)
};

template <int ROWS>
__host__ __device__ static __forceinline__ int token_place_floats(int stride, int hidden_stride, int head_stride) {
    return ROWS * (3 * stride + hidden_stride) + 2 * PARTIAL_PAIRS * COLUMNS * 4 * ROWS +
           attention_place_floats(head_stride);
}

template <int ROWS>
__device__ static __forceinline__ TokenPlace token_place(float* memory, const Decode& d, int* numbers) {
    TokenPlace p;
    p.in[0] = memory, p.in[1] = p.in[0] + ROWS * d.stride;
    p.x[0] = p.in[1] + ROWS * d.hidden_stride, p.x[1] = p.x[0] + ROWS * d.stride;
    p.sums = p.x[1] + ROWS * d.stride, p.attention = p.sums + 2 * PARTIAL_PAIRS * COLUMNS * 4 * ROWS;
    p.step = numbers, p.tokens = numbers + 1 + ROWS, p.forbidden = numbers + 1 + 2 * ROWS;
    return p;
}

// The memory between the stages of one layer.
__device__ static __forceinline__ Flow flow_at(const Decode& d, int layer) {
    Flow flow = d.flow;
    size_t offset = (size_t)layer * d.layer_floats;
    flow.q += offset, flow.partials += offset, flow.middle += offset, flow.hidden += offset, flow.x += offset;
    return flow;
}

// How many items of a layer's attention are this block's.
__device__ static __forceinline__ int block_items(int all) {
    return (all - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
}

// The stage that half layer number `half` begins with; behind the last one, the head.
__device__ static __forceinline__ int half_begins_with(const Decode& d, int half) {
    return half == 2 * d.L ? STAGE_HEAD : half % 2 == 0 ? STAGE_QKV : STAGE_FC;
}

// Where the vectors of its LayerNorm begin, in floats.
__device__ static __forceinline__ size_t layernorm_at(const Decode& d, int layer, int stage) {
    return stage == STAGE_HEAD ? 0 : (size_t)layer * (size_t)d.heads.C;
}

// One of the readers' groups has the LayerNorm of half layer number `half` brought near.
__device__ static __forceinline__ void bring_layernorm(const Decode& d, int half) {
    int stage = half_begins_with(d, half);
    size_t at = layernorm_at(d, half / 2, stage);
    if ((int)threadIdx.x < GROUP) bring_near(d.ln_weights[stage] + at, d.ln_biases[stage] + at, d.heads.C);
}

// What the readers do before the first or second half of layer `layer`, qkv or fc, or after the last before the head: x
// as the half before left it, at first the embedding, with LayerNorm.
template <int DTYPE>
__device__ static __forceinline__ void read_x(const Decode& d, const TokenPlace& place, int layer, int stage) {
    Flow flow = flow_at(d, layer);
    size_t at = layernorm_at(d, layer, stage);
    const float *weight = d.ln_weights[stage] + at, *bias = d.ln_biases[stage] + at;
    const float* x = stage == STAGE_FC ? flow.middle : flow.x - d.layer_floats;
    for (int r = opaque((int)threadIdx.x) / GROUP; r < d.rows; r += READERS) {
        float *staged = place.in[0] + r * d.stride,
              *keep = (stage == STAGE_FC ? place.x[1] : place.x[0]) + r * d.stride, sum;
        touch(weight, bias, d.heads.C);
        if (layer == 0 && stage == STAGE_QKV)
            sum = stage_embedding<DTYPE>(staged, keep, d, place.tokens[r], place.step[0]);
        else sum = stage_x<DTYPE, true>(staged, keep, x + r * d.stride, d.heads.C, d.stride);
        staged_layernorm<DTYPE>(staged, sum, weight, bias, d.heads.C, d.stride);
    }
}

// Before attproj: this block's items of heads and ranges of keys, and then what has come of all of them.
template <int DTYPE>
__device__ static __forceinline__ void read_attention(const Decode& d, const TokenPlace& place, int layer) {
    enum { CACHE = Format<DTYPE>::CACHE };
    Flow flow = flow_at(d, layer);
    int num_ranges = place.step[0] / RANGE + 1, items = d.rows * d.heads.NH * num_ranges;
    size_t row_partials = (size_t)d.heads.NH * (size_t)d.ranges * (size_t)(2 + d.heads.head_stride);
    for (int i = (int)blockIdx.x; i < items; i += (int)gridDim.x) {
        Item item = make_item<CACHE>(d, layer, place.step, i, num_ranges);
        attend_range<CACHE, true>(attention_place(place.attention, d.heads.head_stride), d, flow, item);
    }
    for (int r = 0; r < d.rows; r++) {
        stage_attention<DTYPE, true>(place.in[1] + r * d.stride, d, flow.partials + (size_t)r * row_partials,
                                     num_ranges);
    }
}

// Before fcproj.
template <int DTYPE>
__device__ static __forceinline__ void read_hidden(const Decode& d, const TokenPlace& place, int layer) {
    const float* hidden = flow_at(d, layer).hidden;
    for (int r = 0; r < d.rows; r++) {
        stage_row<DTYPE, true>(place.in[1] + r * d.hidden_stride, hidden + r * d.hidden_stride, 0, 4 * d.heads.C,
                               d.hidden_stride);
    }
}

// Makes the memory between the stages that the next token will use EMPTY.
__device__ static __forceinline__ void clear_other(const Decode& d, float* other) {
    size_t quads = (size_t)d.L * d.layer_floats / 4, step = (size_t)gridDim.x * READERS * GROUP;
    for (size_t i = (size_t)blockIdx.x * READERS * GROUP + threadIdx.x; i < quads; i += step) {
        ((uint4*)other)[i] = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY);
    }
}

// All that the readers do for a token. A layer has two halves that are alike: LayerNorm and a wide product, then a
// product that adds to x.
template <int DTYPE> __device__ static __forceinline__ void read_token(const Decode& d, const TokenPlace& place) {
    int halves = 2 * d.L;
    for (int half = 0; half <= halves; half++) {
        int layer = half / 2;
        read_x<DTYPE>(again(d), place, layer, half_begins_with(d, half));
        block_barrier();
        if (half == halves) return;
        bring_layernorm(again(d), half + 1);
        if (half % 2 == 0) read_attention<DTYPE>(again(d), place, layer);
        else read_hidden<DTYPE>(again(d), place, layer);
        block_barrier();
        if (half % 2 == 0) continue;
        for (int i = slice_rounds(d.heads.C); i > 0; i--) block_barrier();
    }
}

// One stage's work in the persistent kernel.
template <int DTYPE>
__device__ static __forceinline__ Work token_work(const Decode& d, const TokenPlace& place, int stage, int layer) {
    bool is_second = stage == STAGE_FC || stage == STAGE_FCPROJ,
         is_residual = stage == STAGE_ATTPROJ || stage == STAGE_FCPROJ;
    StageOutput output =
        stage_output<DTYPE>(d, flow_at(d, layer), stage, layer, place.step, is_second ? place.x[1] : place.x[0]);
    Work w = make_work<DTYPE>(stage_product<DTYPE>(d, stage, layer), output);
    w.in = is_residual ? place.in[1] : place.in[0];
    w.in_stride = stage == STAGE_FCPROJ ? d.hidden_stride : d.stride;
    w.first_row = 0, w.rows = d.rows, w.sums = place.sums;
    return w;
}

// Starts the loads of a worker's chunk number `number` of a stage to come.
template <int DTYPE>
__device__ static __forceinline__ void request_stage(Chunk<DTYPE>* chunk, const Decode& d, const TokenPlace& place,
                                                     int stage, int layer, int number) {
    request<DTYPE>(chunk, token_work<DTYPE>(again(d), place, stage, layer), 0, number);
}

// All that the workers do for a token. Two chunks of weights are on their way at any time, each requested as soon as
// the one before it in the same registers was used: two stages, and their waits, ahead of its use.
template <int DTYPE, int ROWS>
__device__ static __forceinline__ void work_token(const Decode& d, const TokenPlace& place, unsigned long long& best) {
    int items = block_items(d.rows * d.heads.NH * (place.step[0] / RANGE + 1)), halves = 2 * d.L;
    Chunk<DTYPE> chunks[2];
    request_stage<DTYPE>(&chunks[0], d, place, STAGE_QKV, 0, 0);
    request_stage<DTYPE>(&chunks[1], d, place, STAGE_ATTPROJ, 0, 0);
    for (int half = 0; half < halves; half++) {
        bool is_first = half % 2 == 0, is_last = half + 1 == halves;
        int layer = half / 2, next = is_last ? 0 : (half + 1) / 2;
        unsigned long long none = 0;
        Work wide = token_work<DTYPE>(again(d), place, is_first ? STAGE_QKV : STAGE_FC, layer);
        block_barrier();
        multiply<DTYPE, ROWS, true, 1>(&chunks[0], wide, 0, wide.share.count, none);
        request_stage<DTYPE>(&chunks[0], d, place, is_last ? STAGE_HEAD : is_first ? STAGE_FC : STAGE_QKV, next, 0);
        for (int i = 0; is_first && i < 2 * items; i++) block_barrier();
        Work residual = token_work<DTYPE>(again(d), place, is_first ? STAGE_ATTPROJ : STAGE_FCPROJ, layer);
        block_barrier();
        multiply_slices<DTYPE, ROWS, true>(&chunks[1], residual, none);
        request_stage<DTYPE>(&chunks[1], d, place,
                             is_last    ? STAGE_HEAD
                             : is_first ? STAGE_FCPROJ
                                        : STAGE_ATTPROJ,
                             next, is_last);
    }
    Work head = token_work<DTYPE>(again(d), place, STAGE_HEAD, 0);
    head.forbidden = place.forbidden;
    block_barrier();
    multiply<DTYPE, ROWS, false, 2>(chunks, head, 0, head.share.count, best);
}

// The block that comes last picks the tokens, unless a block has given up.
__device__ static __forceinline__ void pick_when_last(const Decode& d, const StepArguments& step, PickState* state) {
    __shared__ bool is_last, is_whole;
    stores_arrive(); // the logits of all waves
    __syncthreads();
    if (threadIdx.x == 0) {
        if (patience_left() == 0) agent_arrive(step.arrived + 1);
        is_last = agent_arrive(step.arrived) == (int)gridDim.x - 1;
        is_whole = is_last && step.arrived[1] == 0;
    }
    __syncthreads();
    if (!is_last) return;
    for (int r = 0; r < d.rows; r++) {
        const float* logits = d.logits + (size_t)r * (size_t)d.V;
        if (is_whole && step.is_greedy && threadIdx.x == 0) step.next[r] = token_of_rank(d.best[r], logits);
        if (is_whole && !step.is_greedy)
            pick_row(state, step.next + r, d.logits + (size_t)r * (size_t)d.V, d.V, step.picks + r);
        if (threadIdx.x == 0) d.best[r] = 0;
    }
    if (threadIdx.x == 0) step.arrived[0] = step.arrived[1] = 0;
}

// One token of d.rows sequences, from embedding to pick. All blocks must be resident together.
template <int DTYPE, int ROWS>
__global__ void __launch_bounds__(DECODE_THREADS) decode_token(Decode d, StepArguments step) {
    HIP_DYNAMIC_SHARED(float4, memory)
    __shared__ int numbers[1 + 3 * ROWS];
    __shared__ unsigned long long best[WORKERS][ROWS];
    __shared__ PickState state;
    unsigned long long lane_best = 0;
    TokenPlace place = token_place<ROWS>((float*)memory, d, numbers);
    if (threadIdx.x == 0) {
        set_patience(step.patience);
        place.step[0] = step.position;
        for (int r = 0; r < ROWS; r++) {
            place.step[1 + r] = step.slots[r], place.tokens[r] = step.tokens[r], place.forbidden[r] = step.forbidden[r];
        }
    }
    __syncthreads();
    if (is_reader()) {
        read_token<DTYPE>(d, place);
        clear_other(again(d), step.other); // while the workers make the logits
    } else {
        work_token<DTYPE, ROWS>(d, place, lane_best);
    }
    keep_best<ROWS>(d.best, best, lane_best, d.rows);
    pick_when_last(d, step, &state);
}
// ---------------------------------------------------------------------------------------------------------------------
// Host: errors

// What went wrong in a call of HIP, and what helps. Returns false.
static bool hip_fail(Error* error, hipError_t status, const char* doing) {
    switch (status) {
    case hipErrorNoDevice:
        return fail(error,
                    "GPU: none found (%s); is the driver loaded, and may this user open /dev/kfd (group render)? "
                    "--device cpu runs without one",
                    hipGetErrorString(status));
    case hipErrorInsufficientDriver:
    case hipErrorNotInitialized:
        return fail(error, "GPU: the driver does not answer or is too old (%s); update it, or use --device cpu",
                    hipGetErrorString(status));
    case hipErrorNoBinaryForGpu:
    case hipErrorSharedObjectInitFailed: // what newer runtimes say instead
    case hipErrorInvalidDeviceFunction:
        return fail(error,
                    "GPU: this program holds no code for the card (%s); build it with make GPU_TARGETS=<arch>, "
                    "--list-devices names the arch",
                    hipGetErrorString(status));
    case hipErrorOutOfMemory:
        return fail(error, "GPU: no memory left while %s; use --dtype q8, a smaller --ctx or -b, or --device cpu",
                    doing);
    default:
        return fail(error,
                    "GPU: error %d while %s (%s); the kernel log may say more, --device cpu runs without the card",
                    (int)status, doing, hipGetErrorString(status));
    }
}

static bool hip_ok(hipError_t status, const char* doing, Error* error) {
    return status == hipSuccess || hip_fail(error, status, doing);
}

// After a launch: was it accepted?
static bool launched(const char* kernel, Error* error) {
    return hip_ok(hipGetLastError(), kernel, error);
}

// ---------------------------------------------------------------------------------------------------------------------
// Host: the device and its memory

// How a decode step gets onto the card: stage by stage, the same as one captured graph, or as one kernel.
enum Route { ROUTE_LAUNCHES, ROUTE_GRAPH, ROUTE_PERSISTENT, NUM_ROUTES };
static const char* const route_names[NUM_ROUTES] = {"launches", "graph", "persistent"};

typedef void (*TokenKernel)(Decode, StepArguments);

// A point of the stream for a profile: where an operation ends, or (NO_OPERATION) where the next one begins.
enum { NO_OPERATION = -1 };
struct Mark {
    hipEvent_t event;
    int operation;
    CallShape shape;
};

// What has been enqueued since the stream was last waited for.
struct Timeline {
    Mark* marks; // (capacity)
    int num_marks, capacity;
};

struct Device {
    const GPT2Model* model;
    DeviceOptions options;
    Timeline* timeline; // NULL: nothing is timed
    char description[320];
    hipStream_t stream;
    hipGraphExec_t graph; // a decode step of graph_B sequences with its pick, or NULL
    int graph_B;
    bool has_no_graphs; // the runtime refused to capture one, or the steps are looked into
    Route route;
    int compute_units;
    int blocks_per_unit;                 // of the persistent kernel
    int max_blocks[PERSISTENT_ROWS + 1]; // of it per compute unit, by the number of rows; 0: it does not run here
    bool is_out_of_memory;               // the last allocation found no room
    void* allocations[MAX_ALLOCATIONS];
    void* host_allocations[MAX_ALLOCATIONS];
    int num_allocations, num_host_allocations;

    Heads heads;       // but for T
    int stride;        // floats in a row of (rows, C)
    int hidden_stride; // of (rows, 4C)
    int max_rows;      // rows of one chunk
    int head_rows;     // rows that get their logits together
    int matrix_lanes;  // lanes of the matrix instructions that long runs multiply by; 0: by none

    // on the card
    Matrix matrices[NUM_PARAMETERS]; // all layers of the EMBEDDING and LINEAR parameters
    float* vectors[NUM_PARAMETERS];  // all layers of the VECTOR parameters, unpadded
    float* x;                        // (max_rows, stride) the residual stream
    float* normed;                   // (max_rows, stride)
    float* q;                        // (max_rows, NH, head_stride)
    float* att;                      // (max_rows, stride)
    float* hidden;                   // (max_rows, hidden_stride)
    float* partials;                 // (rows of a decode chunk, NH, ranges, 2 + head_stride)
    unsigned long long* best;        // (max_batch) highest ranks, 0 between tokens
    float* flow[2];  // persistent: (L, layer_floats), what one stage leaves for the next; EMPTY before use
    int flow_in_use; // the one that the next token takes
    size_t layer_floats;
    int* arrived;             // persistent: [blocks that are done, those that have given up], 0 between tokens
    int patience;             // persistent: StepArguments'
    uint16_t* rounded_normed; // for matrix instructions, NULL where there are none: normed, (max_rows, stride)
    uint16_t* rounded_att;    // att, the same
    uint16_t* rounded_hidden; // hidden, (max_rows, hidden_stride)
    char* keys;               // (L, max_batch, NH, maxT, head_stride) of cache_format()
    char* values;             // the same
    float* logits;            // (head_rows, V); NULL with cpu_logits
    int* step;                // [position, slots (max_batch), tokens (max_rows)]
    Pick* picks;              // (max_batch)
    int* next;                // (max_batch)

    // in pinned host memory, to and from which copies run without a stop
    int* host_step;
    Pick* host_picks;
    int* host_next;
    float* host_hidden;    // cpu_logits: (head_rows, stride)
    char* host_rows;       // cpu_logits: (max_rows) rows of wte in the card's format
    uint16_t* host_scales; // and their scales
    float* host_logits;    // cpu_logits: (max_batch, V), of the last choice; not pinned
};

static int round_up(int n, int multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Bytes of one row of a matrix with `cols` columns on the card, and its scales.
static size_t card_stride(size_t cols) {
    return (cols + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}
static size_t card_row_bytes(const Device* d, size_t cols) {
    return card_stride(cols) * dtype_size(d->options.dtype);
}
static size_t card_row_scales(const Device* d, size_t cols) {
    return d->options.dtype == DTYPE_Q8 ? card_stride(cols) / Q8_BLOCK : 0;
}

// Memory on the card, cleared: the padding of rows and heads stays 0 for good. Freed by close.
static bool card_allocate(Device* d, void** memory, size_t bytes, const char* what, Error* error) {
    hipError_t status = hipMalloc(memory, bytes);
    d->is_out_of_memory = status == hipErrorOutOfMemory;
    if (d->is_out_of_memory) {
        size_t free_bytes = 0, total = 0;
        (void)hipGetLastError(); // or the next launch would be blamed for it
        if (!hip_ok(hipMemGetInfo(&free_bytes, &total), "asking for free memory", error)) return false;
        return fail(error,
                    "GPU %d: no memory for %s (%.1f MB, %.1f of %.1f MB are free); use --dtype q8, a smaller --ctx "
                    "or -b, --cpu-logits, or --device cpu",
                    d->options.gpu, what, 1e-6 * (double)bytes, 1e-6 * (double)free_bytes, 1e-6 * (double)total);
    }
    if (!hip_ok(status, what, error)) return false;
    d->allocations[d->num_allocations++] = *memory;
    return hip_ok(hipMemset(*memory, 0, bytes), "clearing memory", error);
}

template <class T> static bool card_array(Device* d, T** array, size_t count, const char* what, Error* error) {
    return card_allocate(d, (void**)array, count * sizeof(T), what, error);
}

template <class T> static bool host_array(Device* d, T** array, size_t count, const char* what, Error* error) {
    void* memory = NULL;
    if (!hip_ok(hipHostMalloc(&memory, count * sizeof(T), hipHostMallocDefault), what, error)) return false;
    d->host_allocations[d->num_host_allocations++] = memory;
    *array = (T*)memory;
    return true;
}

// Row `row` of all layers' rows of a matrix, rounded to the card's format and padded with zeros. `wide` holds a row.
static void card_row(const Device* d, char* out, uint16_t* scales, const Tensor* matrix, size_t row, size_t cols,
                     float* wide) {
    memset(out, 0, card_row_bytes(d, cols));
    if (matrix->dtype == d->options.dtype) {
        size_t bytes = dtype_stride_bytes(matrix->dtype, cols);
        memcpy(out, (const char*)matrix->data + row * bytes, bytes);
        size_t n = card_row_scales(d, cols);
        if (n > 0) memcpy(scales, matrix->scales + row * n, n * sizeof *scales);
    } else {
        gpt2_matrix_row(wide, matrix, row, cols);
        row_from_f32(out, scales, wide, d->options.dtype, cols);
    }
}

// Uploads all layers of one matrix in pieces that are converted on the way; what already lies as the card wants it
// goes up straight from where it is.
static bool upload_matrix(Device* d, ParameterId id, Error* error) {
    ParameterShape shape = gpt2_parameter_shape(id, &d->model->config);
    const Tensor* matrix = &d->model->tensors[id];
    size_t rows = shape.layers * shape.rows, row_bytes = card_row_bytes(d, shape.cols);
    size_t row_scales = card_row_scales(d, shape.cols), scales_bytes = rows * row_scales * sizeof(uint16_t);
    char* data;
    uint16_t* scales = NULL;
    if (!card_array(d, &data, rows * row_bytes, shape.name, error)) return false;
    if (row_scales > 0 && !card_array(d, &scales, rows * row_scales, shape.name, error)) return false;
    d->matrices[id].data = data, d->matrices[id].scales = scales;
    if (matrix->dtype == d->options.dtype && dtype_row_stride(matrix->dtype, shape.cols) == card_stride(shape.cols)) {
        return hip_ok(hipMemcpy(data, matrix->data, rows * row_bytes, hipMemcpyHostToDevice), shape.name, error) &&
               (row_scales == 0 ||
                hip_ok(hipMemcpy(scales, matrix->scales, scales_bytes, hipMemcpyHostToDevice), shape.name, error));
    }
    size_t piece = max((size_t)1, min(rows, ((size_t)4 << 20) / row_bytes));
    size_t piece_bytes = piece * row_bytes; // a multiple of 4, so the floats behind it are aligned
    size_t wide_bytes = card_stride(shape.cols) * sizeof(float);
    char* staging =
        (char*)allocate(piece_bytes + wide_bytes + piece * row_scales * sizeof(uint16_t), 1, "upload", error);
    if (staging == NULL) return false;
    float* wide = (float*)(void*)(staging + piece_bytes);
    uint16_t* staged_scales = (uint16_t*)(void*)(staging + piece_bytes + wide_bytes);
    bool ok = true;
    for (size_t first = 0; ok && first < rows; first += piece) {
        size_t n = min(piece, rows - first);
        for (size_t r = 0; r < n; r++) {
            card_row(d, staging + r * row_bytes, staged_scales + r * row_scales, matrix, first + r, shape.cols, wide);
        }
        ok = hip_ok(hipMemcpy(data + first * row_bytes, staging, n * row_bytes, hipMemcpyHostToDevice), shape.name,
                    error);
        if (ok && row_scales > 0) {
            ok = hip_ok(hipMemcpy(scales + first * row_scales, staged_scales, n * row_scales * sizeof *scales,
                                  hipMemcpyHostToDevice),
                        shape.name, error);
        }
    }
    free(staging);
    return ok;
}

static bool upload_vector(Device* d, ParameterId id, Error* error) {
    ParameterShape shape = gpt2_parameter_shape(id, &d->model->config);
    size_t n = shape.layers * shape.rows * shape.cols;
    return card_array(d, &d->vectors[id], n, shape.name, error) &&
           hip_ok(hipMemcpy(d->vectors[id], d->model->tensors[id].data, n * sizeof(float), hipMemcpyHostToDevice),
                  shape.name, error);
}

// All weights but wte, which may turn out not to fit.
static bool upload_weights(Device* d, Error* error) {
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterId parameter = (ParameterId)id;
        if (parameter == WTE) continue;
        bool is_vector = gpt2_parameter_shape(parameter, &d->model->config).kind == VECTOR;
        if (!(is_vector ? upload_vector(d, parameter, error) : upload_matrix(d, parameter, error))) return false;
    }
    return true;
}

// Bytes of one layer of the key or value cache.
static size_t cache_layer_bytes(const Device* d) {
    return (size_t)d->options.max_batch * (size_t)d->heads.NH * (size_t)d->heads.maxT * (size_t)d->heads.head_stride *
           dtype_size((DType)cache_format(d->options.dtype));
}

// Ranges of keys that a cache may have, and floats that the attention of one row leaves for them.
static int max_ranges(const Device* d) {
    return (d->heads.maxT + RANGE - 1) / RANGE;
}
static size_t partial_floats(const Device* d) {
    return (size_t)d->heads.NH * (size_t)max_ranges(d) * (size_t)(2 + d->heads.head_stride);
}

static TokenKernel token_kernel(const Device* d, int rows);
static size_t token_shared_bytes(const Device* d, int rows);

// Finds out for how many rows the persistent kernel runs here, and makes the memory between its stages. A runtime that
// cannot say counts as one that cannot.
static bool plan_persistent(Device* d, Error* error) {
    size_t rows = (size_t)min(d->options.max_batch, (int)PERSISTENT_ROWS), L = (size_t)d->model->config.num_layers;
    int is_cooperative = 0;
    if (hipDeviceGetAttribute(&is_cooperative, hipDeviceAttributeCooperativeLaunch, d->options.gpu) != hipSuccess)
        is_cooperative = 0;
    for (int r = 1; r <= (int)rows && is_cooperative && !d->options.cpu_logits; r++) {
        size_t bytes = token_shared_bytes(d, r);
        TokenKernel kernel = token_kernel(d, r);
        if (bytes <= PERSISTENT_SHARED &&
            hipFuncSetAttribute((const void*)kernel, hipFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) ==
                hipSuccess &&
            hipOccupancyMaxActiveBlocksPerMultiprocessor(&d->max_blocks[r], kernel, DECODE_THREADS, bytes) ==
                hipSuccess)
            continue;
        d->max_blocks[r] = 0;
    }
    (void)hipGetLastError();
    if (d->max_blocks[1] == 0) return true;
    d->blocks_per_unit = 1;
    d->layer_floats = rows * (3 * (size_t)d->heads.NH * (size_t)d->heads.head_stride + partial_floats(d) +
                              2 * (size_t)d->stride + (size_t)d->hidden_stride);
    d->layer_floats = (d->layer_floats + 3) / 4 * 4;
    for (int i = 0; i < 2; i++) {
        if (!card_array(d, &d->flow[i], L * d->layer_floats, "activations", error) ||
            !hip_ok(hipMemset(d->flow[i], 0xff, L * d->layer_floats * sizeof(float)), "clearing memory", error))
            return false;
    }
    return true;
}

// Everything that a token needs, for good.
static bool plan_memory(Device* d, Error* error) {
    size_t rows = (size_t)d->max_rows, batch = (size_t)d->options.max_batch, L = (size_t)d->model->config.num_layers;
    size_t step = 1 + batch + rows, head_floats = (size_t)d->heads.NH * (size_t)d->heads.head_stride;
    size_t cache = L * cache_layer_bytes(d), stride = (size_t)d->stride, decode_rows = min(rows, batch * DECODE_TOKENS);
    return card_array(d, &d->x, rows * stride, "activations", error) &&
           card_array(d, &d->normed, rows * stride, "activations", error) &&
           card_array(d, &d->q, rows * head_floats, "activations", error) &&
           card_array(d, &d->att, rows * stride, "activations", error) &&
           card_array(d, &d->hidden, rows * (size_t)d->hidden_stride, "activations", error) &&
           card_array(d, &d->partials, decode_rows * partial_floats(d), "activations", error) &&
           card_array(d, &d->best, batch, "activations", error) &&
           card_array(d, &d->arrived, 2, "activations", error) &&
           card_array(d, &d->keys, cache, "the KV cache", error) &&
           card_array(d, &d->values, cache, "the KV cache", error) && card_array(d, &d->step, step, "tokens", error) &&
           card_array(d, &d->picks, batch, "tokens", error) &&
           card_array(d, &d->next, max(batch, (size_t)PROBE_ANSWERS), "tokens", error) &&
           host_array(d, &d->host_step, step, "tokens in pinned memory", error) &&
           host_array(d, &d->host_picks, batch, "tokens in pinned memory", error) &&
           host_array(d, &d->host_next, max(batch, (size_t)PROBE_ANSWERS), "tokens in pinned memory", error) &&
           plan_persistent(d, error);
}

// What the matrix instructions of long runs read, on a card that has them. With f32 weights their rounding would show.
static bool plan_matrix_products(Device* d, Error* error) {
    size_t rows = (size_t)d->max_rows;
    if (d->options.dtype == DTYPE_F32) d->matrix_lanes = 0;
    if (d->matrix_lanes == 0) return true;
    return card_array(d, &d->rounded_normed, rows * (size_t)d->stride, "activations", error) &&
           card_array(d, &d->rounded_att, rows * (size_t)d->stride, "activations", error) &&
           card_array(d, &d->rounded_hidden, rows * (size_t)d->hidden_stride, "activations", error);
}

// The head on the card: wte and the logits.
static bool plan_card_head(Device* d, Error* error) {
    size_t logits = (size_t)d->head_rows * (size_t)d->model->config.vocab_size;
    return upload_matrix(d, WTE, error) && card_array(d, &d->logits, logits, "logits", error);
}

// The head on the CPU: rows of wte go up with the tokens, hidden states come back.
static bool plan_cpu_head(Device* d, Error* error) {
    size_t rows = (size_t)d->max_rows, C = (size_t)d->model->config.channels;
    size_t row_bytes = card_row_bytes(d, C), row_scales = card_row_scales(d, C);
    char* data;
    uint16_t* scales = NULL;
    if (!card_array(d, &data, rows * row_bytes, "embeddings", error)) return false;
    if (row_scales > 0 && !card_array(d, &scales, rows * row_scales, "embeddings", error)) return false;
    d->matrices[WTE].data = data, d->matrices[WTE].scales = scales;
    d->host_logits = (float*)allocate((size_t)d->options.max_batch, (size_t)d->model->config.vocab_size * sizeof(float),
                                      "logits", error);
    return d->host_logits != NULL &&
           host_array(d, &d->host_rows, rows * row_bytes, "embeddings in pinned memory", error) &&
           host_array(d, &d->host_scales, max((size_t)1, rows * row_scales), "embeddings in pinned memory", error) &&
           host_array(d, &d->host_hidden, (size_t)d->head_rows * (size_t)d->stride, "hidden states in pinned memory",
                      error);
}

// Frees what was allocated on the card since there were `count` allocations.
static void card_free_from(Device* d, int count) {
    while (d->num_allocations > count) (void)hipFree(d->allocations[--d->num_allocations]);
}

// Runs the smallest kernel there is, so that a card that cannot run ours is found out before anything else happens.
static bool probe_card(Device* d, int* wave_size, Error* error) {
    hipLaunchKernelGGL(probe, dim3(1), dim3(THREADS), 0, d->stream, d->next);
    if (!launched("starting the first kernel", error) ||
        !hip_ok(hipMemcpyAsync(d->host_next, d->next, PROBE_ANSWERS * sizeof(int), hipMemcpyDeviceToHost, d->stream),
                "probing", error) ||
        !hip_ok(hipStreamSynchronize(d->stream), "running the first kernel", error))
        return false;
    *wave_size = d->host_next[0], d->matrix_lanes = d->host_next[1];
    return *wave_size == 32 || *wave_size == 64 ||
           fail(error, "GPU %d: kernels do not run, the first one gave %d; was the program built for this card?",
                d->options.gpu, *wave_size);
}

static void close_timeline(Timeline* timeline) {
    if (timeline == NULL) return;
    for (int i = 0; i < timeline->capacity; i++) {
        if (timeline->marks[i].event != NULL) (void)hipEventDestroy(timeline->marks[i].event);
    }
    free(timeline->marks);
    free(timeline);
}

// Room for the marks of one chunk: a beginning, the embedding, five operations per layer, and a beginning and an end of
// the head.
static bool open_timeline(Device* d, Error* error) {
    Timeline* timeline = d->timeline = (Timeline*)allocate(1, sizeof *timeline, "profile", error);
    if (timeline == NULL) return false;
    int capacity = 4 + (NUM_OPERATIONS - 2) * d->model->config.num_layers;
    timeline->num_marks = timeline->capacity = 0;
    timeline->marks = (Mark*)allocate((size_t)capacity, sizeof *timeline->marks, "profile", error);
    if (timeline->marks == NULL) return false;
    for (; timeline->capacity < capacity; timeline->capacity++) {
        if (!hip_ok(hipEventCreate(&timeline->marks[timeline->capacity].event), "creating an event", error))
            return false;
    }
    return true;
}

static void hip_close(Device* d) {
    if (d == NULL) return;
    close_timeline(d->timeline);
    if (d->graph != NULL) (void)hipGraphExecDestroy(d->graph);
    card_free_from(d, 0);
    while (d->num_host_allocations > 0) (void)hipHostFree(d->host_allocations[--d->num_host_allocations]);
    if (d->stream != NULL) (void)hipStreamDestroy(d->stream);
    free(d->host_logits);
    free(d);
}

// May HIP be called at all? An old runtime ends the process where a GPU has no code here. It sees those that the user's
// settings leave it, as what the user says that they are; where there is such a setting, it is taken to be right.
static bool may_call_hip(Error* error) {
#if defined(HIP_CODE) && HIP_VERSION_MAJOR < 6
    static const char* const settings[] = {"HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
                                           "GPU_DEVICE_ORDINAL", "HSA_OVERRIDE_GFX_VERSION"};
    char target[16];
    for (const char* name : settings) {
        if (getenv(name) != NULL) return true;
    }
    if (kfd_has_other_gpu(target, KFD_TOPOLOGY, HIP_CODE)) {
        return fail(error,
                    "GPU: this program holds no code for this machine's %s, where HIP %d ends programs; build it with "
                    "make GPU_TARGETS=\"%s %s\", or hide that GPU by HIP_VISIBLE_DEVICES",
                    target, HIP_VERSION_MAJOR, HIP_CODE, target);
    }
#endif
    (void)error;
    return true;
}

extern "C" int gpt2_hip_count(Error* error) {
    int count = 0;
    if (!may_call_hip(error)) return 0;
    hipError_t status = hipGetDeviceCount(&count);
    (void)hipGetLastError();
    if (status == hipSuccess && count == 0) status = hipErrorNoDevice;
    return hip_ok(status, "looking for GPUs", error) ? count : 0;
}

// How many times each line of the memory's bus transfers in a clock as drivers count it, by the kind of memory that
// chips of the family have.
static int transfers_per_clock(const char* arch) {
    static const struct {
        const char* family;
        int transfers;
    } kinds[] = {
        {"gfx94", 4},   {"gfx95", 4},                                  // HBM3
        {"gfx1035", 8}, {"gfx1036", 8}, {"gfx1103", 8}, {"gfx115", 8}, // LPDDR5
        {"gfx10", 16},  {"gfx11", 16},  {"gfx12", 16},                 // GDDR6
    };
    for (const auto& kind : kinds) {
        if (strncmp(arch, kind.family, strlen(kind.family)) == 0) return kind.transfers;
    }
    return 2; // HBM2, and what NVIDIA's driver calls a clock
}

extern "C" bool gpt2_hip_info(GpuInfo* info, int gpu, Error* error) {
    hipDeviceProp_t properties;
    int clock_khz = 0, bus_bits = 0;
    if (!hip_ok(hipGetDeviceProperties(&properties, gpu), "asking what the GPU is", error)) return false;
    // a driver that does not know the memory's clock or width is no reason to fail
    if (hipDeviceGetAttribute(&clock_khz, hipDeviceAttributeMemoryClockRate, gpu) != hipSuccess) clock_khz = 0;
    if (hipDeviceGetAttribute(&bus_bits, hipDeviceAttributeMemoryBusWidth, gpu) != hipSuccess) bus_bits = 0;
    (void)hipGetLastError();
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, properties.name);
    snprintf(info->arch, sizeof info->arch, "%.*s", (int)sizeof info->arch - 1, properties.gcnArchName);
    info->memory = properties.totalGlobalMem;
    info->wave_size = properties.warpSize;
    info->compute_units = properties.multiProcessorCount;
    info->bandwidth = 1e3 * clock_khz * transfers_per_clock(info->arch) * bus_bits / 8;
    return true;
}

static void describe_device(Device* d, const GpuInfo* info, int wave_size, const char* head_note) {
    char blocks[32] = "";
    if (d->route == ROUTE_PERSISTENT)
        snprintf(blocks, sizeof blocks, " (%d blocks)", d->blocks_per_unit * d->compute_units);
    snprintf(d->description, sizeof d->description, "GPU %d, %s, %s, wave%d, %d multiprocessors, %.1f GB, %s, %s%s%s",
             d->options.gpu, info->name, info->arch, wave_size, info->compute_units, 1e-9 * (double)info->memory,
             dtype_names[d->options.dtype], route_names[d->route], blocks, head_note);
}

// The head on the card if it fits and the user has nothing against it, else on the CPU. Returns in `note` what the
// report should say about it.
static bool plan_head(Device* d, const char** note, Error* error) {
    *note = "";
    int before = d->num_allocations;
    if (!d->options.cpu_logits) {
        if (plan_card_head(d, error)) return true;
        if (!d->is_out_of_memory) return false;
        card_free_from(d, before);
        d->logits = NULL;
        d->options.cpu_logits = true;
        *note = ", logits on the CPU since the head does not fit";
    } else {
        *note = ", logits on the CPU";
    }
    return plan_cpu_head(d, error);
}

static bool choose_route(Device* d, Error* error);

static bool hip_open_device(Device* d, Error* error) {
    int count = gpt2_hip_count(error), wave_size;
    if (count == 0) return false;
    if (d->options.gpu < 0 || d->options.gpu >= count) {
        return fail(error, "--device gpu:%d: there %s; --list-devices shows what there is", d->options.gpu,
                    count == 1 ? "is one GPU, number 0" : "are fewer GPUs");
    }
    GpuInfo info;
    const char* head_note;
    if (!hip_ok(hipSetDevice(d->options.gpu), "selecting the GPU", error) ||
        !gpt2_hip_info(&info, d->options.gpu, error) ||
        !hip_ok(hipStreamCreate(&d->stream), "creating a stream", error) ||
        (d->options.profile != NULL && !open_timeline(d, error))) {
        return false;
    }
    d->compute_units = max(1, info.compute_units);
    if (!plan_memory(d, error) || !probe_card(d, &wave_size, error) || !plan_matrix_products(d, error) ||
        !upload_weights(d, error) || !plan_head(d, &head_note, error) || !choose_route(d, error)) {
        return false;
    }
    describe_device(d, &info, wave_size, head_note);
    return hip_ok(hipStreamSynchronize(d->stream), "uploading the weights", error);
}

// Rows of activations, and the place of a head, must fit into the shared memory that every card has.
static bool shape_ok(const GPT2Config* config, Error* error) {
    int stride = round_up(config->channels, ROW_ALIGN),
        head_stride = round_up(config->channels / config->num_heads, HEAD_ALIGN);
    return ((size_t)stride * sizeof(float) <= DECODE_SHARED &&
            (size_t)attention_place_floats(head_stride) * sizeof(float) <= DECODE_SHARED) ||
           fail(error,
                "GPU: %d channels in %d heads are too wide for its kernels, which take 10000 channels and heads of "
                "1400; "
                "use --device cpu",
                config->channels, config->num_heads);
}

static Device* hip_open(const GPT2Model* model, const DeviceOptions* options, Error* error) {
    const GPT2Config* config = &model->config;
    if (!shape_ok(config, error)) return NULL;
    Device* d = (Device*)allocate(1, sizeof *d, "GPU device", error);
    if (d == NULL) return NULL;
    memset((void*)d, 0, sizeof *d);
    d->model = model;
    d->options = *options;
    d->heads.C = config->channels, d->heads.NH = config->num_heads, d->heads.hs = config->channels / config->num_heads;
    d->heads.head_stride = round_up(d->heads.hs, HEAD_ALIGN);
    d->heads.maxT = options->max_seq_len;
    d->stride = round_up(config->channels, ROW_ALIGN);
    d->hidden_stride = round_up(4 * config->channels, ROW_ALIGN);
    size_t most_rows = (size_t)options->max_batch * (size_t)options->max_seq_len;
    d->max_rows = max(options->max_batch, (int)min((size_t)PREFILL_ROWS, most_rows));
    d->head_rows = min(d->max_rows, max(options->max_batch, (int)DECODE_ROWS));
    d->has_no_graphs = options->profile != NULL || options->residuals != NULL;
    d->patience = PATIENCE;
    if (!hip_open_device(d, error)) {
        hip_close(d);
        return NULL;
    }
    return d;
}

static const char* hip_describe(const Device* d) {
    return d->description;
}

// ---------------------------------------------------------------------------------------------------------------------
// Host: looking inside

// For the profile: the operation that has just been enqueued ends here. It was for T tokens of each of B sequences,
// `first` tokens after the chunk's beginning.
static bool mark_from(const Device* d, int operation, int B, int T, int first, Error* error) {
    Timeline* timeline = d->timeline;
    if (timeline == NULL) return true;
    Mark* m = &timeline->marks[timeline->num_marks++];
    m->operation = operation;
    m->shape.B = B, m->shape.T = T, m->shape.position = d->host_step[0] + first;
    return hip_ok(hipEventRecord(m->event, d->stream), "taking the time", error);
}

static bool mark(const Device* d, int operation, int B, int T, Error* error) {
    return mark_from(d, operation, B, T, 0, error);
}

// After the stream has been waited for: records how long the marked operations took, and forgets them.
static bool collect_times(const Device* d, Error* error) {
    Timeline* timeline = d->timeline;
    if (timeline == NULL) return true;
    for (int i = 1; i < timeline->num_marks; i++) {
        const Mark* m = &timeline->marks[i];
        float milliseconds = 0;
        if (m->operation == NO_OPERATION) continue;
        if (!hip_ok(hipEventElapsedTime(&milliseconds, timeline->marks[i - 1].event, m->event), "reading the time",
                    error))
            return false;
        profile_add(d->options.profile, 0, (Operation)m->operation, m->shape, 1e-3 * (double)milliseconds, 0);
    }
    timeline->num_marks = 0;
    return true;
}

// If it was asked for, copies the residual stream of B sequences of T new tokens to DeviceOptions.residuals: at level 0
// as the embedding made it, at level l as layer l - 1 left it.
static bool keep_residual(const Device* d, int level, int B, int T, Error* error) {
    if (d->options.residuals == NULL) return true;
    size_t C = (size_t)d->heads.C, stride = (size_t)d->stride, maxT = (size_t)d->options.max_seq_len;
    for (int b = 0; b < B; b++) {
        size_t slot = (size_t)level * (size_t)d->options.max_batch + (size_t)d->host_step[1 + b];
        float* out = d->options.residuals + (slot * maxT + (size_t)d->host_step[0]) * C;
        const float* x = d->x + (size_t)b * (size_t)T * stride;
        if (!hip_ok(hipMemcpy2DAsync(out, C * sizeof(float), x, stride * sizeof(float), C * sizeof(float), (size_t)T,
                                     hipMemcpyDeviceToHost, d->stream),
                    "downloading the residual stream", error))
            return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Host: one pass through the model

// One layer of a matrix on the card.
static Matrix layer_matrix(const Device* d, ParameterId id, int layer) {
    ParameterShape shape = gpt2_parameter_shape(id, &d->model->config);
    Matrix matrix = d->matrices[id];
    size_t row = (size_t)layer * shape.rows;
    matrix.data = (const char*)matrix.data + row * card_row_bytes(d, shape.cols);
    if (matrix.scales != NULL) matrix.scales += row * card_row_scales(d, shape.cols);
    return matrix;
}

static const float* layer_vector(const Device* d, ParameterId id, int layer) {
    return d->vectors[id] + (size_t)layer * gpt2_parameter_shape(id, &d->model->config).cols;
}

// What goes from one kernel of a layer to the next: f32, but in long runs rounded for matrix instructions.
struct Activations {
    Activation normed, att, hidden;
};

static Activations activations(const Device* d) {
    Activations wide = {{d->normed, DTYPE_F32}, {d->att, DTYPE_F32}, {d->hidden, DTYPE_F32}};
    int format = matrix_format(d->options.dtype);
    Activations rounded = {{d->rounded_normed, format}, {d->rounded_att, format}, {d->rounded_hidden, format}};
    return d->matrix_lanes == 0 ? wide : rounded;
}

template <class Shape, int DTYPE, int SIZE>
static void launch_tiles(const Device* d, const Output& output, const uint16_t* in, Matrix weight, const float* bias,
                         int rows, int stride, int OC) {
    dim3 tiles((unsigned)((rows + SIZE - 1) / SIZE), (unsigned)((OC + SIZE - 1) / SIZE));
    typedef Tiling<Shape, SIZE> Tile;
    dim3 threads((unsigned)(Tile::DOWN * Tile::ACROSS * d->matrix_lanes)); // the host does not know what Shape is there
    hipLaunchKernelGGL((matrix_matmul<Shape, DTYPE, SIZE>), tiles, threads, 0, d->stream, output, in, weight, bias,
                       rows, stride, OC);
}

// What the busiest compute unit does for a product in tiles of SIZE: the fragments that it reads from shared memory,
// per step of depth. Large tiles read each number less often, small ones spread over more units.
template <int SIZE> static size_t tile_work(const Device* d, int rows, int OC) {
    typedef Tiling<NativeShape, SIZE> Tile;
    size_t tiles = (size_t)((rows + SIZE - 1) / SIZE) * (size_t)((OC + SIZE - 1) / SIZE),
           units = (size_t)d->compute_units;
    return (tiles + units - 1) / units * (size_t)(Tile::DOWN * Tile::ACROSS * (Tile::ROWS + Tile::COLUMNS));
}

template <class Shape, int DTYPE>
static void launch_matrix_matmul(const Device* d, const Output& output, const uint16_t* in, Matrix weight,
                                 const float* bias, int rows, int stride, int OC) {
    size_t large = tile_work<128>(d, rows, OC), medium = tile_work<64>(d, rows, OC), small = tile_work<32>(d, rows, OC);
    if (large < medium && large < small) launch_tiles<Shape, DTYPE, 128>(d, output, in, weight, bias, rows, stride, OC);
    else if (medium <= small) launch_tiles<Shape, DTYPE, 64>(d, output, in, weight, bias, rows, stride, OC);
    else launch_tiles<Shape, DTYPE, 32>(d, output, in, weight, bias, rows, stride, OC);
}

template <int DTYPE>
static void launch_matmul(const Device* d, const Output& output, Activation in, Matrix weight, const float* bias,
                          int rows, int stride, int OC) {
    dim3 threads(THREADS), tiles((unsigned)((rows + TILE - 1) / TILE), (unsigned)((OC + TILE - 1) / TILE));
    if (in.format == DTYPE_F32) {
        hipLaunchKernelGGL((prefill_matmul<DTYPE>), tiles, threads, 0, d->stream, output, (const float*)in.data, weight,
                           bias, rows, stride, OC);
    } else {
        launch_matrix_matmul<NativeShape, DTYPE == DTYPE_F32 ? DTYPE_BF16 : DTYPE>(d, output, (const uint16_t*)in.data,
                                                                                   weight, bias, rows, stride, OC);
    }
}

// output (rows, OC) = in (rows, cols, padded) · one layer of the matrix (OC, cols)ᵀ + bias.
static bool matmul(const Device* d, const Output& output, Activation in, ParameterId id, const float* bias, int layer,
                   int rows, int OC, Error* error) {
    Matrix weight = layer_matrix(d, id, layer);
    int stride = id == FCPROJW ? d->hidden_stride : d->stride;
    switch (d->options.dtype) {
    case DTYPE_F32: launch_matmul<DTYPE_F32>(d, output, in, weight, bias, rows, stride, OC); break;
    case DTYPE_BF16: launch_matmul<DTYPE_BF16>(d, output, in, weight, bias, rows, stride, OC); break;
    case DTYPE_F16: launch_matmul<DTYPE_F16>(d, output, in, weight, bias, rows, stride, OC); break;
    default: launch_matmul<DTYPE_Q8>(d, output, in, weight, bias, rows, stride, OC); break;
    }
    return launched("starting a matrix product", error);
}

static bool embed_tokens(const Device* d, int rows, int T, Error* error) {
    Matrix wte = d->matrices[WTE], wpe = d->matrices[WPE];
    const int* tokens = d->step + 1 + d->options.max_batch;
    dim3 blocks((unsigned)rows), threads(THREADS);
    switch (d->options.dtype) {
    case DTYPE_F32:
        hipLaunchKernelGGL((embed<DTYPE_F32>), blocks, threads, 0, d->stream, d->x, wte, wpe, d->step, tokens, T,
                           d->stride);
        break;
    case DTYPE_BF16:
        hipLaunchKernelGGL((embed<DTYPE_BF16>), blocks, threads, 0, d->stream, d->x, wte, wpe, d->step, tokens, T,
                           d->stride);
        break;
    case DTYPE_F16:
        hipLaunchKernelGGL((embed<DTYPE_F16>), blocks, threads, 0, d->stream, d->x, wte, wpe, d->step, tokens, T,
                           d->stride);
        break;
    default:
        hipLaunchKernelGGL((embed<DTYPE_Q8>), blocks, threads, 0, d->stream, d->x, wte, wpe, d->step, tokens, T,
                           d->stride);
        break;
    }
    return launched("starting the embedding", error);
}

// out (rows, C) from `count` rows out of every `pitch` of x, starting at `first`.
static bool normalise(const Device* d, Activation out, ParameterId weight, ParameterId bias, int layer, int rows,
                      int count, int pitch, int first, Error* error) {
    hipLaunchKernelGGL(layernorm, dim3((unsigned)rows), dim3(THREADS), 0, d->stream, out, d->x,
                       layer_vector(d, weight, layer), layer_vector(d, bias, layer), d->heads.C, d->stride, count,
                       pitch, first);
    return launched("starting a LayerNorm", error);
}

template <class Shape, int HEAD>
static void launch_matrix_attention(const Device* d, Heads heads, const float* q, const void* keys, const void* values,
                                    int B, float score_scale) {
    int queries = ATTENTION_WAVES * FRAGMENT;
    dim3 blocks((unsigned)(B * ((heads.T + queries - 1) / queries)), (unsigned)heads.NH);
    dim3 threads((unsigned)(ATTENTION_WAVES * d->matrix_lanes));
    hipLaunchKernelGGL((matrix_attention<Shape, HEAD>), blocks, threads, 0, d->stream, activations(d).att, q, keys,
                       values, d->step, heads, d->stride, score_scale);
}

template <int CACHE>
static void launch_attention(const Device* d, Heads heads, const float* q, const void* keys, const void* values,
                             int B) {
    unsigned slices = (unsigned)((heads.hs + HEAD_SLICE - 1) / HEAD_SLICE), NH = (unsigned)heads.NH;
    dim3 threads(THREADS), tiles((unsigned)(B * ((heads.T + QUERIES - 1) / QUERIES)), NH, slices);
    float score_scale = 1.0f / sqrtf((float)heads.hs);
    if (d->matrix_lanes > 0 && heads.hs <= 64) {
        launch_matrix_attention<NativeShape, 64>(d, heads, q, keys, values, B, score_scale);
    } else if (d->matrix_lanes > 0 && heads.hs <= 128) {
        launch_matrix_attention<NativeShape, 128>(d, heads, q, keys, values, B, score_scale);
    } else {
        hipLaunchKernelGGL((prefill_attention<CACHE>), tiles, threads, 0, d->stream, activations(d).att, q, keys,
                           values, d->step, heads, d->stride, score_scale);
    }
}

// att (rows, C) from q (rows, NH, head_stride) and this layer's cache, rows being those of heads.T tokens of B sequences.
static bool attend(const Device* d, Heads heads, const float* q, const void* keys, const void* values, int B,
                   Error* error) {
    if (cache_format(d->options.dtype) == DTYPE_F32) launch_attention<DTYPE_F32>(d, heads, q, keys, values, B);
    else launch_attention<DTYPE_F16>(d, heads, q, keys, values, B);
    return launched("starting attention", error);
}

static Output plain_output(OutputKind kind, float* out, int stride) {
    Output output;
    memset(&output, 0, sizeof output);
    output.kind = kind, output.out = out, output.stride = stride;
    output.hidden.data = out, output.hidden.format = DTYPE_F32;
    return output;
}

// The rest of a block behind its queries, keys and values: x += attproj(attention(q)), x += fcproj(GELU(fc(ln2(x)))), for
// the tokens from `first` of the chunk on.
static bool enqueue_rest_of_layer(const Device* d, int layer, const Output& qkv, int B, int T, int first,
                                  Error* error) {
    int C = d->heads.C, count = T - first, rows = B * count;
    Activations a = activations(d);
    Heads heads = qkv.heads;
    heads.T = count, heads.first = first;
    const float* q = d->q + (size_t)first * (size_t)heads.NH * (size_t)heads.head_stride;
    Output residual = plain_output(OUTPUT_ADD, d->x + (size_t)first * (size_t)d->stride, d->stride);
    Output hidden = plain_output(OUTPUT_GELU, d->hidden, d->hidden_stride);
    hidden.hidden = a.hidden;
    return attend(d, heads, q, qkv.keys, qkv.values, B, error) &&
           mark_from(d, OPERATION_ATTENTION, B, count, first, error) &&
           matmul(d, residual, a.att, ATTPROJW, layer_vector(d, ATTPROJB, layer), layer, rows, C, error) &&
           mark(d, OPERATION_ATTPROJ, B, count, error) &&
           normalise(d, a.normed, LN2W, LN2B, layer, rows, count, T, first, error) &&
           matmul(d, hidden, a.normed, FCW, layer_vector(d, FCB, layer), layer, rows, 4 * C, error) &&
           mark(d, OPERATION_FC, B, count, error) &&
           matmul(d, residual, a.hidden, FCPROJW, layer_vector(d, FCPROJB, layer), layer, rows, C, error) &&
           mark(d, OPERATION_FCPROJ, B, count, error);
}

// One transformer block for a long run, for `wanted` tokens at its end: of those before them it takes keys and values.
// Of several sequences all tokens are wanted.
static bool enqueue_prefill_layer(const Device* d, int layer, int B, int T, int wanted, Error* error) {
    int C = d->heads.C, rows = B * T;
    Activation normed = activations(d).normed;
    Output qkv = plain_output(OUTPUT_QKV, d->q, 0);
    qkv.keys = d->keys + (size_t)layer * cache_layer_bytes(d),
    qkv.values = d->values + (size_t)layer * cache_layer_bytes(d);
    qkv.step = d->step, qkv.heads = d->heads, qkv.heads.T = T;
    return normalise(d, normed, LN1W, LN1B, layer, rows, rows, rows, 0, error) &&
           matmul(d, qkv, normed, QKVW, layer_vector(d, QKVB, layer), layer, rows, 3 * C, error) &&
           mark(d, OPERATION_QKV, B, T, error) &&
           (wanted == 0 || enqueue_rest_of_layer(d, layer, qkv, B, T, T - wanted, error)) &&
           keep_residual(d, layer + 1, B, T, error);
}

// What the stages know about a run of T tokens for each of rows / T sequences.
static Decode decode_of(const Device* d, int rows, int T) {
    Decode k;
    memset((void*)&k, 0, sizeof k);
    k.heads = d->heads, k.heads.T = T, k.rows = rows, k.L = d->model->config.num_layers,
    k.V = d->model->config.vocab_size;
    k.stride = d->stride, k.hidden_stride = d->hidden_stride, k.ranges = max_ranges(d);
    static const ParameterId matrices[NUM_STAGES] = {QKVW, ATTPROJW, FCW, FCPROJW, WTE};
    static const ParameterId biases[NUM_STAGES] = {QKVB, ATTPROJB, FCB, FCPROJB, NUM_PARAMETERS};
    static const ParameterId ln_weights[NUM_STAGES] = {LN1W, NUM_PARAMETERS, LN2W, NUM_PARAMETERS, LNFW};
    static const ParameterId ln_biases[NUM_STAGES] = {LN1B, NUM_PARAMETERS, LN2B, NUM_PARAMETERS, LNFB};
    k.wte = d->matrices[WTE], k.wpe = d->matrices[WPE];
    for (int i = 0; i < NUM_STAGES; i++) {
        k.matrices[i] = d->matrices[matrices[i]];
        if (biases[i] != NUM_PARAMETERS) k.biases[i] = d->vectors[biases[i]];
        if (ln_weights[i] != NUM_PARAMETERS)
            k.ln_weights[i] = d->vectors[ln_weights[i]], k.ln_biases[i] = d->vectors[ln_biases[i]];
    }
    k.keys = d->keys, k.values = d->values, k.cache_bytes = cache_layer_bytes(d);
    k.flow.q = d->q, k.flow.partials = d->partials, k.flow.middle = k.flow.x = d->x, k.flow.hidden = d->hidden;
    k.logits = d->logits;
    return k;
}

// How many rows a block of decode_stage takes, as many slices of them as it has room for, and the room.
struct StageShape {
    int block_rows, slices_at_once;
    size_t shared_bytes;
};

template <int DTYPE> static StageShape stage_shape(const Product& product, int rows) {
    StageShape shape;
    for (shape.block_rows = rows > 4 ? DECODE_ROWS : rows > 2 ? 4 : rows;; shape.block_rows /= 2) {
        for (shape.slices_at_once = product.slices; shape.slices_at_once > 0; shape.slices_at_once--) {
            int row_floats = stage_row_floats<DTYPE>(product.stride, product.slices, shape.slices_at_once);
            shape.shared_bytes = (size_t)(shape.block_rows * row_floats) * sizeof(float);
            if (shape.shared_bytes <= DECODE_SHARED) return shape;
        }
    }
}

template <int DTYPE>
static void launch_stage(const Device* d, const Decode& decode, int stage, int layer, HeadRows head) {
    Product product = stage_product<DTYPE>(decode, stage, layer);
    StageShape shape = stage_shape<DTYPE>(product, decode.rows);
    int pairs = (product.OC + COLUMNS - 1) / COLUMNS, per_block = WORKERS / product.slices;
    int blocks = (pairs + per_block - 1) / per_block, passes = (decode.rows + shape.block_rows - 1) / shape.block_rows;
    if (product.slices == 1) blocks = min(blocks, 2 * d->compute_units); // each makes the LayerNorm for itself
    dim3 grid((unsigned)blocks, (unsigned)passes), threads(DECODE_THREADS);
    switch (shape.block_rows) {
    case 1:
        hipLaunchKernelGGL((decode_stage<DTYPE, 1>), grid, threads, shape.shared_bytes, d->stream, decode, stage, layer,
                           d->step, head, d->picks, shape.slices_at_once);
        break;
    case 2:
        hipLaunchKernelGGL((decode_stage<DTYPE, 2>), grid, threads, shape.shared_bytes, d->stream, decode, stage, layer,
                           d->step, head, d->picks, shape.slices_at_once);
        break;
    case 4:
        hipLaunchKernelGGL((decode_stage<DTYPE, 4>), grid, threads, shape.shared_bytes, d->stream, decode, stage, layer,
                           d->step, head, d->picks, shape.slices_at_once);
        break;
    default:
        hipLaunchKernelGGL((decode_stage<DTYPE, DECODE_ROWS>), grid, threads, shape.shared_bytes, d->stream, decode,
                           stage, layer, d->step, head, d->picks, shape.slices_at_once);
        break;
    }
}

static bool enqueue_stage(const Device* d, const Decode& decode, int stage, int layer, HeadRows head, Error* error) {
    switch (d->options.dtype) {
    case DTYPE_F32: launch_stage<DTYPE_F32>(d, decode, stage, layer, head); break;
    case DTYPE_BF16: launch_stage<DTYPE_BF16>(d, decode, stage, layer, head); break;
    case DTYPE_F16: launch_stage<DTYPE_F16>(d, decode, stage, layer, head); break;
    default: launch_stage<DTYPE_Q8>(d, decode, stage, layer, head); break;
    }
    return launched("starting a stage", error);
}

// The attention of all rows, in ranges of keys. The grid has all ranges that there may ever be, for a graph's launches
// stay the same while the text grows.
static bool enqueue_attention(const Device* d, const Decode& decode, int layer, Error* error) {
    dim3 grid((unsigned)decode.ranges, (unsigned)decode.heads.NH, (unsigned)decode.rows), threads(READERS * GROUP);
    size_t bytes = (size_t)attention_place_floats(decode.heads.head_stride) * sizeof(float);
    if (cache_format(d->options.dtype) == DTYPE_F32) {
        hipLaunchKernelGGL((decode_attention<DTYPE_F32>), grid, threads, bytes, d->stream, decode, layer, d->step);
    } else {
        hipLaunchKernelGGL((decode_attention<DTYPE_F16>), grid, threads, bytes, d->stream, decode, layer, d->step);
    }
    return launched("starting attention", error);
}

// One transformer block for a short run.
static bool enqueue_decode_layer(const Device* d, int layer, int B, int T, Error* error) {
    Decode decode = decode_of(d, B * T, T);
    HeadRows none = {0, 0, 0};
    return enqueue_stage(d, decode, STAGE_QKV, layer, none, error) && mark(d, OPERATION_QKV, B, T, error) &&
           enqueue_attention(d, decode, layer, error) && mark(d, OPERATION_ATTENTION, B, T, error) &&
           enqueue_stage(d, decode, STAGE_ATTPROJ, layer, none, error) && mark(d, OPERATION_ATTPROJ, B, T, error) &&
           enqueue_stage(d, decode, STAGE_FC, layer, none, error) && mark(d, OPERATION_FC, B, T, error) &&
           enqueue_stage(d, decode, STAGE_FCPROJ, layer, none, error) && mark(d, OPERATION_FCPROJ, B, T, error) &&
           keep_residual(d, layer + 1, B, T, error);
}

// From the tokens in host_step to x (B * T, C) after the last layer. Of each sequence the last `wanted` tokens get
// logits: of one that runs alone, the last layer's attention and MLP work for those, unless someone asked for all of the
// residual stream.
static bool enqueue_chunk(const Device* d, int B, int T, int wanted, bool is_decode, Error* error) {
    size_t rows = (size_t)B * (size_t)T, step = 1 + (size_t)d->options.max_batch + rows, C = (size_t)d->heads.C;
    if (!hip_ok(hipMemcpyAsync(d->step, d->host_step, step * sizeof(int), hipMemcpyHostToDevice, d->stream),
                "uploading tokens", error))
        return false;
    if (d->options.cpu_logits) {
        size_t scales = card_row_scales(d, C) * rows * sizeof(uint16_t);
        if (!hip_ok(hipMemcpyAsync((void*)d->matrices[WTE].data, d->host_rows, rows * card_row_bytes(d, C),
                                   hipMemcpyHostToDevice, d->stream),
                    "uploading embeddings", error))
            return false;
        if (scales > 0 && !hip_ok(hipMemcpyAsync((void*)d->matrices[WTE].scales, d->host_scales, scales,
                                                 hipMemcpyHostToDevice, d->stream),
                                  "uploading embeddings", error))
            return false;
    }
    if (!mark(d, NO_OPERATION, B, T, error) || !embed_tokens(d, (int)rows, T, error) ||
        !mark(d, OPERATION_EMBED, B, T, error) || !keep_residual(d, 0, B, T, error))
        return false;
    int L = d->model->config.num_layers;
    for (int l = 0; l < L; l++) {
        bool are_few = l == L - 1 && B == 1 && d->options.residuals == NULL;
        if (!(is_decode ? enqueue_decode_layer(d, l, B, T, error)
                        : enqueue_prefill_layer(d, l, B, T, are_few ? wanted : T, error)))
            return false;
    }
    return true;
}

// The head for `rows` rows, `count` out of every `pitch` of x, starting at `first`: their logits on the card, and with
// `best` their highest ranks; or with cpu_logits their hidden states in host_hidden once the stream has run.
static bool enqueue_head(const Device* d, int rows, HeadRows head, unsigned long long* best, Error* error) {
    if (!mark(d, NO_OPERATION, 1, rows, error)) return false;
    if (!d->options.cpu_logits) {
        Decode decode = decode_of(d, rows, 1);
        decode.best = best;
        return enqueue_stage(d, decode, STAGE_HEAD, 0, head, error) && mark(d, OPERATION_HEAD, 1, rows, error);
    }
    Activation normed = {d->normed, DTYPE_F32};
    return normalise(d, normed, LNFW, LNFB, 0, rows, head.count, head.pitch, head.first, error) &&
           hip_ok(hipMemcpyAsync(d->host_hidden, d->normed, (size_t)rows * (size_t)d->stride * sizeof(float),
                                 hipMemcpyDeviceToHost, d->stream),
                  "downloading hidden states", error);
}

static bool synchronise(const Device* d, Error* error) {
    return hip_ok(hipStreamSynchronize(d->stream), "running the model", error) && collect_times(d, error);
}

// Writes tokens `start` to `start + T` of each sequence of the run where enqueue_chunk expects them. With cpu_logits
// their rows of wte are put beside, and take the place of the tokens. Nothing may be under way.
static bool stage_tokens(Device* d, const TokenRun* run, int start, int T, Error* error) {
    size_t C = (size_t)d->heads.C;
    int* tokens = d->host_step + 1 + d->options.max_batch;
    d->host_step[0] = run->position + start;
    if (d->timeline != NULL) d->timeline->num_marks = 0; // of a run that an error has ended
    for (int b = 0; b < run->B; b++) {
        d->host_step[1 + b] = run->slots[b];
        for (int t = 0; t < T; t++) tokens[b * T + t] = run->tokens[(size_t)b * (size_t)run->T + (size_t)(start + t)];
    }
    if (!d->options.cpu_logits) return true;
    float* wide = (float*)allocate(C, sizeof(float), "an embedding", error);
    if (wide == NULL) return false;
    for (int r = 0; r < run->B * T; r++) {
        card_row(d, d->host_rows + (size_t)r * card_row_bytes(d, C), d->host_scales + (size_t)r * card_row_scales(d, C),
                 &d->model->tensors[WTE], (size_t)tokens[r], C, wide);
        tokens[r] = r;
    }
    free(wide);
    return true;
}

// How many tokens of each sequence the chunk that begins at `start` takes.
static int chunk_tokens(const Device* d, const TokenRun* run, int start) {
    return min(run->T - start, max(1, d->max_rows / run->B));
}

// logits (rows, V) of the rows whose head has been enqueued.
static bool fetch_logits(Device* d, float* logits, int rows, Error* error) {
    size_t V = (size_t)d->model->config.vocab_size, C = (size_t)d->heads.C;
    if (!d->options.cpu_logits) {
        return hip_ok(hipMemcpyAsync(logits, d->logits, (size_t)rows * V * sizeof(float), hipMemcpyDeviceToHost,
                                     d->stream),
                      "downloading logits", error) &&
               synchronise(d, error);
    }
    if (!synchronise(d, error)) return false;
    for (int r = 1; r < rows; r++)
        memmove(d->host_hidden + (size_t)r * C, d->host_hidden + (size_t)r * (size_t)d->stride, C * sizeof(float));
    double start = seconds_now();
    bool ok = cpu_head(logits, d->host_hidden, rows, d->model, d->options.num_threads, error);
    if (d->timeline != NULL) {
        CallShape shape = {1, rows, d->host_step[0]};
        profile_add(d->options.profile, 0, OPERATION_HEAD, shape, seconds_now() - start, 0);
    }
    return ok;
}

// The logits of tokens `first` to T of each sequence of a chunk, which begins `offset` tokens after the first token of
// the run that gets logits (before it, if negative): logits (B, num_logits, V).
static bool forward_head(Device* d, float* logits, int B, int num_logits, int offset, int T, int first, Error* error) {
    size_t V = (size_t)d->model->config.vocab_size;
    for (int b = 0; b < B; b++) {
        float* out = logits + ((size_t)b * (size_t)num_logits + (size_t)(offset + first)) * V;
        for (int t = first, n; t < T; t += n, out += (size_t)n * V) {
            n = min(T - t, d->head_rows);
            HeadRows head = {n, n, b * T + t};
            if (!enqueue_head(d, n, head, NULL, error) || !fetch_logits(d, out, n, error)) return false;
        }
    }
    return true;
}

static bool hip_forward(Device* d, const TokenRun* run, int num_logits, float* logits, Error* error) {
    if (!token_run_check(run, d->model, d->options.max_batch, d->options.max_seq_len, num_logits, error)) return false;
    int first_wanted = run->T - num_logits;
    bool is_decode = run->T <= DECODE_TOKENS;
    for (int start = 0, T; start < run->T; start += T) {
        T = chunk_tokens(d, run, start);
        int first = min(T, max(0, first_wanted - start)), wanted = T - first;
        if (!stage_tokens(d, run, start, T, error) || !enqueue_chunk(d, run->B, T, wanted, is_decode, error))
            return false;
        if (wanted == 1 && num_logits == 1) { // all sequences together, wte is read once
            HeadRows head = {1, T, first};
            if (!enqueue_head(d, run->B, head, NULL, error) || !fetch_logits(d, logits, run->B, error)) return false;
        } else if (wanted > 0 && !forward_head(d, logits, run->B, num_logits, start - first_wanted, T, first, error)) {
            return false;
        }
        if (!synchronise(d, error)) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Host: picking, and the captured decode step

// What a sequence needs on the card to pick. Its sampler moves only when all has gone well.
static Pick make_pick(const Choice* choice) {
    Sampler sampler = *choice->sampler;
    Pick pick;
    memset(&pick, 0, sizeof pick);
    pick.options = sampler.options, pick.forbidden = choice->forbidden;
    pick.uniform = sampler.options.temperature > 0 ? sampler_uniform(&sampler) : 0;
    if (sampler.options.repeat_penalty == 1) return pick;
    for (size_t i = choice->num_tokens > REPEAT_WINDOW ? choice->num_tokens - REPEAT_WINDOW : 0; i < choice->num_tokens;
         i++) {
        bool is_known = false;
        for (int j = 0; j < pick.num_recent; j++) is_known |= pick.recent[j] == choice->text[i];
        if (!is_known) pick.recent[pick.num_recent++] = choice->text[i];
    }
    return pick;
}

// The sampling options of B sequences go up, for the stages that follow.
static bool upload_picks(const Device* d, int B, Error* error) {
    return hip_ok(hipMemcpyAsync(d->picks, d->host_picks, (size_t)B * sizeof(Pick), hipMemcpyHostToDevice, d->stream),
                  "uploading the sampling options", error);
}

// From the last rows of x (B sequences, `pitch` rows each) to host_next (B).
static bool enqueue_pick(const Device* d, int B, int pitch, Error* error) {
    HeadRows head = {1, pitch, pitch - 1};
    if (!upload_picks(d, B, error) || !enqueue_head(d, B, head, d->best, error)) return false;
    hipLaunchKernelGGL(pick_token, dim3((unsigned)B), dim3(DECODE_THREADS), 0, d->stream, d->next, d->logits, d->best,
                       d->picks, d->model->config.vocab_size);
    return launched("starting the choice of a token", error) &&
           hip_ok(hipMemcpyAsync(d->host_next, d->next, (size_t)B * sizeof(int), hipMemcpyDeviceToHost, d->stream),
                  "downloading tokens", error);
}

// Captures one decode step of graph_B sequences, from host_step to host_next, as a graph. A runtime that cannot is no
// error: the same launches are then made one by one.
static void capture_step(Device* d) {
    Error ignored;
    hipGraph_t graph = NULL;
    int B = d->graph_B;
    if (hipStreamBeginCapture(d->stream, hipStreamCaptureModeThreadLocal) == hipSuccess) {
        bool ok = enqueue_chunk(d, B, 1, 1, true, &ignored) && enqueue_pick(d, B, 1, &ignored);
        ok &= hipStreamEndCapture(d->stream, &graph) == hipSuccess && graph != NULL;
        if (!ok || hipGraphInstantiate(&d->graph, graph, NULL, NULL, 0) != hipSuccess) d->graph = NULL;
        if (graph != NULL) (void)hipGraphDestroy(graph);
    }
    d->has_no_graphs = d->graph == NULL;
    (void)hipGetLastError();
}

template <int DTYPE> static TokenKernel token_kernel_of(int rows) {
    return rows == 1 ? decode_token<DTYPE, 1> : decode_token<DTYPE, PERSISTENT_ROWS>;
}

static TokenKernel token_kernel(const Device* d, int rows) {
    switch (d->options.dtype) {
    case DTYPE_F32: return token_kernel_of<DTYPE_F32>(rows);
    case DTYPE_BF16: return token_kernel_of<DTYPE_BF16>(rows);
    case DTYPE_F16: return token_kernel_of<DTYPE_F16>(rows);
    default: return token_kernel_of<DTYPE_Q8>(rows);
    }
}

static size_t token_shared_bytes(const Device* d, int rows) {
    return sizeof(float) *
           (size_t)(rows == 1 ? token_place_floats<1>(d->stride, d->hidden_stride, d->heads.head_stride)
                              : token_place_floats<PERSISTENT_ROWS>(d->stride, d->hidden_stride, d->heads.head_stride));
}

// One decode step of B sequences in one kernel, from host_step to host_next, which the kernel writes itself unless its
// blocks gave up waiting for each other.
static bool enqueue_token(Device* d, int B, Error* error) {
    Decode decode = decode_of(d, B, 1);
    StepArguments step;
    float* flow = d->flow[d->flow_in_use];
    size_t P = (size_t)min(d->options.max_batch, (int)PERSISTENT_ROWS);
    memset((void*)&step, 0, sizeof step);
    decode.best = d->best, decode.layer_floats = d->layer_floats;
    decode.flow.q = flow, decode.flow.partials = flow + 3 * P * (size_t)d->heads.NH * (size_t)d->heads.head_stride;
    decode.flow.middle = decode.flow.partials + P * partial_floats(d);
    decode.flow.hidden = decode.flow.middle + P * (size_t)d->stride;
    decode.flow.x = decode.flow.hidden + P * (size_t)d->hidden_stride;
    step.position = d->host_step[0], step.is_greedy = true;
    for (int b = 0; b < B; b++) {
        step.slots[b] = d->host_step[1 + b], step.tokens[b] = d->host_step[1 + d->options.max_batch + b];
        step.forbidden[b] = d->host_picks[b].forbidden;
        step.is_greedy &= is_plain_greedy(&d->host_picks[b]);
    }
    step.picks = d->picks, step.next = d->host_next, step.arrived = d->arrived,
    step.other = d->flow[1 - d->flow_in_use];
    step.patience = d->patience;
    for (int b = 0; b < B; b++) d->host_next[b] = NOT_PICKED;
    if (!step.is_greedy && !upload_picks(d, B, error)) return false;
    void* arguments[] = {(void*)&decode, (void*)&step};
    dim3 blocks((unsigned)(min(d->blocks_per_unit, d->max_blocks[B]) * d->compute_units));
    if (!hip_ok(hipLaunchCooperativeKernel(token_kernel(d, B), blocks, dim3(DECODE_THREADS), arguments,
                                           (unsigned)token_shared_bytes(d, B), d->stream),
                "starting a token", error))
        return false;
    d->flow_in_use = 1 - d->flow_in_use;
    return true;
}

// One decode step of B sequences, from host_step to host_next, launch by launch; as a captured graph from the second
// step of as many sequences on, when all its kernels have run once: what a runtime does on a kernel's first launch it
// may not do while it captures.
static bool enqueue_step(Device* d, int B, Error* error) {
    bool is_known = d->graph_B == B;
    if (!is_known && d->graph != NULL) (void)hipGraphExecDestroy(d->graph);
    if (!is_known) d->graph = NULL, d->graph_B = B;
    if (is_known && d->graph == NULL && !d->has_no_graphs && d->route != ROUTE_LAUNCHES) capture_step(d);
    if (d->graph == NULL) return enqueue_chunk(d, B, 1, 1, true, error) && enqueue_pick(d, B, 1, error);
    return hip_ok(hipGraphLaunch(d->graph, d->stream), "starting a captured step", error);
}

// After a persistent kernel that did not start, or whose blocks gave up: the next route is the device's from now on.
static bool leave_persistent(Device* d, Error* error) {
    (void)hipGetLastError();
    d->route = ROUTE_GRAPH;
    memset(d->max_blocks, 0, sizeof d->max_blocks);
    return hip_ok(hipMemset(d->best, 0, (size_t)d->options.max_batch * sizeof *d->best), "clearing memory", error);
}

// One decode step of B sequences, from host_step to host_next, by the device's route, and the wait for it. A persistent
// kernel that fails without harm to the card is not asked again: this step is made anew by the next route, which gives
// the same bits.
static bool run_step(Device* d, int B, Error* error) {
    if (d->route != ROUTE_PERSISTENT || B > PERSISTENT_ROWS || d->max_blocks[B] == 0) {
        return enqueue_step(d, B, error) && synchronise(d, error);
    }
    bool is_started = enqueue_token(d, B, error);
    if (is_started && !synchronise(d, error)) return false;
    if (is_started && d->host_next[0] != NOT_PICKED) return true;
    if (!leave_persistent(d, error) || !enqueue_step(d, B, error) || !synchronise(d, error)) return false;
    if (!is_started && d->description[0] == 0) return true; // found out by a trial: the description names what is used
    fprintf(stderr, "%sgpt2: GPU %d: the persistent kernel %s; its stages are launched one by one from here on\n",
            d->host_step[0] > 0 ? "\n" : "", d->options.gpu,
            is_started ? "stood still, its blocks waiting for each other" : "does not start");
    size_t length = strlen(d->description);
    snprintf(d->description + length, sizeof d->description - length, ", then %s", route_names[d->route]);
    return true;
}

// The logits come back and the CPU picks.
static bool next_on_cpu(Device* d, const TokenRun* run, const Choice* choices, int* next, Error* error) {
    size_t V = (size_t)d->model->config.vocab_size;
    if (!hip_forward(d, run, 1, d->host_logits, error)) return false;
    for (int b = 0; b < run->B; b++) next[b] = choice_pick(&choices[b], d->host_logits + (size_t)b * V);
    return true;
}

static bool hip_next(Device* d, const TokenRun* run, const Choice* choices, int* next, Error* error) {
    if (d->options.cpu_logits) return next_on_cpu(d, run, choices, next, error);
    if (!token_run_check(run, d->model, d->options.max_batch, d->options.max_seq_len, 1, error)) return false;
    for (int b = 0; b < run->B; b++) d->host_picks[b] = make_pick(&choices[b]);
    for (int start = 0, T; start < run->T; start += T) {
        T = chunk_tokens(d, run, start);
        if (!stage_tokens(d, run, start, T, error)) return false;
        if (run->T == 1) {
            if (!run_step(d, run->B, error)) return false;
        } else {
            bool is_last = start + T == run->T;
            if (!enqueue_chunk(d, run->B, T, is_last ? 1 : 0, run->T <= DECODE_TOKENS, error) ||
                (is_last && !enqueue_pick(d, run->B, T, error)) || !synchronise(d, error))
                return false;
        }
    }
    memcpy(next, d->host_next, (size_t)run->B * sizeof(int));
    for (int b = 0; b < run->B; b++) {
        if (choices[b].sampler->options.temperature > 0) (void)sampler_uniform(choices[b].sampler);
    }
    return true;
}

static bool hip_fetch_logits(Device* d, int b, float* logits, Error* error) {
    size_t V = (size_t)d->model->config.vocab_size, at = (size_t)b * V;
    if (d->options.cpu_logits) {
        memcpy(logits, d->host_logits + at, V * sizeof(float));
        return true;
    }
    return hip_ok(hipMemcpy(logits, d->logits + at, V * sizeof(float), hipMemcpyDeviceToHost), "downloading logits",
                  error);
}

static bool hip_copy_cache(Device* d, int to, int from, int length, Error* error) {
    if (to == from || length == 0) return true;
    dim3 blocks((unsigned)d->heads.NH, (unsigned)d->model->config.num_layers, 2);
    int PACK = PACK_BYTES / (int)dtype_size((DType)cache_format(d->options.dtype));
    hipLaunchKernelGGL(copy_slot, blocks, dim3(THREADS), 0, d->stream, d->keys, d->values, PACK, d->heads,
                       cache_layer_bytes(d) / PACK_BYTES, to, from, length);
    return launched("copying a cache", error) && synchronise(d, error);
}

// ---------------------------------------------------------------------------------------------------------------------
// Host: choosing the route

// Seconds of one decode step by the device's route: the better of two. It writes position 0 of slot 0, which the first
// run writes again.
static bool time_step(Device* d, double* seconds, Error* error) {
    memset(d->host_step, 0, (2 + (size_t)d->options.max_batch) * sizeof(int));
    memset((void*)d->host_picks, 0, sizeof(Pick));
    d->host_picks[0].options.repeat_penalty = 1, d->host_picks[0].forbidden = -1;
    *seconds = INFINITY;
    for (int i = 0; i < 2; i++) {
        double start = seconds_now();
        if (!run_step(d, 1, error)) return false;
        *seconds = fmin(*seconds, seconds_now() - start);
    }
    return true;
}

// Tries the graph, and the persistent kernel with one and with two blocks on each compute unit, in turn, three times,
// and keeps the fastest. All give the same bits, so it changes the time and nothing else. A persistent kernel that
// fails is not asked again.
static bool try_routes(Device* d, Error* error) {
    struct {
        Route route;
        int blocks;
        double seconds;
    } ways[] = {{ROUTE_GRAPH, 1, INFINITY}, {ROUTE_PERSISTENT, 1, INFINITY}, {ROUTE_PERSISTENT, 2, INFINITY}};
    int best = 0;
    for (int i = 0; i < 3 * 3; i++) {
        auto& way = ways[i % 3];
        bool is_persistent = way.route == ROUTE_PERSISTENT;
        double seconds;
        if (is_persistent && way.blocks > d->max_blocks[1]) continue;
        d->route = way.route, d->blocks_per_unit = way.blocks;
        if (!time_step(d, &seconds, error) && !(is_persistent && leave_persistent(d, error))) return false;
        if (!is_persistent || d->max_blocks[1] > 0) way.seconds = fmin(way.seconds, seconds);
    }
    for (int i = 1; i < 3; i++) {
        if (ways[i].blocks <= d->max_blocks[1] && ways[i].seconds < ways[best].seconds) best = i;
    }
    d->route = ways[best].route, d->blocks_per_unit = ways[best].blocks;
    return true;
}

// The route that DeviceOptions.kernels names, or the fastest. With the logits on the CPU, and where one looks inside,
// there are only launches.
static bool choose_route(Device* d, Error* error) {
    const char* name = d->options.kernels;
    d->route = ROUTE_LAUNCHES;
    if (d->options.cpu_logits || d->options.profile != NULL || d->options.residuals != NULL) return true;
    if (name == NULL) return try_routes(d, error);
    int route = 0;
    while (route < NUM_ROUTES && strcmp(name, route_names[route]) != 0) route++;
    if (route == NUM_ROUTES)
        return fail(error, "GPU: no kernels are named %s; there are launches, graph and persistent", name);
    if (route == ROUTE_PERSISTENT && d->max_blocks[1] == 0) {
        return fail(error, "GPU %d: the persistent kernel does not run on this card", d->options.gpu);
    }
    d->route = (Route)route;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// What the card can do at most

enum { READ_LOADS = 4, CHAINS = 16, MATRIX_CHAINS = 4, MATRIX_WAVES = 8, ROOF_REPEATS = 7 };

// Reads `count` packs, `passes` times. The sum is written where it is one number of 2^32, so that it must be computed.
extern "C" __global__ void __launch_bounds__(THREADS)
    read_packs(unsigned* sum, const uint4* packs, size_t count, int passes) {
    unsigned total = 0;
    size_t step = (size_t)gridDim.x * THREADS;
    for (; passes > 0; passes--) {
        for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += READ_LOADS * step) {
            uint4 raw[READ_LOADS];
            for (int j = 0; j < READ_LOADS; j++) raw[j] = packs[min(i + (size_t)j * step, count - 1)];
            for (int j = 0; j < READ_LOADS; j++) total += raw[j].x ^ raw[j].y ^ raw[j].z ^ raw[j].w;
        }
        __asm__ volatile("" : : : "memory"); // the next pass is to read again
    }
    if (total == 0x9e3779b9u) *sum = total;
}

// CHAINS independent chains of `rounds` multiply-adds in every thread.
extern "C" __global__ void __launch_bounds__(THREADS) multiply_add_chains(unsigned* sum, int rounds) {
    float chain[CHAINS], total = 0;
    for (int i = 0; i < CHAINS; i++) chain[i] = (float)i;
    for (; rounds > 0; rounds--) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) chain[i] = fmaf(chain[i], 0.5f, 1.0f);
    }
    for (int i = 0; i < CHAINS; i++) total += chain[i];
    if (total < 0) *sum = 1; // never
}

// MATRIX_CHAINS independent chains of `rounds` products of 16 x 16 x 32 in every wave, for weights of a format.
template <class Shape, int DTYPE>
__global__ void __launch_bounds__((MATRIX_WAVES * Shape::LANES)) multiply_matrix_chains(unsigned* sum, int rounds) {
    typename Shape::Sums chain[MATRIX_CHAINS];
    uint4 a[Shape::PACKS], b[Shape::PACKS];
    unsigned pair = (unsigned)rounds & 0x00070007; // small numbers, which the compiler does not know
    for (int p = 0; p < Shape::PACKS; p++) a[p] = b[p] = make_uint4(pair, pair, pair, pair);
#pragma unroll
    for (int i = 0; i < MATRIX_CHAINS * Shape::SUMS; i++) chain[i / Shape::SUMS][i % Shape::SUMS] = 0;
    for (; rounds > 0; rounds--) {
#pragma unroll
        for (int i = 0; i < MATRIX_CHAINS; i++)
            Shape::template multiply<matrix_format(DTYPE) == DTYPE_F16>(&chain[i], a, b);
    }
    float total = 0;
#pragma unroll
    for (int i = 0; i < MATRIX_CHAINS * Shape::SUMS; i++) total += chain[i / Shape::SUMS][i % Shape::SUMS];
    if (total < 0) *sum = 1; // never
}

// The most work per second that launch(work) does, when it is given enough of it to forget the launch.
template <class Launch> static bool best_rate(double* rate, Launch launch, Error* error) {
    const double long_enough = 10e-3; // seconds
    int work = 1, repeats = 0;
    *rate = 0;
    while (repeats < ROOF_REPEATS) {
        double start = seconds_now();
        launch(work);
        if (!launched("starting a measurement", error) ||
            !hip_ok(hipStreamSynchronize(NULL), "measuring the GPU", error))
            return false;
        double seconds = seconds_now() - start;
        bool is_long = seconds >= long_enough || work > INT_MAX / 2;
        if (is_long) *rate = max(*rate, work / seconds), repeats++;
        else work *= 2;
    }
    return true;
}

// Operations per second of the products with weights of a format: matrix instructions, or the f32 multiply-adds that
// take their place.
static bool measure_products(Roof* roof, DType dtype, dim3 blocks, unsigned* sum, Error* error) {
    int answers[PROBE_ANSWERS];
    double rounds = 0;
    hipLaunchKernelGGL(probe, dim3(1), dim3(THREADS), 0, NULL, (int*)sum);
    if (!launched("starting the first kernel", error) ||
        !hip_ok(hipMemcpy(answers, sum, sizeof answers, hipMemcpyDeviceToHost), "probing", error))
        return false;
    roof->products = roof->f32;
    if (dtype == DTYPE_F32 || answers[1] == 0) return true;
    dim3 threads((unsigned)(MATRIX_WAVES * answers[1]));
    bool ok = best_rate(
        &rounds,
        [&](int work) {
            if (matrix_format(dtype) == DTYPE_F16)
                hipLaunchKernelGGL((multiply_matrix_chains<NativeShape, DTYPE_F16>), blocks, threads, 0, NULL, sum,
                                   work);
            else
                hipLaunchKernelGGL((multiply_matrix_chains<NativeShape, DTYPE_BF16>), blocks, threads, 0, NULL, sum,
                                   work);
        },
        error);
    roof->products = rounds * 2.0 * FRAGMENT * FRAGMENT * STEP * MATRIX_CHAINS * MATRIX_WAVES * blocks.x;
    return ok;
}

extern "C" bool gpt2_hip_measure(Roof* roof, int gpu, DType dtype, size_t working_set, Error* error) {
    GpuInfo info;
    void *packs = NULL, *sum = NULL;
    size_t count = max((size_t)1, working_set / PACK_BYTES);
    bool ok = hip_ok(hipSetDevice(gpu), "selecting the GPU", error) && gpt2_hip_info(&info, gpu, error) &&
              hip_ok(hipMalloc(&packs, count * PACK_BYTES), "measuring the GPU", error) &&
              hip_ok(hipMalloc(&sum, PROBE_ANSWERS * sizeof(unsigned)), "measuring the GPU", error) &&
              hip_ok(hipMemset(packs, 1, count * PACK_BYTES), "measuring the GPU", error);
    dim3 blocks(ok ? (unsigned)(8 * info.compute_units) : 1), threads(THREADS);
    double passes = 0, rounds = 0;
    ok = ok &&
         best_rate(
             &passes,
             [&](int work) {
                 hipLaunchKernelGGL(read_packs, blocks, threads, 0, NULL, (unsigned*)sum, (const uint4*)packs, count,
                                    work);
             },
             error) &&
         best_rate(
             &rounds,
             [&](int work) { hipLaunchKernelGGL(multiply_add_chains, blocks, threads, 0, NULL, (unsigned*)sum, work); },
             error);
    roof->bandwidth = passes * (double)(count * PACK_BYTES);
    roof->f32 = rounds * 2.0 * CHAINS * THREADS * blocks.x;
    ok = ok && measure_products(roof, dtype, blocks, (unsigned*)sum, error);
    roof->attention = roof->products;
    (void)hipFree(packs);
    (void)hipFree(sum);
    roof->working_set = working_set;
    return ok;
}

// Filled in by a call, since a constant with these functions in it would be wanted on the card as well.
static DeviceApi hip_api() {
    DeviceApi api = {hip_open, hip_forward, hip_next, hip_fetch_logits, hip_copy_cache, hip_describe, hip_close};
    return api;
}

extern "C" const DeviceApi gpt2_hip = hip_api();
