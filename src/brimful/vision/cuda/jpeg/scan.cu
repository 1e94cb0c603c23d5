// Phases that read the scan: first for where its blocks lie, then for their coefficients.
//
// What counts is how long a symbol takes, as each waits for the one before it. So the window is
// filled up by all readers of a warp at the same instruction, with a word that was asked for some
// symbols earlier, and a reader that has too few bits waits until the next time. What is rare, as
// long codes and the ends of intervals, is not in the loop that all of them run.

#define STEPS 4         // between two fillings, which bring 32 bits: as many looks take about that
#define STORE_STEPS 6   // of one symbol each
#define MOST_TAKEN 31   // bits of a symbol: 16 of its code and 15 of its value
#define SURE (LOOK_BITS + 8) // bits before an end, where no look and no padding reaches it

// A window onto the bits: the next one is its highest. Behind those there it has zeros.
typedef struct {
    u32 high, low;
    int count;
    u32 next;  // word
    u32 ahead; // that word
} Window;

// What a place is while it is read from.
typedef struct {
    Window window;
    u32 kinds; // of this block, lowest, and those behind it
    u32 table, shift; // of the next look
    int coefficient;
    int blocks; // that ended
} Reader;

DEVICE u32 big_endian(u32 word) {
#ifdef __CUDACC__
    return __byte_perm(word, 0, 0x0123);
#else
    return __builtin_bswap32(word);
#endif
}

DEVICE Window window_at(const u32* words, u32 bit) {
    Window window;
    const u32* at = words + (bit >> 5);
    u32 high = big_endian(at[0]), low = big_endian(at[1]);
    window.next = (bit >> 5) + 2;
    window.high = shifted(high, low, bit);
    window.low = shifted(low, 0, bit);
    window.count = 64 - (int)(bit & 31);
    window.ahead = words[window.next];
    return window;
}

// There are more than 32 bits then.
DEVICE void fill_up(Window* window, const u32* words) {
    if (window->count <= 32) {
        u64 added = (u64)big_endian(window->ahead) << (32 - window->count);
        window->high |= (u32)(added >> 32);
        window->low |= (u32)added;
        window->count += 32;
        window->ahead = words[++window->next];
    }
}

// Get on by the lowest five bits of `taken`.
DEVICE void move_on(Window* window, u32 taken) {
    window->high = shifted(window->high, window->low, taken);
    window->low = shifted(window->low, 0, taken);
    window->count -= (int)(taken & 31);
}

DEVICE u32 bit_of(const Window* window) { return 32 * window->next - (u32)window->count; }

// Each block of an MCU has four bits, its kind: its tables of DC and of AC, where they count as
// indices, and whether it is of chroma; and then whether that is red, else whether other blocks of
// the MCU are before it. The MCU repeats, so kinds are turned round. What they leave below is
// nobody's.
#define KIND_BITS 4
#define OTHER (1u << (DC_BITS - 1))
#define DC_KIND (1u << DC_BITS)
#define CHROMA (1u << (DC_BITS + 1))
#define AC_KIND (1u << LOOK_BITS)
#define DC_LOOKS (2u << LOOK_BITS) // where the tables of DC begin
#define KIND (OTHER | DC_KIND | CHROMA | AC_KIND)

DEVICE u32 kinds_of(const Block* block) {
    u32 kinds = 0;
    int luma = block->across * block->down;
    for (int part = block->parts - 1; part >= 0; part--) {
        int component = part < luma ? 0 : part - luma + 1;
        u32 kind = block->dc_of[component] ? DC_KIND : 0;
        if (block->ac_of[component] == 3) kind |= AC_KIND;
        if (component) kind |= CHROMA;
        if (component ? component == 2 : part) kind |= OTHER;
        kinds = kinds << KIND_BITS | kind;
    }
    return kinds;
}

DEVICE u32 turned(u32 kinds, int parts) {
    return kinds >> KIND_BITS | (kinds & KIND) << (KIND_BITS * (parts - 1));
}

DEVICE int is_first(u32 kinds) { return !(kinds & (CHROMA | OTHER)); }

DEVICE int component_of(u32 kinds) { return kinds & CHROMA ? kinds & OTHER ? 2 : 1 : 0; }

DEVICE u32 kinds_at(u32 kinds, int part, int parts) {
    for (int i = 0; i < part; i++) kinds = turned(kinds, parts);
    return kinds;
}

DEVICE int part_of(u32 kinds, int parts) {
    int part = 0;
    for (; !is_first(kinds); kinds = turned(kinds, parts)) part = part ? part - 1 : parts - 1;
    return part;
}

DEVICE Reader reader_at(const u32* words, u32 bit, u32 kinds, int coefficient, int blocks) {
    Reader reader = {window_at(words, bit), kinds, kinds & AC_KIND, 32 - LOOK_BITS, coefficient,
                     blocks};
    if (!coefficient) {
        reader.table = (kinds & DC_KIND) | DC_LOOKS;
        reader.shift = 32 - DC_BITS;
    }
    return reader;
}

// The entry for the window of a reader that has `enough` bits, else one that does nothing.
DEVICE u32 entry_of(const Block* block, const Reader* reader, int enough) {
    u32 entry = block->looks[reader->table + (reader->window.high >> reader->shift)];
    return reader->window.count >= enough ? entry : 0;
}

// The step of a code that is too long for the table; one that there is not ends the block, if it is
// not the block's first. No count depends on another one, so that nothing waits.
DEVICE u32 long_step(const Block* block, const Reader* reader, int* unknown) {
    u32 index = reader->table; // 0 and AC_KIND, DC_LOOKS and DC_LOOKS + DC_KIND
    int table = index < DC_LOOKS ? index ? 3 : 2 : index > DC_LOOKS;
    u32 code = reader->window.high >> 16;
    int length = DC_BITS + 1;
    for (int i = DC_BITS + 1; i <= 16; i++) length += code >= block->above[table][i];
    if (length > 16) {
        *unknown = 1;
        return 63 << 5 | 16;
    }
    int value = block->values_at[table][length] + (int)(code >> (16 - length));
    return step_of(table, length, block->values[table][value & 255]);
}

// The step of all the symbols of an entry, or of its first if the block ends before the last.
DEVICE u32 joined(const Reader* reader, u32 entry) {
    u32 most = ~((u32)reader->coefficient << BEFORE_SHIFT); // 63 - coefficient are before the last
    return entry > most ? entry : entry >> STEP_BITS;
}

// Get on by a step: all that comes next depends on it, so there are no branches. One of zero does
// nothing.
DEVICE void follow(Reader* reader, u32 step, int parts) {
    int on = (int)(step >> 5 & 63);
    u32 kinds = turned(reader->kinds, parts), dc = (kinds & DC_KIND) | DC_LOOKS;
    u32 table = on ? reader->kinds & AC_KIND : reader->table;
    u32 shift = on ? 32 - LOOK_BITS : reader->shift;
    move_on(&reader->window, step);
    on += reader->coefficient;
    int ended = on > 63;
    reader->coefficient = ended ? 0 : on;
    reader->table = ended ? dc : table;
    reader->shift = ended ? 32 - DC_BITS : shift;
    reader->kinds = ended ? kinds : reader->kinds;
    reader->blocks += ended;
}

// A coefficient that is still to be stored.
typedef struct {
    u32 at;
    int value, is;
} Found;

// What a step gives. `seen` has a bit above 63 once a place is there.
DEVICE Found found(const Block* block, const Reader* reader, u32 step, int expected, int* seen) {
    int taken = (int)(step & 31), size = (int)(step >> 11 & 15);
    int behind = reader->coefficient + (int)(step >> 5 & 63);
    // The value's bits; a negative one has zero first, and its bits are those of its size inverted.
    u32 bits = reader->window.high << (taken - size);
    int sign = ~((int)bits >> 31);
    Found found;
    found.value = ((int)((bits ^ (u32)sign) >> (-size & 31)) ^ sign) - sign;
    found.at = (u32)reader->blocks * 64 + block->natural[behind];
    found.is = size && reader->blocks < expected;
    *seen |= size ? behind - 1 : 0;
    return found;
}

DEVICE void write(i16* coefficients, Found found) {
    if (found.is) coefficients[found.at] = (i16)found.value;
}

// Read a share from a place on. With `store` the place is right, `blocks` says how many are before
// it, and the coefficients are stored in the scan's order, of DC the differences. Returns where the
// share ends; `blocks` gets those that ended in it.
DEVICE Place read_share(
    Block* block, const Work* work, Place place, u32 limit, int* blocks, int store
) {
    const u32* words = (const u32*)work->bits;
    const u32* starts = starts_of(block, work);
    i16* coefficients = work->coefficients;
    int parts = block->parts, expected = block->mcus * parts, segments = block->segments;
    int wrong = 0, seen = 0;
    u32 all_kinds = kinds_of(block), bit = place.bit;
    // The interval that the place is in.
    int segment = 0, beyond = segments;
    while (beyond - segment > 1) {
        int middle = (segment + beyond) / 2;
        if (starts[middle] * 8 <= bit) segment = middle;
        else beyond = middle;
    }
    u32 end = starts[segment + 1] * 8;
    if (store && segment && bit == starts[segment] * 8) // the thread before stopped short of it
        wrong |= *blocks != segment * block->interval * parts || place.part || place.coefficient;
    u32 kinds = kinds_at(all_kinds, place.part, parts);
    Reader reader = reader_at(words, bit, kinds, place.coefficient, store ? *blocks : 0);
    while (!wrong) {
        int unknown = 0;
        u32 stop = end < limit ? end : limit;
        while (bit_of(&reader.window) + SURE <= stop) {
            fill_up(&reader.window, words);
            // Where the share ends must not depend on how many symbols a look had.
            int enough = (int)(32 * reader.window.next + SURE - stop);
            if (enough < MOST_TAKEN) enough = MOST_TAKEN;
            // A coefficient is written a step later: by then it is known where.
            Found last = {0, 0, 0};
            UNROLLED for (int i = 0; i < (store ? STORE_STEPS : STEPS); i++) {
                u32 entry = entry_of(block, &reader, enough);
                if (i == 0 && entry == LONG_CODE) entry = long_step(block, &reader, &unknown);
                else if (!store) entry = joined(&reader, entry);
                if (store) {
                    write(coefficients, last);
                    last = found(block, &reader, entry, expected, &seen);
                }
                follow(&reader, entry, parts);
            }
            write(coefficients, last);
        }
        if (store) wrong |= unknown;
        // One symbol, or what is between two intervals.
        bit = bit_of(&reader.window);
        if (bit >= limit) break;
        fill_up(&reader.window, words);
        u32 bits = reader.window.high;
        if (end < bit + 8) {
            // The padding of an interval's last byte is ones, which begin no code so short.
            u32 left = end > bit ? end - bit : 0;
            int whole = is_first(reader.kinds) && reader.coefficient == 0 &&
                        bits >> 24 >> (8 - left) == (1u << left) - 1;
            if (whole || !left) {
                if (store) wrong |= !whole || bit > end;
                segment++;
                reader = reader_at(words, end, all_kinds, 0, reader.blocks);
                bit = end;
                if (segment >= segments) break;
                end = starts[segment + 1] * 8;
                if (store) wrong |= reader.blocks != segment * block->interval * parts;
                continue;
            }
        }
        u32 entry = entry_of(block, &reader, 0);
        if (entry == LONG_CODE) entry = long_step(block, &reader, &unknown);
        if (store) {
            write(coefficients, found(block, &reader, entry, expected, &seen));
            wrong |= unknown;
        }
        follow(&reader, entry, parts);
    }
    if (store) {
        // No symbol goes beyond its interval's end, and behind the last block there is none.
        wrong |= bit > end || reader.blocks + (reader.coefficient > 0) > expected;
        if (wrong || seen > 63) block->status = DAMAGED;
    } else {
        *blocks = reader.blocks;
    }
    place.bit = bit;
    place.part = part_of(reader.kinds, parts);
    place.coefficient = reader.coefficient;
    return place;
}

DEVICE u32 limit_of(const Block* block, int thread) {
    u64 limit = (u64)block->share * (u32)(thread + 1), bits = (u64)block->bytes * 8;
    return (u32)(limit < bits ? limit : bits);
}

// Each share is read from where it begins first, whatever that is the middle of.
DEVICE void begin(Block* block, int thread) {
    block->begins[thread] = 0;
    block->listed[thread] = (u16)thread;
    if (thread == 0) block->listed_count[0] = block->readers;
}

DEVICE void read_on(Block* block, const Work* work, int reader) {
    u32 start = block->share * (u32)reader, limit = limit_of(block, reader);
    Place place = unpacked(block->begins[reader], start);
    place = read_share(block, work, place, limit, &block->totals[reader].blocks, 0);
    block->ends[reader] = packed(place, limit);
}

// Read for one of those listed. They are few after two rounds, and the first warps read for all.
DEVICE void read_listed(Block* block, const Work* work, int thread, int round) {
    if (thread == 0) block->listed_count[~round & 1] = 0;
    if (thread < block->listed_count[round & 1]) read_on(block, work, block->listed[thread]);
}

DEVICE int counted(int* count) {
#ifdef __CUDACC__
    return atomicAdd(count, 1);
#else
    return (*count)++;
#endif
}

// Has the thread before ended elsewhere than this one began? Then this one has to read again, in
// the round behind this one.
DEVICE void list_moved(Block* block, int thread, int round) {
    if (thread == 0 || thread >= block->readers) return;
    if (block->begins[thread] == block->ends[thread - 1]) return;
    block->begins[thread] = block->ends[thread - 1];
    block->listed[counted(&block->listed_count[~round & 1])] = (u16)thread;
}

// Turn the blocks of shares into those before each one, in two levels: first within groups...
DEVICE void count_groups(Block* block, int thread) {
    if (thread >= GROUPS) return;
    int before = 0;
    for (int i = thread * THREADS / GROUPS; i < (thread + 1) * THREADS / GROUPS; i++) {
        if (i >= block->readers) break;
        int here = block->totals[i].blocks;
        block->totals[i].blocks = before;
        before += here;
    }
    block->groups[thread].blocks = before;
}

// ...then of groups, by one thread...
DEVICE void count_up(Block* block) {
    int before = 0;
    for (int i = 0; i < GROUPS; i++) {
        int here = block->groups[i].blocks;
        block->groups[i].blocks = before;
        before += here;
    }
    if (before != block->mcus * block->parts) block->status = DAMAGED;
    // The last interval, too, must not be longer than it may be.
    int interval = block->interval;
    if (interval && (block->mcus - 1) / interval >= block->segments) block->status = DAMAGED;
}

// ...and both together.
DEVICE void store(Block* block, const Work* work, int thread) {
    if (thread >= block->readers) return;
    Place place = unpacked(block->begins[thread], block->share * (u32)thread);
    int blocks = block->groups[thread / (THREADS / GROUPS)].blocks + block->totals[thread].blocks;
    read_share(block, work, place, limit_of(block, thread), &blocks, 1);
}
