// What scalar instructions do: once for a wave.
#include "amd_instructions.h"

#include <math.h>

#include <utility>

namespace amd {

// D = f(S0, S1, ..., scc) once for the wave; f may change scc.
template <class R, class... A> struct ScalarCall {
    R (*f)(bool&, A...);
    size_t first;
    void operator()(Wave& w, const Instruction& i) const { spread(w, i, std::index_sequence_for<A...>()); }
    template <size_t... N> void spread(Wave& w, const Instruction& i, std::index_sequence<N...>) const {
        R result = f(w.scc, read<A>(source<A>(w, i.operands.at(first + N)), 0)...);
        write(w, i.operands[0], 0, result);
    }
};
template <class... A> struct ScalarCall<void, A...> {
    void (*f)(bool&, A...);
    size_t first;
    void operator()(Wave& w, const Instruction& i) const { spread(w, i, std::index_sequence_for<A...>()); }
    template <size_t... N> void spread(Wave& w, const Instruction& i, std::index_sequence<N...>) const {
        f(w.scc, read<A>(source<A>(w, i.operands.at(N)), 0)...);
    }
};
template <class R, class... A> Operation scalar(R (*f)(bool&, A...)) {
    return ScalarCall<R, A...>{f, 1};
}
// D is also the first source.
template <class R, class... A> Operation scalar_onto(R (*f)(bool&, A...)) {
    return ScalarCall<R, A...>{f, 0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Masks, integers, floats

// Most scalar operations leave in scc whether the result is anything but 0.
template <class T> T tested(bool& scc, T d) {
    scc = d != 0;
    return d;
}

template <class T> void add_bitwise(Table& t, const std::string& type) {
    t["s_and" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, a & b); });
    t["s_or" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, a | b); });
    t["s_xor" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, a ^ b); });
    t["s_andn2" + type] = t["s_and_not1" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, a & ~b); });
    t["s_orn2" + type] = t["s_or_not1" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, a | ~b); });
    t["s_nor" + type] = scalar(+[](bool& scc, T a, T b) { return tested(scc, ~(a | b)); });
    t["s_not" + type] = scalar(+[](bool& scc, T a) { return tested(scc, ~a); });
    t["s_mov" + type] = scalar(+[](bool&, T a) { return a; });
    t["s_cselect" + type] = scalar(+[](bool& scc, T a, T b) { return scc ? a : b; });
    t["s_lshl" + type] = scalar(+[](bool& scc, T a, u32 n) { return tested(scc, a << (n % (8 * sizeof(T)))); });
    t["s_lshr" + type] = scalar(+[](bool& scc, T a, u32 n) { return tested(scc, a >> (n % (8 * sizeof(T)))); });
}

// D = active lanes; active lanes = f(S0, active lanes).
template <class F> Operation save_exec(F f) {
    return [f](Wave& w, const Instruction& i) {
        const Operand& from = i.operands.at(1);
        u64 active = w.mask(EXEC),
            asked = w.size == 64 ? read<u64>(source<u64>(w, from), 0) : read<u32>(source<u32>(w, from), 0);
        w.set_mask(i.operands[0].first, active);
        w.set_mask(EXEC, f(asked, active));
        w.scc = w.mask(EXEC) != 0;
    };
}

static void add_masks(Table& t) {
    add_bitwise<u32>(t, "_b32");
    add_bitwise<u64>(t, "_b64");
    for (const char* type : {"_b32", "_b64"}) {
        t[std::string("s_and_saveexec") + type] = save_exec([](u64 a, u64 active) { return a & active; });
        t[std::string("s_or_saveexec") + type] = save_exec([](u64 a, u64 active) { return a | active; });
        t[std::string("s_andn2_saveexec") + type] = t[std::string("s_and_not1_saveexec") + type] =
            save_exec([](u64 a, u64 active) { return a & ~active; });
    }
    t["s_bcnt1_i32_b32"] = scalar(+[](bool& scc, u32 a) { return tested(scc, (u32)__builtin_popcount(a)); });
    t["s_bcnt1_i32_b64"] = scalar(+[](bool& scc, u64 a) { return tested(scc, (u32)__builtin_popcountll(a)); });
    t["s_bitcmp1_b32"] = scalar(+[](bool& scc, u32 a, u32 n) { scc = a >> (n & 31) & 1; });
    t["s_bitset0_b32"] = [](Wave& w, const Instruction& i) {
        w.scalar[i.operands[0].first] &= ~(1u << (read<u32>(source<u32>(w, i.operands.at(1)), 0) & 31));
    };
    t["s_brev_b32"] = scalar(+[](bool&, u32 a) { return reversed(a); });
}

static u32 carried(bool& scc, u64 sum) {
    scc = sum >> 32 & 1;
    return (u32)sum;
}
static u32 add_signed(bool& scc, u32 a, u32 b) {
    int32_t d;
    scc = __builtin_add_overflow((int32_t)a, (int32_t)b, &d);
    return (u32)d;
}
static u32 sub_signed(bool& scc, u32 a, u32 b) {
    int32_t d;
    scc = __builtin_sub_overflow((int32_t)a, (int32_t)b, &d);
    return (u32)d;
}

static void add_scalar_integer(Table& t) {
    t["s_add_u32"] = t["s_add_co_u32"] = scalar(+[](bool& scc, u32 a, u32 b) { return carried(scc, (u64)a + b); });
    t["s_sub_u32"] = t["s_sub_co_u32"] = scalar(+[](bool& scc, u32 a, u32 b) { return carried(scc, (u64)a - b); });
    t["s_addc_u32"] = t["s_add_co_ci_u32"] =
        scalar(+[](bool& scc, u32 a, u32 b) { return carried(scc, (u64)a + b + scc); });
    t["s_subb_u32"] = t["s_sub_co_ci_u32"] =
        scalar(+[](bool& scc, u32 a, u32 b) { return carried(scc, (u64)a - b - scc); });
    t["s_add_i32"] = t["s_add_co_i32"] = scalar(add_signed);
    t["s_sub_i32"] = t["s_sub_co_i32"] = scalar(sub_signed);
    t["s_addk_i32"] = t["s_addk_co_i32"] =
        scalar_onto(+[](bool& scc, u32 d, u32 k) { return add_signed(scc, d, (u32)(int16_t)k); });
    t["s_mulk_i32"] = scalar_onto(+[](bool&, u32 d, u32 k) { return d * (u32)(int16_t)k; });
    t["s_movk_i32"] = scalar(+[](bool&, u32 k) { return (u32)(int16_t)k; });
    t["s_add_nc_u64"] = scalar(+[](bool&, u64 a, u64 b) { return a + b; });
    t["s_sub_nc_u64"] = scalar(+[](bool&, u64 a, u64 b) { return a - b; });
    t["s_mul_u64"] = scalar(+[](bool&, u64 a, u64 b) { return a * b; });
    t["s_mul_i32"] = scalar(+[](bool&, u32 a, u32 b) { return a * b; });
    t["s_mul_hi_u32"] = scalar(+[](bool&, u32 a, u32 b) { return (u32)((u64)a * b >> 32); });
    t["s_mul_hi_i32"] = scalar(+[](bool&, int32_t a, int32_t b) { return (int32_t)((int64_t)a * b >> 32); });
    t["s_ashr_i32"] = scalar(+[](bool& scc, int32_t a, u32 n) { return tested(scc, a >> (n & 31)); });
    // the second source: the field's first bit, and from bit 16 on its width
    t["s_bfe_u32"] = scalar(+[](bool& scc, u32 a, u32 b) { return tested(scc, field(a, b, b >> 16 & 127)); });
    t["s_bfe_i32"] = scalar(+[](bool& scc, u32 a, u32 b) { return tested(scc, signed_field(a, b, b >> 16 & 127)); });
    t["s_pack_ll_b32_b16"] = scalar(+[](bool&, u32 a, u32 b) { return (a & 0xffff) | b << 16; });
    t["s_abs_i32"] = scalar(+[](bool& scc, u32 a) { return tested(scc, (int32_t)a < 0 ? 0 - a : a); });
    t["s_sext_i32_i8"] = scalar(+[](bool&, u32 a) { return (int32_t)(int8_t)a; });
    t["s_min_i32"] = scalar(+[](bool& scc, int32_t a, int32_t b) { return (scc = a < b) ? a : b; });
    t["s_max_i32"] = scalar(+[](bool& scc, int32_t a, int32_t b) { return (scc = a >= b) ? a : b; });
    t["s_min_u32"] = scalar(+[](bool& scc, u32 a, u32 b) { return (scc = a < b) ? a : b; });
    t["s_max_u32"] = scalar(+[](bool& scc, u32 a, u32 b) { return (scc = a >= b) ? a : b; });
}

template <class T> void add_scalar_compare(Table& t, const std::string& type) {
    t["s_cmp_eq" + type] = scalar(+[](bool& scc, T a, T b) { scc = a == b; });
    t["s_cmp_lg" + type] = scalar(+[](bool& scc, T a, T b) { scc = a < b || a > b; });
    t["s_cmp_gt" + type] = scalar(+[](bool& scc, T a, T b) { scc = a > b; });
    t["s_cmp_ge" + type] = scalar(+[](bool& scc, T a, T b) { scc = a >= b; });
    t["s_cmp_lt" + type] = scalar(+[](bool& scc, T a, T b) { scc = a < b; });
    t["s_cmp_le" + type] = scalar(+[](bool& scc, T a, T b) { scc = a <= b; });
    t["s_cmp_ngt" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a > b); });
    t["s_cmp_nge" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a >= b); });
    t["s_cmp_nlt" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a < b); });
    t["s_cmp_nle" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a <= b); });
    t["s_cmp_nlg" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a < b || a > b); });
    t["s_cmp_neq" + type] = scalar(+[](bool& scc, T a, T b) { scc = !(a == b); });
}

static void add_scalar_compares(Table& t) {
    add_scalar_compare<u32>(t, "_u32");
    add_scalar_compare<int32_t>(t, "_i32");
    add_scalar_compare<u64>(t, "_u64");
    add_scalar_compare<float>(t, "_f32");
    t["s_cmpk_eq_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a == (int16_t)k; });
    t["s_cmpk_lg_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a != (int16_t)k; });
    t["s_cmpk_gt_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a > (int16_t)k; });
    t["s_cmpk_ge_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a >= (int16_t)k; });
    t["s_cmpk_lt_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a < (int16_t)k; });
    t["s_cmpk_le_i32"] = scalar(+[](bool& scc, int32_t a, u32 k) { scc = a <= (int16_t)k; });
    t["s_cmpk_eq_u32"] = scalar(+[](bool& scc, u32 a, u32 k) { scc = a == (uint16_t)k; });
    t["s_cmpk_lg_u32"] = scalar(+[](bool& scc, u32 a, u32 k) { scc = a != (uint16_t)k; });
    t["s_cmpk_gt_u32"] = scalar(+[](bool& scc, u32 a, u32 k) { scc = a > (uint16_t)k; });
    t["s_cmpk_lt_u32"] = scalar(+[](bool& scc, u32 a, u32 k) { scc = a < (uint16_t)k; });
}

static void add_scalar_float(Table& t) {
    t["s_add_f32"] = scalar(+[](bool&, float a, float b) { return a + b; });
    t["s_sub_f32"] = scalar(+[](bool&, float a, float b) { return a - b; });
    t["s_mul_f32"] = scalar(+[](bool&, float a, float b) { return a * b; });
    t["s_fmaak_f32"] = t["s_fmamk_f32"] = scalar(+[](bool&, float a, float b, float c) { return fmaf(a, b, c); });
    t["s_fmac_f32"] = scalar_onto(+[](bool&, float d, float a, float b) { return fmaf(a, b, d); });
    t["s_rndne_f32"] = scalar(+[](bool&, float a) { return nearbyintf(a); });
    t["s_trunc_f32"] = scalar(+[](bool&, float a) { return truncf(a); });
    t["s_cvt_f32_i32"] = scalar(+[](bool&, int32_t a) { return (float)a; });
    t["s_cvt_f32_u32"] = scalar(+[](bool&, u32 a) { return (float)a; });
    t["s_cvt_i32_f32"] = scalar(+[](bool&, float a) { return to_i32((double)a); });
    t["s_cvt_u32_f32"] = scalar(+[](bool&, float a) { return to_u32((double)a); });
    t["v_s_exp_f32"] = scalar(+[](bool&, float a) { return power_of_2(a); });
    t["v_s_log_f32"] = scalar(+[](bool&, float a) { return logarithm_2(a); });
    t["v_s_rcp_f32"] = scalar(+[](bool&, float a) { return reciprocal(a); });
    t["v_s_sqrt_f32"] = scalar(+[](bool&, float a) { return root(a); });
}

void add_scalar(Table& t) {
    add_masks(t);
    add_scalar_integer(t);
    add_scalar_compares(t);
    add_scalar_float(t);
}

} // namespace amd
