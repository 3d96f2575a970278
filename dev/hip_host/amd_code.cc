// AMD machine code from its files: the code object's kernel descriptors, and the disassembly.
#include "amd_code.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

namespace amd {

static std::string whole_file(const std::string& path) {
    std::string text;
    FILE* file = fopen(path.c_str(), "rb");
    char buffer[65536];
    if (file == nullptr) perror(path.c_str()), exit(1);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
    if (ferror(file)) perror(path.c_str()), exit(1);
    fclose(file);
    return text;
}

// A struct of a file's bytes.
template <class T> T at(const std::string& bytes, size_t offset) {
    T value;
    if (offset > bytes.size() || sizeof value > bytes.size() - offset) stop("a code object that ends too early");
    memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

// Where in the object each NAME.kd lies, by NAME: symbols hold addresses, and sections say where addresses are in the
// file.
static std::map<std::string, size_t> find_descriptors(const std::string& object) {
    std::map<std::string, size_t> found;
    Elf64_Ehdr header = at<Elf64_Ehdr>(object, 0);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) stop("a code object that is no ELF file");
    std::vector<Elf64_Shdr> sections;
    for (size_t i = 0; i < header.e_shnum; i++)
        sections.push_back(at<Elf64_Shdr>(object, header.e_shoff + i * sizeof(Elf64_Shdr)));
    for (const Elf64_Shdr& table : sections) {
        if (table.sh_type != SHT_SYMTAB) continue;
        for (size_t offset = 0; offset < table.sh_size; offset += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol = at<Elf64_Sym>(object, table.sh_offset + offset);
            std::string name = &object[sections.at(table.sh_link).sh_offset + symbol.st_name];
            if (name.size() < 4 || name.compare(name.size() - 3, 3, ".kd") != 0) continue;
            const Elf64_Shdr& home = sections.at(symbol.st_shndx);
            found[name.substr(0, name.size() - 3)] = home.sh_offset + (symbol.st_value - home.sh_addr);
        }
    }
    return found;
}

Code::Code(const std::string& path) : object(whole_file(path + ".co")), listing(whole_file(path + ".txt")) {
    size_t slash = path.rfind('/');
    chip_ = slash == std::string::npos ? path : path.substr(slash + 1);
    descriptors = find_descriptors(object);
    for (size_t line = 0; line < listing.size();) { // "0000000000012300 <NAME>:"
        size_t end = std::min(listing.find('\n', line), listing.size()), name = listing.find('<', line);
        if (listing[line] != '\t' && end > line + 2 && listing.compare(end - 2, 2, ">:") == 0) {
            places[listing.substr(name + 1, end - 2 - (name + 1))] = end + 1;
        }
        line = end + 1;
    }
    if (descriptors.empty() || places.empty()) stop(path + ": no kernels in it");
}

unsigned Code::wave_size() {
    return kernel(descriptors.begin()->first)->wave_size;
}

// ---------------------------------------------------------------------------------------------------------------------
// Instructions

// Splits at `separator` where no bracket is open; trims.
static std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    int depth = 0;
    for (char c : text) {
        depth += c == '[' || c == '(';
        depth -= c == ']' || c == ')';
        if (c == separator && depth == 0) parts.emplace_back();
        else if (!parts.back().empty() || c != ' ') parts.back() += c;
    }
    for (std::string& part : parts) part.erase(part.find_last_not_of(' ') + 1);
    return parts;
}

static bool starts(const std::string& text, const char* with) {
    return text.compare(0, strlen(with), with) == 0;
}

// Takes the signs off an operand: -v0, |v0|, -|v0|, sext(v0).
static std::string without_signs(std::string text, Operand* o) {
    if (text.size() > 1 && text[0] == '-' && strchr("vs|a", text[1]) != nullptr)
        o->is_negative = true, text.erase(0, 1);
    if (text.size() > 2 && text[0] == '|') o->is_absolute = true, text = text.substr(1, text.size() - 2);
    if (starts(text, "sext(")) o->is_signed = true, text = text.substr(5, text.size() - 6);
    return text;
}

// Behind a register's number: ".l" and ".h" are its halves.
static void parse_half(const std::string& text, size_t dot, Operand* o) {
    std::string half = dot == std::string::npos ? "" : text.substr(dot);
    if (half.empty()) return;
    if (half != ".l" && half != ".h") stop("an operand that is not understood: " + text);
    o->bits = 16, o->shift = half == ".h" ? 16 : 0, o->halves = half == ".h" ? 2 : 1;
}

// "v5", "v[4:7]", "s2", "a[0:3]", "ttmp9", "v5.h": the class's first register plus the number.
static bool parse_registers(const std::string& text, Operand* o) {
    const struct {
        const char* name;
        Operand::Kind kind;
        unsigned base;
    } classes[] = {{"ttmp", Operand::SCALAR, TTMP},
                   {"v", Operand::VECTOR, 0},
                   {"a", Operand::VECTOR, 256},
                   {"s", Operand::SCALAR, 0}};
    for (const auto& c : classes) {
        if (!starts(text, c.name)) continue;
        const char* number = text.c_str() + strlen(c.name);
        unsigned from, to;
        if (sscanf(number, "[%u:%u]", &from, &to) == 2) o->count = to - from + 1;
        else if (*number < '0' || *number > '9' || sscanf(number, "%u", &from) != 1) continue;
        o->kind = c.kind, o->first = c.base + from;
        parse_half(text, text.find('.'), o);
        if (o->first + o->count > (c.kind == Operand::VECTOR ? (unsigned)NUM_VECTORS : (unsigned)NUM_SCALARS))
            stop("no such register: " + text);
        return true;
    }
    const std::pair<const char*, unsigned> named[] = {{"vcc", VCC},         {"vcc_lo", VCC}, {"vcc_hi", VCC + 1},
                                                      {"m0", M0},           {"exec", EXEC},  {"exec_lo", EXEC},
                                                      {"exec_hi", EXEC + 1}};
    for (const auto& n : named) {
        if (text != n.first) continue;
        o->kind = Operand::SCALAR, o->first = n.second, o->count = text == "vcc" || text == "exec" ? 2 : 1;
        return true;
    }
    return false;
}

static void parse_constant(const std::string& text, Operand* o) {
    char* end;
    o->kind = Operand::CONSTANT;
    if (text.find('.') != std::string::npos && !starts(text, "0x")) { // a float that the instruction set has a code for
        double value = strtod(text.c_str(), &end);
        float narrow = (float)value;
        memcpy(&o->word, &narrow, sizeof narrow);
        memcpy(&o->binary64, &value, sizeof value);
        o->integer = o->binary64;
    } else {
        long long value = strtoll(text.c_str(), &end, 0);
        o->word = (uint32_t)value, o->integer = (uint64_t)value;
        o->binary64 = starts(text, "0x") ? (uint64_t)o->word << 32 : (uint64_t)value; // a literal is the upper half
    }
    if (end == text.c_str() || *end != 0) stop("an operand that is not understood: " + text);
}

static Operand parse_operand(const std::string& text) {
    Operand o;
    std::string name = without_signs(text, &o);
    if (name == "off" || name == "null") return o;
    if (!parse_registers(name, &o)) parse_constant(name, &o);
    return o;
}

// Modifiers that change nothing here: what caches should keep, and a counter of what no kernel does.
static bool is_about_time_alone(const std::string& name) {
    for (const char* known : {"slc", "dlc", "nt", "th", "expcnt"}) {
        if (name == known) return true;
    }
    return false;
}

// "[0,1,0]": a bit for each source, the first the lowest.
static unsigned bits_of_list(const std::string& list) {
    unsigned bits = 0, place = 0;
    for (char c : list) {
        if (c == '0' || c == '1') bits |= (unsigned)(c - '0') << place++;
    }
    return bits;
}

// "src0_sel:BYTE_1", "op_sel:[0,1,0]", "offset:16", "vmcnt(3)", "sc1"
static void parse_modifier(const std::string& text, Instruction* i) {
    size_t colon = text.find_first_of(":(");
    std::string name = text.substr(0, colon), value = colon == std::string::npos ? "" : text.substr(colon + 1);
    bool is_packed = starts(i->name, "v_pk_");
    if ((name == "op_sel" || name == "op_sel_hi") && (starts(i->name, "v_fma_mix") || is_packed)) {
        (name == "op_sel" ? i->op_sel : i->op_sel_hi) = bits_of_list(value);
    } else if (name == "op_sel" && i->operands.at(0).bits == 16) { // the operands' names say so too
    } else if (name == "bitop3") {
        i->truth_table = (unsigned)strtoul(value.c_str(), nullptr, 0);
    } else if ((name == "neg_lo" || name == "neg_hi") && is_packed && i->name != "v_pk_mov_b32") {
        (name == "neg_lo" ? i->neg_lo : i->neg_hi) = bits_of_list(value);
    } else if (name == "src0_sel" || name == "src1_sel") {
        Operand& o = i->operands.at(name == "src0_sel" ? 1 : 2);
        if (starts(value, "BYTE_")) o.bits = 8, o.shift = 8 * (unsigned)(value[5] - '0');
        else if (starts(value, "WORD_")) o.bits = 16, o.shift = 16 * (unsigned)(value[5] - '0');
        else if (value != "DWORD") stop("a selection that is not understood: " + text);
    } else if (name == "row_ror") {
        i->operands.at(1).rotation = (unsigned)strtoul(value.c_str(), nullptr, 0);
    } else if (starts(text, "offset:swizzle(SWAP,")) {
        i->offset = strtol(text.c_str() + strlen("offset:swizzle(SWAP,"), nullptr, 0);
    } else if (text == "row_mask:0xf" || text == "bank_mask:0xf" ||
               name == "bound_ctrl") { // all lanes, each from one that is there
    } else if (name == "offset" || name == "offset0") {
        i->offset = strtol(value.c_str(), nullptr, 0);
    } else if (name == "offset1") {
        i->second_offset = strtol(value.c_str(), nullptr, 0);
    } else if (name == "vmcnt") {
        i->loads_left = strtol(value.c_str(), nullptr, 0);
    } else if (name == "lgkmcnt") {
        i->others_left = strtol(value.c_str(), nullptr, 0);
    } else if (text == "glc" || text == "sc0" || text == "sc1" || text == "th:TH_ATOMIC_RETURN" || name == "scope") {
        i->returns |= text != "sc1" && name != "scope"; // of an atomic operation
        i->looks_far |= text == "glc" || text == "sc1" || text == "scope:SCOPE_DEV" || text == "scope:SCOPE_SYS";
    } else if (text == "dst_sel:WORD_1" || text == "dst_sel:DWORD") {
        i->fills_upper = text == "dst_sel:WORD_1";
    } else if (text == "dst_unused:UNUSED_PAD") {
        i->pads = true;
    } else if (!is_about_time_alone(name)) {
        stop("a modifier that is not understood: " + i->text);
    }
}

static bool has_plain_operands(const std::string& name) {
    for (const char* other : {"s_waitcnt_depctr", "s_delay_alu", "s_sendmsg", "s_clause", "s_nop", "s_code_end",
                              "s_wait_alu", "s_sleep", "s_set_inst_prefetch_distance", "s_inst_prefetch"}) {
        if (name == other) return false;
    }
    return true;
}

static Kind kind_of(const std::string& name) {
    const std::pair<const char*, Kind> prefixes[] = {
        {"v_mfma", MATRIX_KIND},      {"v_wmma", MATRIX_KIND},     {"v_", VECTOR_KIND},
        {"s_load", SCALAR_LOAD_KIND}, {"s_branch", BRANCH_KIND},   {"s_cbranch", BRANCH_KIND},
        {"s_wait", WAIT_KIND},        {"s_barrier", WAIT_KIND},    {"s_nop", WAIT_KIND},
        {"s_sleep", WAIT_KIND},       {"s_delay_alu", WAIT_KIND},  {"s_clause", WAIT_KIND},
        {"s_", SCALAR_KIND},          {"ds_", SHARED_KIND},        {"global_load", LOAD_KIND},
        {"flat_load", LOAD_KIND},     {"scratch_load", LOAD_KIND}, {"global_", STORE_KIND},
        {"flat_", STORE_KIND},        {"scratch_", STORE_KIND}};
    for (const auto& prefix : prefixes) {
        if (starts(name, prefix.first)) return prefix.second;
    }
    return WAIT_KIND; // what caches are told
}

// Of the register that it loads or stores an instruction for 8 or 16 bits may mean one half.
static void narrow_data(Instruction* i) {
    auto has = [i](const char* part) { return i->name.find(part) != std::string::npos; };
    bool is_store = has("_store_b16") || has("_store_b8") || has("_store_d16");
    if (!is_store && !has("_d16")) return;
    i->operands.at(is_store).halves = has("_hi") ? 2 : 1; // a store has its address first
}

// One instruction, or one half of a v_dual.
static Instruction parse_instruction(const std::string& text) {
    Instruction i;
    size_t space = std::min(text.find(' '), text.size());
    i.text = text, i.name = text.substr(0, space);
    for (const char* ending : {"_dpp", "_e32", "_e64", "_sdwa"}) {
        size_t at = i.name.size() > strlen(ending) ? i.name.size() - strlen(ending) : 0;
        if (at > 0 && i.name.compare(at, std::string::npos, ending) == 0) i.name.erase(at);
    }
    if (starts(i.name, "v_dual_")) i.name.erase(2, 5);
    i.operation = find_operation(i.name), i.kind = kind_of(i.name);
    if (starts(i.name, "v_pk_")) i.op_sel_hi = 7;
    std::string rest = space < text.size() ? text.substr(space + 1) : "";
    if (rest.empty() || !has_plain_operands(i.name)) return i;
    std::vector<std::string> fields = split(rest, ','), modifiers;
    for (size_t f = 0; f < fields.size(); f++) {
        std::vector<std::string> words = split(fields[f], ' ');
        bool is_operand = i.name != "s_waitcnt" && i.name.compare(0, 7, "buffer_") != 0 && i.name != "global_inv" &&
                          i.name != "global_wb";
        if (is_operand) i.operands.push_back(parse_operand(words[0]));
        modifiers.insert(modifiers.end(), words.begin() + is_operand, words.end());
    }
    for (const std::string& word : modifiers) {
        if (!word.empty()) parse_modifier(word, &i);
    }
    narrow_data(&i);
    return i;
}

// A line of the disassembly: "<tab>TEXT // ADDRESS: WORDS"
static Instruction parse_line(const std::string& line) {
    size_t comment = line.find("//");
    std::string text = line.substr(1, comment - 1);
    text.erase(text.find_last_not_of(" \t") + 1);
    size_t second = text.find(" :: ");
    Instruction i = parse_instruction(text.substr(0, second));
    if (second != std::string::npos) i.twin.reset(new Instruction(parse_instruction(text.substr(second + 4))));
    i.text = text;
    i.address = comment == std::string::npos ? 0 : strtoull(line.c_str() + comment + 2, nullptr, 16);
    return i;
}

static void link_branches(std::vector<Instruction>* code) {
    std::map<uint64_t, size_t> numbers;
    for (size_t n = 0; n < code->size(); n++) numbers[(*code)[n].address] = n;
    for (Instruction& i : *code) {
        if (!starts(i.name, "s_branch") && !starts(i.name, "s_cbranch")) continue;
        uint64_t target = i.address + 4 + (uint64_t)((int64_t)(int16_t)i.operands.at(0).word * 4);
        if (numbers.count(target) == 0) stop("a branch to nowhere: " + i.text);
        i.target = numbers[target];
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels: the descriptor's fields are those of LLVM's "User Guide for AMDGPU Backend", Kernel Descriptor

// buffer and size of scratch (first, last but one, last), packet of the launch, queue, arguments, number of the launch
static const int SCALARS_OF[7] = {4, 2, 2, 2, 2, 2, 1};

const Kernel* Code::kernel(const std::string& symbol) {
    std::unique_ptr<Kernel>& k = kernels[symbol];
    if (k) return k.get();
    if (descriptors.count(symbol) == 0 || places.count(symbol) == 0) return nullptr;
    size_t d = descriptors[symbol];
    uint32_t setup = at<uint32_t>(object, d + 52);
    uint16_t properties = at<uint16_t>(object, d + 56);
    k.reset(new Kernel());
    k->name = symbol, k->chip = chip_;
    k->generation = (unsigned)atoi(chip_.substr(3, chip_.size() - 5).c_str());
    k->shared_bytes = at<uint32_t>(object, d), k->scratch_bytes = at<uint32_t>(object, d + 4),
    k->argument_bytes = at<uint32_t>(object, d + 8);
    k->user_scalars = setup >> 1 & 31;
    for (int axis = 0; axis < 3; axis++) k->wants_block[axis] = setup >> (7 + axis) & 1;
    int places_of[8] = {0}; // of what a wave may want in its first scalars: bit n of the properties asks for number n
    for (int n = 0; n < 7; n++) places_of[n + 1] = places_of[n] + (properties >> n & 1 ? SCALARS_OF[n] : 0);
    k->dispatch_at = properties & 1 << 1 ? places_of[1] : -1, k->arguments_at = properties & 1 << 3 ? places_of[3] : -1;
    k->wave_size = properties & 1 << 10 ? 32 : 64;
    k->has_new_arguments = (unsigned char)object[EI_ABIVERSION] >= 3;
    for (size_t line = places[symbol]; listing[line] == '\t';) {
        size_t end = std::min(listing.find('\n', line), listing.size());
        k->instructions.push_back(parse_line(listing.substr(line, end - line)));
        line = end + 1;
    }
    link_branches(&k->instructions);
    return k.get();
}

void Code::print_counts(FILE* out) const {
    fprintf(out, "%-60s %8s %12s %10s %12s %10s %10s %10s %10s %10s %10s %14s\n", chip_.c_str(), "blocks", "vector",
            "matrix", "scalar", "load", "store", "shared", "s_load", "branch", "wait", "loaded bytes");
    for (const auto& entry : kernels) {
        if (!entry.second || entry.second->blocks == 0) continue;
        const Kernel& k = *entry.second;
        fprintf(out, "%-60.60s %8llu %12llu %10llu %12llu", k.name.c_str(), (unsigned long long)k.blocks,
                (unsigned long long)k.executed[VECTOR_KIND], (unsigned long long)k.executed[MATRIX_KIND],
                (unsigned long long)k.executed[SCALAR_KIND]);
        for (int kind = LOAD_KIND; kind < NUM_KINDS; kind++)
            fprintf(out, " %10llu", (unsigned long long)k.executed[kind]);
        fprintf(out, " %14llu\n", (unsigned long long)k.loaded_bytes);
    }
}

} // namespace amd
