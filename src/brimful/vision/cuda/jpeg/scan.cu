// Phases that read the scan: first for where its blocks lie, then for their coefficients.
//
// What counts is how long a symbol takes, as each waits for the one before it. So the window is
// filled up by all readers of a warp at the same instruction, with a word that was asked for some
// symbols earlier, and a reader that has too few bits waits until the next time. What is rare, as
// long codes and the ends of intervals, is not in the loop that all of them run.

#define STEPS 4         // between two fillings, which bring 32 bits: as many looks take about that
#define STORE_STEPS 6   // of one symbol each

// A window onto the bits: the next one is its highest. Behind those there it has zeros.
typedef struct {
    u32 high, low;
    int count; // less than 0 where a value was skipped that went on behind them, by 15 at most
    u32 next;  // word
    u32 ahead; // that word
} Window;

// What a place is while it is read from.
typedef struct {
    Window window;
    Turn turn;
    u32 table; // of the next look
    u32 done;  // coefficients of this block, times ONE
    int blocks; // that ended
} Reader;

#define ONE 32 // coefficient, as steps count them
#define WHOLE (64 * ONE)

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

// There are more than 32 bits then, or 17 where it had less than none.
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

// A reader at a bit, that a part of the MCU and a coefficient begin with.
DEVICE Reader reader_at(const Block* block, const u32* words, u32 bit, int part, int coefficient) {
    Reader reader = {window_at(words, bit), block->turns[part], 0, (u32)coefficient * ONE, 0};
    reader.table = coefficient ? reader.turn.ac : block->turns[(part ? part : block->parts) - 1].dc;
    return reader;
}

// The entry that a reader's window shows, whether it has the bits or not.
DEVICE u32 look(const Block* block, const Reader* reader) {
    u32 index = reader->window.high >> (reader->table & 31);
    return *(const u32*)at_number(block, reader->table + 4 * index - (32 - LOOK_BITS));
}

// The step of a code that is too long for the table; one that there is not ends the block, if it is
// not the block's first. Few counts depend on others, so that little waits.
DEVICE u32 long_step(const Block* block, const Reader* reader, int* unknown) {
    u32 at = (reader->table - table_number(block, 2)) >> (DC_BITS + 2); // in tables of DC
    int table = at < 2u << (LOOK_BITS - DC_BITS) ? 2 + (at > 0) : (int)(at & 1);
    int shorter = table < 2 ? DC_BITS : LOOK_BITS, length = shorter + 1;
    u32 code = reader->window.high >> 16;
    const u32* above = block->above[table];
    for (int i = 1; i <= 16 - LOOK_BITS; i++) length += code >= above[shorter + i];
    if (length == shorter + 17 - LOOK_BITS) // of DC there are some more
        for (; length <= 16 && code >= above[length]; length++) {}
    int value = length > 16 ? 0 : block->values_at[table][length] + (int)(code >> (16 - length));
    u32 step = block->steps[table][value & 255];
    if (length > 16 || code < above[shorter] || is_too_large(table, step)) {
        *unknown = 1;
        return 63 << 5 | 16;
    }
    return step + (u32)length;
}

// The step of all the symbols of an entry, or of its first if the block ends before the last.
DEVICE u32 joined(const Reader* reader, u32 entry) {
    u32 before = entry >> (BEFORE_SHIFT - 5); // times ONE, and less than that
    return before + reader->done >= WHOLE ? entry : entry >> STEP_BITS;
}

// Get on by a step: all that comes next depends on it, so there are no branches. One of zero does
// nothing.
DEVICE void follow(const Block* block, Reader* reader, u32 step) {
    u32 on = step & 63 * ONE;
    move_on(&reader->window, step);
    reader->done += on;
    if (on) reader->table = reader->turn.ac;
    if (reader->done >= WHOLE) {
        reader->done = 0;
        reader->table = reader->turn.dc;
        reader->turn = turn_at(block, reader->turn.next);
        reader->blocks++;
    }
}

// What is still to be stored of a step: a pair of AC, or the record of a block with its DC.
typedef struct {
    u32 block;
    int value;
    u32 code;
    int is_pair, is_record;
} Found;

// What a step gives. `seen` gets at least WHOLE once a place is there. Of DC it is the difference.
DEVICE Found found(const Reader* reader, u32 step, u32* seen) {
    int taken = (int)(step & 31), size = (int)(step >> 11 & 15);
    // The value's bits; a negative one has zero first, and its bits are those of its size inverted.
    u32 bits = reader->window.high << (taken - size);
    int sign = (int)bits >> 31; // -1 of a positive one
    int most = (int)shifted(0, ~(bits ^ (u32)sign), (u32)size);
    Found found;
    found.block = (u32)reader->blocks;
    found.value = ~(most ^ sign) + sign + 1;
    found.code = (step >> 5) - 1;
    found.is_record = taken && reader->done == 0;
    found.is_pair = taken && reader->done;
    if (size) *seen |= reader->done + (step & 63 * ONE) - ONE;
    return found;
}

DEVICE void write(Pairs* pairs, Record* records, Found found) {
    if (found.is_pair) append(pairs, found.code, found.value);
    if (found.is_record) {
        Record record = {pairs->at, found.value};
        records[found.block] = record;
    }
}

DEVICE u32 limit_of(const Block* block, int reader) {
    u64 limit = (u64)block->share * (u32)(reader + 1), bits = (u64)block->bytes * 8;
    return (u32)(limit < bits ? limit : bits);
}

// Read a reader's share from a place on. With `store` the place is right, `blocks` says how many
// are before it, and what is found is stored. Returns where the share ends; `blocks` gets those
// that ended in it.
DEVICE Place read_share(
    Block* block, const Work* work, Place place, int number, int* blocks, int store
) {
    const u32* words = (const u32*)work->bits;
    const u32* starts = starts_of(block, work);
    u32 limit = limit_of(block, number);
    int parts = block->parts, expected = block->mcus * parts, segments = block->segments;
    int wrong = 0;
    u32 bit = place.bit, seen = 0;
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
    Reader reader = reader_at(block, words, bit, place.part, place.coefficient);
    if (store) reader.blocks = *blocks;
    u32 first = beginning((u32)reader.blocks, (u32)place.coefficient, number);
    Pairs pairs = {work->pairs, first, first, 0, 0};
    while (!wrong) {
        int unknown = 0;
        // A look must not reach the share's end, nor the padding before the interval's: where a
        // share ends must not depend on how many symbols a look had.
        int stop = least((int)end - 8, (int)limit) - LOOK_BITS;
        while ((int)bit_of(&reader.window) <= stop) {
            fill_up(&reader.window, words);
            int enough = (int)(32 * reader.window.next) - stop;
            // What is found is written a step later: by then it is known.
            Found last = {0, 0, 0, 0, 0};
            UNROLLED for (int i = 0; i < (store ? STORE_STEPS : STEPS); i++) {
                // Values that are skipped need not be there.
                u32 entry = look(block, &reader);
                int needed = store ? (int)(entry & 31) : LOOK_BITS;
                entry = reader.window.count >= (needed > enough ? needed : enough) ? entry : 0;
                if (i == 0 && entry == LONG_CODE) entry = long_step(block, &reader, &unknown);
                else if (!store) entry = joined(&reader, entry);
                if (store) {
                    write(&pairs, work->records, last);
                    last = found(&reader, entry, &seen);
                }
                follow(block, &reader, entry);
            }
            write(&pairs, work->records, last);
        }
        if (store) wrong |= unknown;
        // One symbol, or what is between two intervals.
        bit = bit_of(&reader.window);
        if (bit >= limit) break;
        fill_up(&reader.window, words);
        if (end < bit + 8) {
            // The padding of an interval's last byte is ones, which begin no code so short.
            u32 left = end > bit ? end - bit : 0;
            int whole = reader.turn.part == 0 && reader.done == 0 &&
                        reader.window.high >> 24 >> (8 - left) == (1u << left) - 1;
            if (whole || !left) {
                if (store) wrong |= !whole || bit > end;
                segment++;
                int before = reader.blocks;
                reader = reader_at(block, words, end, 0, 0);
                reader.blocks = before;
                bit = end;
                if (segment >= segments) break;
                end = starts[segment + 1] * 8;
                if (store) wrong |= reader.blocks != segment * block->interval * parts;
                continue;
            }
        }
        u32 entry = look(block, &reader);
        if (entry == LONG_CODE) entry = long_step(block, &reader, &unknown);
        if (store) {
            write(&pairs, work->records, found(&reader, entry, &seen));
            wrong |= unknown;
        }
        follow(block, &reader, entry);
    }
    if (store) {
        // No symbol goes beyond its interval's end, and behind the last block there is none.
        wrong |= bit > end || reader.blocks + (reader.done > 0) > expected;
        if (wrong || seen >= WHOLE) block->status = DAMAGED;
        hand_on(&pairs, work, (u32)reader.blocks, reader.done / ONE, number);
        finish(&pairs);
    } else {
        *blocks = reader.blocks;
    }
    place.bit = bit;
    place.part = (int)reader.turn.part;
    place.coefficient = (int)(reader.done / ONE);
    return place;
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
    place = read_share(block, work, place, reader, &block->totals[reader].blocks, 0);
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
    read_share(block, work, place, thread, &blocks, 1);
}
