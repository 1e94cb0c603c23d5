// Phases before the scan: what the segments of the file say, and the tables made of it.
//
// What libjpeg refuses or warns of must be refused here, since the CPU decodes with it. That is more
// than decoding asks for: it refuses lengths that are too large, markers that mean nothing, and
// tables that cannot be, used or not. A file that is refused here is the CPU's.

#define LARGEST_SIDE 65500 // of an image, where the format has room for 65,535

DEVICE int word(const u8* at) { return at[0] << 8 | at[1]; }

// Note where the Huffman tables of a segment lie. One thread does it.
DEVICE int note_tables(Block* block, const u8* raw, int at, int end) {
    while (at + 17 <= end) {
        int count = 0, kind = raw[at];
        if (kind & 0xee) return UNSUPPORTED;
        for (int i = 1; i <= 16; i++) count += raw[at + i];
        if (count > 256) return DAMAGED;
        block->tables[kind >> 4 << 1 | (kind & 1)] = at + 1;
        at += 17 + count;
    }
    return at == end ? GOOD : DAMAGED;
}

DEVICE int note_quantisers(Block* block, const u8* raw, int at, int end) {
    while (at + 65 <= end) {
        if (raw[at] > 3) return UNSUPPORTED; // of 16 bits, or no such table
        block->quantisers[raw[at]] = at + 1;
        at += 65;
    }
    return at == end ? GOOD : UNSUPPORTED;
}

// Can these be the sampling factors of a component? Both are from 1 to 4.
DEVICE int are_factors(int factors) {
    return (u32)(factors >> 4) - 1 < 4 && (u32)(factors & 15) - 1 < 4;
}

DEVICE int note_frame(Block* block, const i64* image, const u8* raw, int at, int end, u8* names) {
    int across = (int)image[ACROSS], down = (int)image[DOWN];
    int components = image[CHROMA_PITCH] ? 3 : 1;
    int height = (int)image[HEIGHT], width = (int)image[WIDTH];
    if (end - at != 6 + 3 * components || raw[at] != 8) return UNSUPPORTED;
    if (raw[at + 5] != components) return UNSUPPORTED;
    if (word(raw + at + 1) != height || word(raw + at + 3) != width) return UNSUPPORTED;
    if (height > LARGEST_SIDE || width > LARGEST_SIDE) return UNSUPPORTED;
    for (int i = 0; i < components; i++) {
        const u8* component = raw + at + 6 + 3 * i;
        // The blocks of a component alone come in rows, whatever its sampling.
        int right = components == 1 ? are_factors(component[1])
                                    : component[1] == (i ? 0x11 : across << 4 | down);
        if (!right || component[2] > 3) return UNSUPPORTED;
        names[i] = component[0];
        block->quantiser_of[i] = component[2];
    }
    block->components = components;
    block->parts = across * down + components - 1;
    block->across = across;
    block->down = down;
    block->across_mcus = (width + 8 * across - 1) / (8 * across);
    block->mcus = block->across_mcus * ((height + 8 * down - 1) / (8 * down));
    return GOOD;
}

DEVICE int note_scan(Block* block, const u8* raw, int at, int end, const u8* names) {
    int components = block->components;
    const u8* spectrum = raw + at + 1 + 2 * components;
    if (end - at != 4 + 2 * components || raw[at] != components) return UNSUPPORTED;
    for (int i = 0; i < components; i++) {
        int tables = raw[at + 2 + 2 * i];
        if (raw[at + 1 + 2 * i] != names[i] || tables & 0xee) return UNSUPPORTED;
        block->dc_of[i] = tables >> 4;
        block->ac_of[i] = 2 + (tables & 1);
        if (!block->tables[block->dc_of[i]] || !block->tables[block->ac_of[i]]) return UNSUPPORTED;
        if (!block->quantisers[block->quantiser_of[i]]) return UNSUPPORTED;
    }
    if (spectrum[0] != 0 || spectrum[1] != 63 || spectrum[2] != 0) return UNSUPPORTED;
    block->scan = end;
    return GOOD;
}

DEVICE int note_interval(Block* block, const u8* raw, int at, int end) {
    if (end - at != 2) return UNSUPPORTED;
    block->interval = word(raw + at);
    return GOOD;
}

// Is it JFIF of a version that libjpeg warns of? Segments that are shorter say no version.
DEVICE int is_odd_jfif(const u8* raw, int at, int end) {
    return end - at >= 14 && raw[at] == 'J' && raw[at + 1] == 'F' && raw[at + 2] == 'I' &&
           raw[at + 3] == 'F' && raw[at + 4] == 0 && raw[at + 5] != 1;
}

// Read the segments before the scan. One thread does it.
DEVICE void read_segments(Block* block, const i64* image, const Work* work) {
    const u8* raw = work->raw;
    int at = 2, length = work->length, framed = 0, status = GOOD;
    u8 names[3] = {0, 0, 0};
    block->scan = block->interval = 0;
    block->status = GOOD;
    block->stop = length;
    for (int i = 0; i < 4; i++) block->tables[i] = block->quantisers[i] = 0;
    for (int i = 0; i < 3; i++) block->quantiser_of[i] = block->dc_of[i] = block->ac_of[i] = 0;
    while (status == GOOD && !block->scan) {
        if (at + 4 > length || raw[at] != 0xff) {
            status = UNSUPPORTED;
            break;
        }
        int marker = raw[at + 1];
        if (marker == 0xff) { // a fill byte
            at++;
            continue;
        }
        int start = at + 4, end = at + 2 + word(raw + at + 2);
        if (end < start || end > length)
            status = UNSUPPORTED;
        else if (marker == 0xc4)
            status = note_tables(block, raw, start, end);
        else if (marker == 0xdb)
            status = note_quantisers(block, raw, start, end);
        else if (marker == 0xdd)
            status = note_interval(block, raw, start, end);
        else if (marker == 0xda)
            status = framed ? note_scan(block, raw, start, end, names) : UNSUPPORTED;
        else if (marker == 0xc0) {
            status = framed ? UNSUPPORTED : note_frame(block, image, raw, start, end, names);
            framed = 1;
        } else if (marker == 0xe0)
            status = is_odd_jfif(raw, start, end) ? UNSUPPORTED : GOOD;
        else if (marker != 0xfe && (marker < 0xe1 || marker > 0xef)) // comments, applications
            status = UNSUPPORTED;
        at = end;
    }
    if (status != GOOD) block->status = status;
}

// What a code stands for, in 15 bits. From the lowest: 5 that the code and the value behind it take
// together, 6 for how many coefficients it gets on by (from the first of AC, 63 end the block), 4
// that the value takes.
DEVICE u32 step_of(int table, int length, int symbol) {
    int size = symbol & 15, run = symbol >> 4;
    int on = table < 2 ? 1 : size || run == 15 ? run + 1 : 63;
    return (u32)(size << 11 | on << 5 | (length + size));
}

// An entry of the tables: a step, and above it the same of all the symbols that the look shows
// whole: 5 bits that they take, 6 for how many coefficients they get on by, and 6 for how many of
// these are before the last symbol's. A code too long for the table has an entry that does nothing,
// and so has one whose value is too large.
#define STEP_BITS 15
#define STEP_MASK ((1u << STEP_BITS) - 1)
#define BEFORE_SHIFT 26
#define LONG_CODE (63u << BEFORE_SHIFT)

// Does a step give a coefficient of AC that no pair has room for? T.81 has none so large.
DEVICE int is_too_large(int table, u32 step) { return table >= 2 && step >> 11 > PAIR_SIZE; }

// Where the entries of a table begin, and the bits of a look into it. One is left out before those
// of DC, whose looks shift by four bits more, so that `Turn` can have both in one number.
DEVICE int looks_at(int table) {
    return table < 2 ? (2 << LOOK_BITS) + 1 + (table << DC_BITS) : (table - 2) << LOOK_BITS;
}

DEVICE int look_bits(int table) { return table < 2 ? DC_BITS : LOOK_BITS; }

// Bounds of each length of code, one table a thread. No code may be all ones, and differences of
// DC have at most 15 bits.
DEVICE void measure_codes(Block* block, const Work* work, int thread) {
    if (thread >= 4 || !block->tables[thread]) return;
    const u8* counts = work->raw + block->tables[thread];
    u32 code = 0;
    int index = 0;
    for (int length = 1; length <= 16; length++) {
        block->values_at[thread][length] = index - (int)code;
        code += counts[length - 1];
        index += counts[length - 1];
        if (code >= 1u << length) block->status = DAMAGED;
        block->above[thread][length] = code << (16 - length);
        code <<= 1;
    }
    int symbols = 0;
    for (int i = 0; thread < 2 && i < index; i++) symbols |= counts[16 + i];
    if (symbols > 15) block->status = DAMAGED;
}

// What readers know a table by.
DEVICE u32 table_number(const Block* block, int table) {
    return number_of(block, block->looks + looks_at(table)) + 32 - LOOK_BITS;
}

// One block of the MCU a thread.
DEVICE void lay_turns(Block* block, int part) {
    if (part >= block->parts) return;
    int luma = block->across * block->down, behind = part + 1 < block->parts ? part + 1 : 0;
    int component = part < luma ? 0 : part - luma + 1;
    int following = behind < luma ? 0 : behind - luma + 1;
    Turn turn = {table_number(block, block->ac_of[component]),
                 table_number(block, block->dc_of[following]),
                 number_of(block, block->turns + behind), (u32)part};
    block->turns[part] = turn;
}

// The steps of all symbols, to which the lengths of their codes are added.
DEVICE void note_steps(Block* block, const Work* work, int thread) {
    for (int table = 0; table < 4; table++) {
        if (!block->tables[table]) continue;
        const u8* values = work->raw + block->tables[table] + 16;
        int left = work->length - (block->tables[table] + 16);
        for (int i = thread; i < 256; i += THREADS)
            block->steps[table][i] = (u16)step_of(table, 0, i < left ? values[i] : 0);
    }
}

// Entries of one step, and the quantisers in the coefficients' order.
DEVICE void fill_tables(Block* block, const Work* work, int thread) {
    for (int table = 0; table < 4; table++) {
        if (!block->tables[table]) continue;
        int width = look_bits(table);
        u32* looks = block->looks + looks_at(table);
        u32 above[LOOK_BITS + 1];
        for (int i = 1; i <= LOOK_BITS; i++)
            above[i] = i <= width ? block->above[table][i] : 1u << 16;
        for (u32 i = (u32)thread; i < 1u << width; i += THREADS) {
            u32 bits = i << (16 - width), found = LONG_CODE;
            int length = 1;
            for (int j = 1; j <= LOOK_BITS; j++) length += bits >= above[j];
            if (length <= width) {
                int index = block->values_at[table][length] + (int)(bits >> (16 - length));
                found = block->steps[table][index & 255] + (u32)length;
                if (is_too_large(table, found)) found = LONG_CODE;
            }
            looks[i] = found;
        }
    }
    lay_turns(block, thread);
    for (int i = thread; i < block->components * 64; i += THREADS) {
        const u8* values = work->raw + block->quantisers[block->quantiser_of[i / 64]];
        work->quantisers[i / 64 * 64 + NATURAL[i % 64]] = values[i % 64];
    }
}

// Add to each entry what all the symbols of the look do. Other threads only read its step, which
// stays.
DEVICE void join_symbols(Block* block, int thread) {
    for (int table = 0; table < 4; table++) {
        if (!block->tables[table]) continue;
        u32* looks = block->looks + looks_at(table);
        int width = look_bits(table);
        for (u32 i = (u32)thread; i < 1u << width; i += THREADS) {
            u32 step = looks[i] & STEP_MASK, next = step;
            int taken = step & 31, on = step >> 5 & 63, before = 0;
            if (!taken) continue;
            while (table >= 2 && taken < width && on < 63) {
                next = looks[i << taken & ((1u << width) - 1)] & STEP_MASK;
                if (!next || taken + (int)(next & 31) > width) break;
                before = on;
                taken += next & 31;
                on = least(on + (int)(next >> 5 & 63), 63);
            }
            looks[i] = (u32)before << BEFORE_SHIFT | (u32)(on << 5 | taken) << STEP_BITS | step;
        }
    }
}
