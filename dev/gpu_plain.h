// Rung 1 of the GPU's ladder (dev/GPU.md): a decode step of one sequence in the most direct way, one launch for every
// operation of the equations: LayerNorm, matrix product, attention, each reading and writing all its activations.
// Included by dev/bench_gpu.cc after gpt2_kernels.hip, whose device, memory and formats it uses.

// output (rows, OC) = in (rows, stride) · weight (OC, stride)ᵀ + bias (OC, or NULL), for few rows: what matters is that
// each weight is read once, in 16-byte loads with several of them under way. Each group of lanes makes one column of up
// to ROWS rows; its lanes take the packs of the weight's row in turn and add up at the end. Past the row's end the last
// pack is loaded once more and masked to 0: a branch there would let the compiler wait for one load after the other.
template <int DTYPE, int ROWS>
__global__ void __launch_bounds__(THREADS)
    plain_matmul(Output output, const float* in, Matrix weight, const float* bias, int rows, int stride, int OC) {
    enum { PACK = Format<DTYPE>::PACK, LOADS = PACK * ROWS > 32 ? 1 : PACK * ROWS > 16 ? 2 : 4 }; // by the registers
    int lane = (int)threadIdx.x % GROUP, column = (int)blockIdx.x * GROUPS + (int)threadIdx.x / GROUP;
    int first_row = (int)blockIdx.y * ROWS, packs = stride / PACK;
    size_t weight_row = (size_t)min(column, OC - 1); // groups past the last column repeat it and put nothing away
    const uint4* w = (const uint4*)weight.data + weight_row * (size_t)packs;
    float sum[ROWS];
    for (int r = 0; r < ROWS; r++) sum[r] = 0;

    for (int start = lane; start < packs; start += GROUP * LOADS) {
        uint4 raw[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) raw[i] = w[min(start + i * GROUP, packs - 1)];
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int p = min(start + i * GROUP, packs - 1);
            unsigned keep = start + i * GROUP < packs ? 0xffffffff : 0;
            float values[PACK], scale = pack_scale<DTYPE>(weight, weight_row, p, stride);
            Format<DTYPE>::unpack(values,
                                  make_uint4(raw[i].x & keep, raw[i].y & keep, raw[i].z & keep, raw[i].w & keep));
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float4* x =
                    (const float4*)(in + (size_t)min(first_row + r, rows - 1) * (size_t)stride) + p * (PACK / 4);
                float part = DTYPE == DTYPE_Q8 ? 0 : sum[r];
#pragma unroll
                for (int k = 0; k < PACK; k += 4) {
                    float4 v = x[k / 4];
                    part = fmaf(values[k], v.x, part);
                    part = fmaf(values[k + 1], v.y, part);
                    part = fmaf(values[k + 2], v.z, part);
                    part = fmaf(values[k + 3], v.w, part);
                }
                sum[r] = DTYPE == DTYPE_Q8 ? fmaf(scale, part, sum[r]) : part;
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float total = group_sum(sum[r]);
        if (lane == r && column < OC && first_row + r < rows) {
            put<cache_format(DTYPE)>(output, first_row + r, column, bias == NULL ? total : total + bias[column]);
        }
    }
}

// Element `at` of a cache.
template <int CACHE> __device__ static __forceinline__ float cache_element(const void* cache, size_t at) {
    return CACHE == DTYPE_F32 ? ((const float*)cache)[at] : half_to_float(((const uint16_t*)cache)[at]);
}

// out (rows, stride): causal attention of few queries, softmax(q · kᵀ / sqrt(hs)) · v over the keys up to the query's
// own position. One block per row, head and slice of HEAD_SLICE channels. The groups of lanes take the tiles of KEYS
// keys in turn, one key per lane for the scores and one channel per lane for the values, and put their softmaxes
// together at the end.
template <int CACHE>
__global__ void __launch_bounds__(THREADS)
    plain_attention(float* out, const float* q, const void* keys, const void* values, const int* step, Heads heads,
                    int stride, float score_scale) {
    enum { PACK = Format<CACHE>::PACK };
    __shared__ float largest[GROUPS], total[GROUPS], sums[GROUPS][HEAD_SLICE];
    int lane = (int)threadIdx.x % GROUP, group = (int)threadIdx.x / GROUP;
    int row = (int)blockIdx.x, head = (int)blockIdx.y, slice = (int)blockIdx.z * HEAD_SLICE;
    int num_keys = step[0] + row % heads.T + 1;
    size_t cache = cache_offset(heads, step[1 + row / heads.T], head);
    int packs = heads.head_stride / PACK;
    const float* query = q + ((size_t)row * (size_t)heads.NH + (size_t)head) * (size_t)heads.head_stride;
    OnlineSoftmax softmax = softmax_begin();

    for (int tile = group * KEYS; tile < num_keys; tile += GROUPS * KEYS) {
        const uint4* key = (const uint4*)keys + cache / PACK + (size_t)min(tile + lane, num_keys - 1) * (size_t)packs;
        float score = 0;
        for (int i = 0; i < packs; i++) {
            float k[PACK];
            Format<CACHE>::unpack(k, key[i]);
#pragma unroll
            for (int j = 0; j < PACK; j++) score = fmaf(query[i * PACK + j], k[j], score);
        }
        float weight = softmax_scores(&softmax, tile + lane < num_keys ? score * score_scale : -INFINITY);
        size_t value = cache + (size_t)tile * (size_t)heads.head_stride + (size_t)(slice + lane);
        int tile_keys = min((int)KEYS, num_keys - tile);
        for (int k = 0; k < tile_keys; k++) {
            float key_weight = __shfl(weight, k, GROUP);
#pragma unroll
            for (int i = 0; i < SUMS; i++) {
                if (slice + i * GROUP + lane >= heads.head_stride) break;
                size_t at = value + (size_t)(k * heads.head_stride + i * GROUP);
                softmax.sum[i] = fmaf(key_weight, cache_element<CACHE>(values, at), softmax.sum[i]);
            }
        }
    }
    if (lane == 0) largest[group] = softmax.largest, total[group] = softmax.total;
    for (int i = 0; i < SUMS; i++) sums[group][i * GROUP + lane] = softmax.sum[i];
    __syncthreads();

    int channel = (int)threadIdx.x;
    if (channel >= HEAD_SLICE || slice + channel >= heads.hs) return;
    float whole_largest = largest[0], whole_total = 0, whole_sum = 0; // group 0 always has a key
    for (int g = 1; g < GROUPS; g++) whole_largest = fmaxf(whole_largest, largest[g]);
    for (int g = 0; g < GROUPS; g++) {
        float shrink = expf(largest[g] - whole_largest);
        whole_total = fmaf(total[g], shrink, whole_total);
        whole_sum = fmaf(sums[g][channel], shrink, whole_sum);
    }
    out[(size_t)row * (size_t)stride + (size_t)(head * heads.hs + slice + channel)] = whole_sum / whole_total;
}

template <int DTYPE>
static void plain_product(const Device* d, const Output& output, const float* in, ParameterId id, const float* bias,
                          int layer, int OC) {
    int stride = id == FCPROJW ? d->hidden_stride : d->stride;
    dim3 blocks((unsigned)((OC + GROUPS - 1) / GROUPS)), threads(THREADS);
    hipLaunchKernelGGL((plain_matmul<DTYPE, 1>), blocks, threads, 0, d->stream, output, in, layer_matrix(d, id, layer),
                       bias, 1, stride, OC);
}

// One step of slot 0, from host_step to host_next; the token is picked by the general search.
template <int DTYPE> static bool plain_step(Device* d, Error* error) {
    int C = d->heads.C, L = d->model->config.num_layers, V = d->model->config.vocab_size;
    dim3 heads(1, (unsigned)d->heads.NH, (unsigned)((d->heads.hs + HEAD_SLICE - 1) / HEAD_SLICE)), threads(THREADS);
    Output qkv = plain_output(OUTPUT_QKV, d->q, 0), residual = plain_output(OUTPUT_ADD, d->x, d->stride);
    Output hidden = plain_output(OUTPUT_GELU, d->hidden, d->hidden_stride);
    Activation normed = {d->normed, DTYPE_F32};
    const float score_scale = 1.0f / sqrtf((float)d->heads.hs);
    size_t step = 1 + (size_t)d->options.max_batch + 1;
    const SamplerOptions likeliest = {1, 1, 1, 0, 1};
    memset((void*)d->host_picks, 0, sizeof *d->host_picks);
    d->host_picks[0].options = likeliest, d->host_picks[0].forbidden = -1;
    if (!hip_ok(hipMemcpyAsync(d->step, d->host_step, step * sizeof(int), hipMemcpyHostToDevice, d->stream),
                "uploading", error) ||
        !upload_picks(d, 1, error) || !embed_tokens(d, 1, 1, error))
        return false;
    for (int l = 0; l < L; l++) {
        qkv.keys = d->keys + (size_t)l * cache_layer_bytes(d),
        qkv.values = d->values + (size_t)l * cache_layer_bytes(d);
        qkv.step = d->step, qkv.heads = d->heads, qkv.heads.T = 1;
        if (!normalise(d, normed, LN1W, LN1B, l, 1, 1, 1, 0, error)) return false;
        plain_product<DTYPE>(d, qkv, d->normed, QKVW, layer_vector(d, QKVB, l), l, 3 * C);
        hipLaunchKernelGGL((plain_attention<cache_format(DTYPE)>), heads, threads, 0, d->stream, d->att, d->q, qkv.keys,
                           qkv.values, d->step, qkv.heads, d->stride, score_scale);
        plain_product<DTYPE>(d, residual, d->att, ATTPROJW, layer_vector(d, ATTPROJB, l), l, C);
        if (!normalise(d, normed, LN2W, LN2B, l, 1, 1, 1, 0, error)) return false;
        plain_product<DTYPE>(d, hidden, d->normed, FCW, layer_vector(d, FCB, l), l, 4 * C);
        plain_product<DTYPE>(d, residual, d->hidden, FCPROJW, layer_vector(d, FCPROJB, l), l, C);
    }
    if (!normalise(d, normed, LNFW, LNFB, 0, 1, 1, 1, 0, error)) return false;
    plain_product<DTYPE>(d, plain_output(OUTPUT_STORE, d->logits, V), d->normed, WTE, NULL, 0, V);
    hipLaunchKernelGGL(pick_token, dim3(1), dim3(DECODE_THREADS), 0, d->stream, d->next, d->logits, d->best, d->picks,
                       V);
    return launched("a plain step", error) &&
           hip_ok(hipMemcpyAsync(d->host_next, d->next, sizeof(int), hipMemcpyDeviceToHost, d->stream), "downloading",
                  error);
}
