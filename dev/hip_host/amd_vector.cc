// What vector instructions do: the same for every active lane.
#include "amd_instructions.h"

#include <math.h>

#include <algorithm>
#include <type_traits>
#include <utility>

namespace amd {

// A binary16 in the lower half of a register.
struct Half {
    uint16_t bits;
};
static float widen(Half h) {
    return f16_to_f32(h.bits);
}
static Half narrow(float f) {
    return {f32_to_f16(f)};
}

// ---------------------------------------------------------------------------------------------------------------------
// From a function of one lane's numbers to an operation: its types say how operands are read and what is written

template <class F> struct Signature : Signature<decltype(&F::operator())> {};
template <class F, class R, class... A> struct Signature<R (F::*)(A...) const> {
    template <class Body> static void sources(Wave& w, const Instruction& i, const size_t* places, Body body) {
        spread(w, i, places, body, std::index_sequence_for<A...>());
    }

  private:
    template <class Body, size_t... N>
    static void spread(Wave& w, const Instruction& i, const size_t* places, Body body, std::index_sequence<N...>) {
        const Source s[] = {source<A>(w, i.operands.at(places[N]))...};
        body([&s](auto f, unsigned lane) { return f(read<A>(s[N], lane)...); });
    }
};

static const size_t BEHIND_ONE[] = {1, 2, 3, 4}, BEHIND_TWO[] = {2, 3, 4}, FROM_FIRST[] = {0, 1, 2},
                    ACCUMULATED[] = {1, 2, 0};

template <class T> void put(Wave& w, const Instruction& i, unsigned lane, T value) {
    const Operand& o = i.operands[0];
    if (sizeof(T) > 4) return write(w, o, lane, value);
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof(T) > 4 ? 4 : sizeof(T));
    unsigned shift = i.fills_upper ? 16 : o.shift;
    bits <<= shift;
    // half a register: gfx9 clears the rest, and SDWA where it is told so; later chips keep it
    if (sizeof(T) == 2 && w.block->kernel->generation > 9 && !i.pads)
        bits |= w.vector[o.first][lane] & ~(0xffffu << shift);
    write_word(w, o, 0, lane, bits);
}

// D = f(S0, S1, ...) for every active lane.
template <class F> Operation vector(F f, const size_t* places = BEHIND_ONE) {
    return [f, places](Wave& w, const Instruction& i) {
        Signature<F>::sources(w, i, places, [&](auto call) {
            uint64_t active = w.mask(EXEC);
            for (unsigned lane = 0; lane < w.size; lane++) {
                if (active >> lane & 1) put(w, i, lane, call(f, lane));
            }
        });
    };
}

// A bit of D for every lane, 0 for the others. v_cmpx of gfx10 and later writes the mask of active lanes alone.
template <class F> Operation compare(F f, bool to_exec) {
    return [f, to_exec](Wave& w, const Instruction& i) {
        bool is_named = !to_exec || w.block->kernel->generation == 9;
        Signature<F>::sources(w, i, is_named ? BEHIND_ONE : FROM_FIRST, [&](auto call) {
            uint64_t active = w.mask(EXEC), bits = 0;
            for (unsigned lane = 0; lane < w.size; lane++) {
                if ((active >> lane & 1) && call(f, lane)) bits |= (uint64_t)1 << lane;
            }
            if (is_named) w.set_mask(i.operands[0].first, bits);
            if (to_exec) w.set_mask(EXEC, bits);
        });
    };
}

// ---------------------------------------------------------------------------------------------------------------------
// Arithmetic

static float flush(float f) {
    return fpclassify(f) == FP_SUBNORMAL ? copysignf(0, f) : f;
}
// the number where the other is NaN
static float least(float a, float b) {
    return a != a ? b : b != b ? a : a < b || (a == b && signbit(a)) ? a : b;
}
static float largest(float a, float b) {
    return a != a ? b : b != b ? a : a > b || (a == b && !signbit(a)) ? a : b;
}
static float middle(float a, float b, float c) {
    if (a != a || b != b || c != c) return least(least(a, b), c);
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}
u32 to_u32(double d) {
    return d != d || d <= 0 ? 0 : d >= 4294967295.0 ? 0xffffffffu : (uint32_t)d;
}
int32_t to_i32(double d) {
    return d != d ? 0 : d <= -2147483648.0 ? INT32_MIN : d >= 2147483647.0 ? INT32_MAX : (int32_t)d;
}
float reciprocal(float a) {
    return flush((float)(1 / (double)flush(a)));
}
float power_of_2(float a) {
    return flush((float)exp2((double)flush(a)));
}
float logarithm_2(float a) {
    return (float)log2((double)flush(a));
}
float root(float a) {
    return flush((float)sqrt((double)flush(a)));
}
static int exponent(float f) {
    return (int)(f32_bits(f) >> 23 & 0xff);
}
static int32_t low_24_signed(uint32_t a) {
    return (int32_t)(a << 8) >> 8;
}

// The three steps of a division that is right to the last bit.
static float div_scale(float value, float divisor, float dividend, bool* is_scaled) {
    *is_scaled = false;
    float quotient = dividend / divisor;
    bool is_tiny = fpclassify(1 / divisor) == FP_SUBNORMAL;
    if (dividend == 0 || divisor == 0) return NAN;
    if (exponent(dividend) - exponent(divisor) >= 96) {
        *is_scaled = true;
        return value == divisor ? ldexpf(value, 64) : value;
    }
    if (fpclassify(divisor) == FP_SUBNORMAL) return ldexpf(value, 64);
    if (fpclassify(quotient) == FP_SUBNORMAL) {
        *is_scaled = true;
        return value == (is_tiny ? divisor : dividend) ? ldexpf(value, 64) : value;
    }
    if (is_tiny) return ldexpf(value, -64);
    return exponent(dividend) <= 23 ? ldexpf(value, 64) : value;
}
static void v_div_scale(Wave& w, const Instruction& i) {
    const Source s[] = {source<float>(w, i.operands.at(2)), source<float>(w, i.operands.at(3)),
                        source<float>(w, i.operands.at(4))};
    uint64_t active = w.mask(EXEC), scaled = 0;
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!(active >> lane & 1)) continue;
        bool is_scaled;
        float value = div_scale(read<float>(s[0], lane), read<float>(s[1], lane), read<float>(s[2], lane), &is_scaled);
        put(w, i, lane, value);
        if (is_scaled) scaled |= (uint64_t)1 << lane;
    }
    if (i.operands[1].kind == Operand::SCALAR) w.set_mask(i.operands[1].first, scaled);
}
static void v_div_fmas(Wave& w, const Instruction& i) {
    uint64_t scaled = w.mask(VCC), active = w.mask(EXEC);
    const Source s[] = {source<float>(w, i.operands.at(1)), source<float>(w, i.operands.at(2)),
                        source<float>(w, i.operands.at(3))};
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!(active >> lane & 1)) continue;
        float sum = fmaf(read<float>(s[0], lane), read<float>(s[1], lane), read<float>(s[2], lane));
        put(w, i, lane, scaled >> lane & 1 ? 0x1p32f * sum : sum);
    }
}
static float div_fixup(float quotient, float divisor, float dividend) {
    float sign = signbit(divisor) != signbit(dividend) ? -1.0f : 1.0f;
    if (dividend != dividend) return dividend;
    if (divisor != divisor) return divisor;
    if ((divisor == 0 && dividend == 0) || (isinf(divisor) && isinf(dividend))) return NAN;
    if (divisor == 0 || isinf(dividend)) return sign * INFINITY;
    if (isinf(divisor) || dividend == 0) return sign * 0.0f;
    if (exponent(dividend) - exponent(divisor) < -150) return sign * 0x1p-149f;
    return sign * fabsf(quotient);
}

// The classes of numbers that the bits of the second operand ask for.
static bool is_of_class(float f, uint32_t classes) {
    bool minus = signbit(f);
    unsigned bit = 0;
    switch (fpclassify(f)) {
    case FP_NAN: bit = f32_bits(f) >> 22 & 1; break;
    case FP_INFINITE: bit = minus ? 2 : 9; break;
    case FP_NORMAL: bit = minus ? 3 : 8; break;
    case FP_SUBNORMAL: bit = minus ? 4 : 7; break;
    default: bit = minus ? 5 : 6;
    }
    return classes >> bit & 1;
}

static void add_float(Table& t) {
    t["v_add_f32"] = vector([](float a, float b) { return a + b; });
    t["v_sub_f32"] = vector([](float a, float b) { return a - b; });
    t["v_subrev_f32"] = vector([](float a, float b) { return b - a; });
    t["v_mul_f32"] = vector([](float a, float b) { return a * b; });
    t["v_fma_f32"] = vector([](float a, float b, float c) { return fmaf(a, b, c); });
    t["v_fmaak_f32"] = t["v_fmamk_f32"] = t["v_fma_f32"]; // the constant stands where it belongs
    t["v_fmac_f32"] = vector([](float a, float b, float d) { return fmaf(a, b, d); }, ACCUMULATED);
    t["v_mad_f32"] = vector([](float a, float b, float c) { return flush(flush(flush(a) * flush(b)) + flush(c)); });
    t["v_mac_f32"] =
        vector([](float a, float b, float d) { return flush(flush(flush(a) * flush(b)) + flush(d)); }, ACCUMULATED);
    t["v_max_f32"] = t["v_max_num_f32"] = vector([](float a, float b) { return largest(a, b); });
    t["v_min_f32"] = t["v_min_num_f32"] = vector([](float a, float b) { return least(a, b); });
    t["v_max3_f32"] = t["v_max3_num_f32"] = vector([](float a, float b, float c) { return largest(largest(a, b), c); });
    t["v_maxmin_f32"] = t["v_maxmin_num_f32"] =
        vector([](float a, float b, float c) { return least(largest(a, b), c); });
    t["v_med3_f32"] = t["v_med3_num_f32"] = vector([](float a, float b, float c) { return middle(a, b, c); });
    t["v_rcp_f32"] = t["v_rcp_iflag_f32"] = vector([](float a) { return reciprocal(a); });
    t["v_exp_f32"] = vector([](float a) { return power_of_2(a); });
    t["v_log_f32"] = vector([](float a) { return logarithm_2(a); });
    t["v_sqrt_f32"] = vector([](float a) { return root(a); });
    t["v_rndne_f32"] = vector([](float a) { return nearbyintf(a); });
    t["v_floor_f32"] = vector([](float a) { return floorf(a); });
    t["v_trunc_f32"] = vector([](float a) { return truncf(a); });
    t["v_ldexp_f32"] = vector([](float a, int32_t n) { return ldexpf(a, n); });
    t["v_div_scale_f32"] = v_div_scale;
    t["v_div_fmas_f32"] = v_div_fmas;
    t["v_div_fixup_f32"] = vector([](float a, float b, float c) { return div_fixup(a, b, c); });
    t["v_add_f64"] = vector([](double a, double b) { return a + b; });
    t["v_mul_f64"] = vector([](double a, double b) { return a * b; });
    t["v_fma_f64"] = vector([](double a, double b, double c) { return fma(a, b, c); });
    t["v_fmac_f64"] = vector([](double a, double b, double d) { return fma(a, b, d); }, ACCUMULATED);
    t["v_floor_f64"] = vector([](double a) { return floor(a); });
    t["v_trunc_f64"] = vector([](double a) { return trunc(a); });
    t["v_ldexp_f64"] = vector([](double a, int32_t n) { return ldexp(a, n); });
}

static void add_conversions(Table& t) {
    t["v_cvt_f16_f32"] = vector([](float a) { return narrow(a); });
    t["v_cvt_f32_f16"] = vector([](Half a) { return widen(a); });
    t["v_cvt_f16_i16"] = vector([](int16_t a) { return narrow((float)a); });
    t["v_cvt_f32_i32"] = vector([](int32_t a) { return (float)a; });
    t["v_cvt_f32_u32"] = vector([](uint32_t a) { return (float)a; });
    t["v_cvt_f32_ubyte0"] = vector([](uint32_t a) { return (float)(a & 0xff); });
    t["v_cvt_i32_f32"] = vector([](float a) { return to_i32((double)a); });
    t["v_cvt_u32_f32"] = vector([](float a) { return to_u32((double)a); });
    t["v_cvt_u32_f64"] = vector([](double a) { return to_u32(a); });
    t["v_cvt_f64_f32"] = vector([](float a) { return (double)a; });
    t["v_cvt_f64_u32"] = vector([](uint32_t a) { return (double)a; });
    t["v_pack_b32_f16"] = vector([](uint32_t a, uint32_t b) { return (a & 0xffff) | b << 16; });
}

u32 field(u32 a, u32 first, u32 width) {
    return width >= 32 ? a >> (first & 31) : a >> (first & 31) & ((1u << width) - 1);
}
u32 signed_field(u32 a, u32 first, u32 width) {
    u32 bits = field(a, first, width);
    return width == 0    ? 0
           : width >= 32 ? (u32)((int32_t)a >> (first & 31))
                         : (u32)((int32_t)(bits << (32 - width)) >> (32 - width));
}
u32 reversed(u32 a) {
    u32 d = 0;
    for (int bit = 0; bit < 32; bit++) d |= (a >> bit & 1) << (31 - bit);
    return d;
}

static void add_integer(Table& t) {
    t["v_mov_b32"] = t["v_accvgpr_read_b32"] = t["v_accvgpr_write_b32"] = t["v_accvgpr_mov_b32"] =
        vector([](u32 a) { return a; });
    t["v_mov_b64"] = vector([](uint64_t a) { return a; });
    t["v_not_b32"] = vector([](u32 a) { return ~a; });
    t["v_and_b32"] = vector([](u32 a, u32 b) { return a & b; });
    t["v_or_b32"] = vector([](u32 a, u32 b) { return a | b; });
    t["v_xor_b32"] = vector([](u32 a, u32 b) { return a ^ b; });
    t["v_or3_b32"] = vector([](u32 a, u32 b, u32 c) { return a | b | c; });
    t["v_xor3_b32"] = vector([](u32 a, u32 b, u32 c) { return a ^ b ^ c; });
    t["v_and_or_b32"] = vector([](u32 a, u32 b, u32 c) { return (a & b) | c; });
    t["v_xad_u32"] = vector([](u32 a, u32 b, u32 c) { return (a ^ b) + c; });
    t["v_add_u32"] = t["v_add_nc_u32"] = vector([](u32 a, u32 b) { return a + b; });
    t["v_sub_u32"] = t["v_sub_nc_u32"] = vector([](u32 a, u32 b) { return a - b; });
    t["v_subrev_u32"] = t["v_subrev_nc_u32"] = vector([](u32 a, u32 b) { return b - a; });
    t["v_add3_u32"] = vector([](u32 a, u32 b, u32 c) { return a + b + c; });
    t["v_add_u16"] = t["v_add_nc_u16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(a + b); });
    t["v_sub_u16"] = t["v_sub_nc_u16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(a - b); });
    t["v_mul_lo_u32"] = vector([](u32 a, u32 b) { return a * b; });
    t["v_mul_hi_u32"] = vector([](u32 a, u32 b) { return (u32)((uint64_t)a * b >> 32); });
    t["v_mul_hi_i32"] = vector([](int32_t a, int32_t b) { return (int32_t)((int64_t)a * b >> 32); });
    t["v_mul_u32_u24"] = vector([](u32 a, u32 b) { return (a & 0xffffff) * (b & 0xffffff); });
    t["v_mul_i32_i24"] = vector([](u32 a, u32 b) { return (u32)(low_24_signed(a) * low_24_signed(b)); });
    t["v_mad_u32_u24"] = vector([](u32 a, u32 b, u32 c) { return (a & 0xffffff) * (b & 0xffffff) + c; });
    t["v_mad_u64_u32"] = t["v_mad_co_u64_u32"] =
        vector([](u32 a, u32 b, uint64_t c) { return (uint64_t)a * b + c; }, BEHIND_TWO);
    t["v_mad_i64_i32"] = t["v_mad_co_i64_i32"] =
        vector([](int32_t a, int32_t b, int64_t c) { return (int64_t)((uint64_t)((int64_t)a * b) + (uint64_t)c); },
               BEHIND_TWO);
    t["v_min_i32"] = vector([](int32_t a, int32_t b) { return std::min(a, b); });
    t["v_max_i32"] = vector([](int32_t a, int32_t b) { return std::max(a, b); });
    t["v_med3_i32"] =
        vector([](int32_t a, int32_t b, int32_t c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); });
    t["v_minmax_i32"] = vector([](int32_t a, int32_t b, int32_t c) { return std::max(std::min(a, b), c); });
    t["v_min_u32"] = vector([](u32 a, u32 b) { return std::min(a, b); });
    t["v_lshlrev_b32"] = vector([](u32 a, u32 b) { return b << (a & 31); });
    t["v_lshrrev_b32"] = vector([](u32 a, u32 b) { return b >> (a & 31); });
    t["v_ashrrev_i32"] = vector([](u32 a, int32_t b) { return b >> (a & 31); });
    t["v_bfrev_b32"] = vector([](u32 a) { return reversed(a); });
    t["v_mov_b16"] = vector([](uint16_t a) { return a; });
    t["v_and_b16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(a & b); });
    t["v_or_b16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(a | b); });
    t["v_lshlrev_b16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(b << (a & 15)); });
    t["v_lshrrev_b16"] = vector([](uint16_t a, uint16_t b) { return (uint16_t)(b >> (a & 15)); });
    t["v_ashrrev_i16"] = vector([](uint16_t a, int16_t b) { return (int16_t)(b >> (a & 15)); });
    t["v_lshlrev_b64"] = vector([](u32 a, uint64_t b) { return b << (a & 63); });
    t["v_lshrrev_b64"] = vector([](u32 a, uint64_t b) { return b >> (a & 63); });
    t["v_lshl_add_u32"] = vector([](u32 a, u32 b, u32 c) { return (a << (b & 31)) + c; });
    t["v_add_lshl_u32"] = vector([](u32 a, u32 b, u32 c) { return (a + b) << (c & 31); });
    t["v_lshl_or_b32"] = vector([](u32 a, u32 b, u32 c) { return a << (b & 31) | c; });
    t["v_lshl_add_u64"] = vector([](uint64_t a, u32 b, uint64_t c) { return (a << (b & 7)) + c; });
    t["v_alignbit_b32"] = vector([](u32 a, u32 b, u32 c) { return (u32)(((uint64_t)a << 32 | b) >> (c & 31)); });
    t["v_bfe_u32"] = vector([](u32 a, u32 b, u32 c) { return field(a, b, c & 31); });
    t["v_bfe_i32"] = vector([](u32 a, u32 b, u32 c) { return signed_field(a, b, c & 31); });
    t["v_bfi_b32"] = vector([](u32 a, u32 b, u32 c) { return (a & b) | (~a & c); });
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparisons, carries, selections, lanes

template <class T> void add_compare(Table& t, const std::string& type) {
    typedef bool (*Relation)(T, T);
    const std::pair<const char*, Relation> relations[] = {{"lt", [](T a, T b) { return a < b; }},
                                                          {"eq", [](T a, T b) { return a == b; }},
                                                          {"le", [](T a, T b) { return a <= b; }},
                                                          {"gt", [](T a, T b) { return a > b; }},
                                                          {"ge", [](T a, T b) { return a >= b; }},
                                                          {"ne", [](T a, T b) { return a != b; }},
                                                          {"lg", [](T a, T b) { return a < b || a > b; }},
                                                          {"neq", [](T a, T b) { return !(a == b); }},
                                                          {"nlt", [](T a, T b) { return !(a < b); }},
                                                          {"nle", [](T a, T b) { return !(a <= b); }},
                                                          {"ngt", [](T a, T b) { return !(a > b); }},
                                                          {"nge", [](T a, T b) { return !(a >= b); }},
                                                          {"nlg", [](T a, T b) { return !(a < b || a > b); }},
                                                          {"o", [](T a, T b) { return a == a && b == b; }},
                                                          {"u", [](T a, T b) { return a != a || b != b; }}};
    for (const auto& relation : relations) {
        Relation holds = relation.second;
        auto f = [holds](T a, T b) { return holds(a, b); };
        t[std::string("v_cmp_") + relation.first + "_" + type] = compare(f, false);
        t[std::string("v_cmpx_") + relation.first + "_" + type] = compare(f, true);
    }
}

static void add_comparisons(Table& t) {
    add_compare<float>(t, "f32");
    add_compare<double>(t, "f64");
    add_compare<int32_t>(t, "i32");
    add_compare<uint32_t>(t, "u32");
    add_compare<int16_t>(t, "i16");
    add_compare<uint16_t>(t, "u16");
    add_compare<int64_t>(t, "i64");
    add_compare<uint64_t>(t, "u64");
    auto of_class = [](float a, uint32_t classes) { return is_of_class(a, classes); };
    t["v_cmp_class_f32"] = compare(of_class, false);
    t["v_cmpx_class_f32"] = compare(of_class, true);
}

// D = S0 + S1 + carry or S0 - S1 - carry, the carry out in the second operand, the carry in (where there is one) in the
// last.
static Operation with_carry(bool is_difference, bool is_reversed) {
    return [=](Wave& w, const Instruction& i) {
        const Source a = source<uint32_t>(w, i.operands.at(is_reversed ? 3 : 2)),
                     b = source<uint32_t>(w, i.operands.at(is_reversed ? 2 : 3));
        uint64_t active = w.mask(EXEC), in = i.operands.size() > 4 ? w.mask(i.operands[4].first) : 0, out = 0;
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!(active >> lane & 1)) continue;
            uint64_t x = read<uint32_t>(a, lane), y = read<uint32_t>(b, lane), carry = in >> lane & 1;
            uint64_t sum = is_difference ? x - y - carry : x + y + carry;
            write(w, i.operands[0], lane, (uint32_t)sum);
            out |= (sum >> 32 & 1) << lane;
        }
        if (i.operands[1].kind == Operand::SCALAR) w.set_mask(i.operands[1].first, out);
    };
}

// D = mask ? S1 : S0; the mask is the last operand, or VCC.
static void v_cndmask(Wave& w, const Instruction& i) {
    const Source no = source<float>(w, i.operands.at(1)), yes = source<float>(w, i.operands.at(2));
    uint64_t active = w.mask(EXEC), mask = w.mask(i.operands.size() > 3 ? i.operands[3].first : (unsigned)VCC);
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (active >> lane & 1) put(w, i, lane, read<float>(mask >> lane & 1 ? yes : no, lane));
    }
}

// Scalars and lanes do not ask which lanes are active.
static void v_readlane(Wave& w, const Instruction& i) {
    unsigned lane = read<uint32_t>(source<uint32_t>(w, i.operands.at(2)), 0) % w.size;
    write(w, i.operands[0], 0, read<uint32_t>(source<uint32_t>(w, i.operands[1]), lane));
}
static void v_readfirstlane(Wave& w, const Instruction& i) {
    uint64_t active = w.mask(EXEC);
    unsigned lane = active != 0 ? (unsigned)__builtin_ctzll(active) : 0;
    write(w, i.operands[0], 0, read<uint32_t>(source<uint32_t>(w, i.operands.at(1)), lane));
}
static void v_writelane(Wave& w, const Instruction& i) {
    unsigned lane = read<uint32_t>(source<uint32_t>(w, i.operands.at(2)), 0) % w.size;
    write(w, i.operands[0], lane, read<uint32_t>(source<uint32_t>(w, i.operands[1]), 0));
}
// D = S1 + how many bits of S0 belong to lanes before this one, among the lower or the upper 32 of them.
static Operation count_before(unsigned first) {
    return [first](Wave& w, const Instruction& i) {
        const Source bits = source<uint32_t>(w, i.operands.at(1)), base = source<uint32_t>(w, i.operands.at(2));
        uint64_t active = w.mask(EXEC);
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!(active >> lane & 1)) continue;
            unsigned before = lane <= first ? 0 : std::min(lane - first, 32u);
            uint32_t mask = before == 32 ? 0xffffffff : (1u << before) - 1;
            write(w, i.operands[0], lane,
                  read<uint32_t>(base, lane) + (uint32_t)__builtin_popcount(read<uint32_t>(bits, lane) & mask));
        }
    };
}
static void ds_bpermute(Wave& w, const Instruction& i) {
    uint32_t values[MAX_WAVE] = {0}, results[MAX_WAVE];
    const Source from = source<uint32_t>(w, i.operands.at(1)), data = source<uint32_t>(w, i.operands.at(2));
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (w.is_active(lane)) values[lane] = read<uint32_t>(data, lane);
    }
    for (unsigned lane = 0; lane < w.size; lane++) {
        results[lane] = values[(read<uint32_t>(from, lane) + (uint32_t)i.offset) / 4 % w.size];
    }
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (w.is_active(lane)) write(w, i.operands[0], lane, results[lane]);
    }
    begin_pending(w, SHARED, i.operands[0]);
}

// Lanes exclusive-or the offset, among 32. (Of the patterns that there are, compilers had need of this one.)
static void ds_swizzle(Wave& w, const Instruction& i) {
    uint32_t values[MAX_WAVE];
    memcpy(values, w.vector[i.operands.at(1).first], sizeof values);
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        if (!w.is_active(lane ^ (unsigned)i.offset)) stop("a number from a lane that is not active");
        write(w, i.operands[0], lane, values[lane ^ (unsigned)i.offset]);
    }
    begin_pending(w, SHARED, i.operands[0]);
}
// From the other of two rows of 16 lanes: which of its lanes, 4 bits say for each, in two scalars.
static void v_permlanex16(Wave& w, const Instruction& i) {
    uint32_t values[MAX_WAVE];
    memcpy(values, w.vector[i.operands.at(1).first], sizeof values);
    u64 choice = read<u32>(source<u32>(w, i.operands.at(2)), 0) | (u64)read<u32>(source<u32>(w, i.operands.at(3)), 0)
                                                                      << 32;
    for (unsigned lane = 0; lane < w.size; lane++) {
        unsigned from = (lane / 16 ^ 1) * 16 + (unsigned)(choice >> lane % 16 * 4 & 15);
        if (!w.is_active(lane)) continue;
        if (!w.is_active(from)) stop("a number from a lane that is not active");
        write(w, i.operands[0], lane, values[from]);
    }
}

static void add_lanes(Table& t) {
    t["v_add_co_u32"] = t["v_addc_co_u32"] = t["v_add_co_ci_u32"] = with_carry(false, false);
    t["v_sub_co_u32"] = t["v_subb_co_u32"] = t["v_sub_co_ci_u32"] = with_carry(true, false);
    t["v_subrev_co_u32"] = t["v_subbrev_co_u32"] = t["v_subrev_co_ci_u32"] = with_carry(true, true);
    t["v_cndmask_b32"] = v_cndmask;
    t["v_readlane_b32"] = v_readlane;
    t["v_readfirstlane_b32"] = v_readfirstlane;
    t["v_writelane_b32"] = v_writelane;
    t["v_mbcnt_lo_u32_b32"] = count_before(0);
    t["v_mbcnt_hi_u32_b32"] = count_before(32);
    t["ds_bpermute_b32"] = ds_bpermute;
    t["ds_swizzle_b32"] = ds_swizzle;
    t["v_permlanex16_b32"] = v_permlanex16;
}

// ---------------------------------------------------------------------------------------------------------------------
// Products of halves, pairs and matrices

// D = S0 * S1 + S2, each source an f32 or, where op_sel_hi says so, the half of a register that op_sel names.
static void v_fma_mix(Wave& w, const Instruction& i) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        float in[3];
        for (unsigned n = 0; n < 3; n++) {
            Operand o = i.operands.at(n + 1);
            if (i.op_sel_hi >> n & 1) {
                bool minus = o.is_negative, absolute = o.is_absolute;
                o.is_negative = o.is_absolute = false;
                uint32_t bits = read<uint32_t>(source<uint32_t>(w, o), lane);
                in[n] = f16_to_f32((uint16_t)(i.op_sel >> n & 1 ? bits >> 16 : bits));
                if (absolute) in[n] = fabsf(in[n]);
                if (minus) in[n] = -in[n];
            } else {
                in[n] = read<float>(source<float>(w, o), lane);
            }
        }
        put(w, i, lane, fmaf(in[0], in[1], in[2]));
    }
}

// Two results of f32 at once: of each source, op_sel says which word the first takes and op_sel_hi which the second,
// neg_lo and neg_hi which of them take its negative.
template <unsigned N, class F> static Operation packed_f32(F f) {
    return [f](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            float results[2];
            for (int half = 0; half < 2; half++) {
                float in[N];
                for (unsigned n = 0; n < N; n++) {
                    bool takes_second = (half == 0 ? i.op_sel : i.op_sel_hi) >> n & 1;
                    Operand o = i.operands.at(n + 1);
                    if (o.kind != Operand::CONSTANT) o.first += takes_second;
                    in[n] = o.kind == Operand::CONSTANT && takes_second ? 0 : read<float>(source<float>(w, o), lane);
                    if ((half == 0 ? i.neg_lo : i.neg_hi) >> n & 1) in[n] = -in[n];
                }
                results[half] = f(in);
            }
            for (unsigned half = 0; half < 2; half++) {
                write_word(w, i.operands[0], half, lane, f32_bits(results[half]));
            }
        }
    };
}

// The truth table's bit number 4 a + 2 b + c for bits a, b and c of the three sources.
static void v_bitop3_b32(Wave& w, const Instruction& i) {
    const Source s[] = {source<u32>(w, i.operands.at(1)), source<u32>(w, i.operands.at(2)),
                        source<u32>(w, i.operands.at(3))};
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        u32 in[3] = {read<u32>(s[0], lane), read<u32>(s[1], lane), read<u32>(s[2], lane)}, bits = 0;
        for (unsigned n = 0; n < 8; n++) {
            if (!(i.truth_table >> n & 1)) continue;
            bits |= (n & 4 ? in[0] : ~in[0]) & (n & 2 ? in[1] : ~in[1]) & (n & 1 ? in[2] : ~in[2]);
        }
        put(w, i, lane, bits);
    }
}

// Two words, each of a source of its own: op_sel says which of its two.
static void v_pk_mov_b32(Wave& w, const Instruction& i) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        u32 words[2];
        for (unsigned n = 0; n < 2; n++) {
            Operand o = i.operands.at(n + 1);
            if (o.kind != Operand::CONSTANT) o.first += i.op_sel >> n & 1;
            words[n] = read<u32>(source<u32>(w, o), lane);
        }
        for (unsigned n = 0; n < 2; n++) write_word(w, i.operands[0], n, lane, words[n]);
    }
}

// Number `index` of the 16-bit numbers that a lane holds in the registers of an operand.
static float number_of(const Wave& w, const Operand& o, unsigned lane, unsigned index, bool is_half) {
    uint32_t word = w.vector[o.first + index / 2][lane];
    uint16_t bits = (uint16_t)(index % 2 == 0 ? word : word >> 16);
    return is_half ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// D = A B + C for matrices of 16 x 16, spread over the lanes of a wave as each family of chips has it. A lane holds
// `held` numbers of row (column of B) lane % 16: with CDNA and gfx12 numbers held * (lane / 16) and following along the
// depth; with gfx11, which has gfx12's names, all 16 of them, in two lanes each. Sum n of a lane is row `row` of column
// lane % 16.
static Operation matrix_product(unsigned sums, bool is_half) {
    return [=](Wave& w, const Instruction& i) {
        const Operand &a = i.operands.at(1), &b = i.operands.at(2), &c = i.operands.at(3);
        const unsigned held = 2 * a.count;
        const bool is_twice = held == 16;
        const unsigned depth = is_twice ? 16 : held * (w.size / 16);
        float out[8][MAX_WAVE];
        if (w.mask(EXEC) != (w.size == 64 ? ~(u64)0 : 0xffffffff))
            stop("a matrix instruction with lanes that are not active");
        for (unsigned lane = 0; lane < w.size; lane++) {
            for (unsigned n = 0; n < a.count + b.count && is_twice; n++) {
                const Operand& o = n < a.count ? a : b;
                unsigned word = o.first + n % a.count;
                if (w.vector[word][lane] != w.vector[word][lane ^ 16]) stop("lanes that do not repeat each other");
            }
            for (unsigned n = 0; n < sums; n++) {
                unsigned row = is_twice ? 2 * n + lane / 16 : sums * (lane / 16) + n, column = lane % 16;
                double sum = (double)f32_from_bits(c.kind == Operand::VECTOR ? w.vector[c.first + n][lane] : c.word);
                for (unsigned k = 0; k < depth; k++) {
                    sum += (double)number_of(w, a, row + 16 * (k / held), k % held, is_half) *
                           (double)number_of(w, b, column + 16 * (k / held), k % held, is_half);
                }
                out[n][lane] = (float)sum;
            }
        }
        for (unsigned lane = 0; lane < w.size; lane++) {
            for (unsigned n = 0; n < sums; n++) write_word(w, i.operands[0], n, lane, f32_bits(out[n][lane]));
        }
    };
}

static void add_products(Table& t) {
    t["v_fma_mix_f32"] = v_fma_mix;
    t["v_pk_add_f32"] = packed_f32<2>([](const float* in) { return in[0] + in[1]; });
    t["v_pk_mul_f32"] = packed_f32<2>([](const float* in) { return in[0] * in[1]; });
    t["v_pk_fma_f32"] = packed_f32<3>([](const float* in) { return fmaf(in[0], in[1], in[2]); });
    t["v_pk_mov_b32"] = v_pk_mov_b32;
    t["v_bitop3_b32"] = v_bitop3_b32;
    t["v_mfma_f32_16x16x16_f16"] = t["v_mfma_f32_16x16x16f16"] = matrix_product(4, true);
    t["v_mfma_f32_16x16x16_bf16"] = t["v_mfma_f32_16x16x16bf16_1k"] = t["v_mfma_f32_16x16x8bf16"] =
        matrix_product(4, false);
    t["v_wmma_f32_16x16x16_f16"] = matrix_product(8, true);
    t["v_wmma_f32_16x16x16_bf16"] = matrix_product(8, false);
}

void add_vector(Table& t) {
    add_float(t);
    add_conversions(t);
    add_integer(t);
    add_comparisons(t);
    add_lanes(t);
    add_products(t);
}

} // namespace amd
