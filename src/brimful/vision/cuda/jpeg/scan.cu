// Phases that read the scan: first for where its blocks lie, then for their coefficients.
//
// What counts is how long a symbol takes, as each waits for the one before it. So the window is
// filled up by all readers of a warp at the same instruction, with a word that was asked for some
// symbols earlier, and a reader that has too few bits waits until the next time. What is rare, as
// long codes and the ends of intervals, is not in the loop that all of them run.

#define STEPS 4         // between two fillings
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
    u32 kinds;       // of this block and the following ones, see `kinds_of`
    int coefficient;
    int blocks;      // that ended
} Reader;

// Where a reader that stores is.
typedef struct {
    i16* target; // the block, 0 behind the last one
    int part, x, mcu, luma; // `luma`: the MCU's first block
    int sum0, sum1, sum2;   // of the differences of DC in this share
} Writer;

DEVICE u32 big_endian(u32 word) {
#ifdef __CUDACC__
    return __byte_perm(word, 0, 0x0123);
#else
    return __builtin_bswap32(word);
#endif
}

// The upper word of two, shifted by the lowest five bits of `by`.
DEVICE u32 shifted(u32 high, u32 low, u32 by) {
#ifdef __CUDACC__
    return __funnelshift_l(low, high, by);
#else
    return (u32)(((u64)high << 32 | low) << (by & 31) >> 32);
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

// Three bits for each block of an MCU: its tables of DC and of AC, and whether it is the first. The
// next block's are the lowest; the MCU repeats, so they are turned round.
DEVICE u32 kinds_of(const Block* block) {
    u32 kinds = 0;
    int luma = block->across * block->down;
    for (int part = block->parts - 1; part >= 0; part--) {
        int component = part < luma ? 0 : part - luma + 1;
        u32 kind = (u32)(block->dc_of[component] | (block->ac_of[component] - 2) << 1);
        kinds = kinds << 3 | kind | (part ? 0 : 4);
    }
    return kinds;
}

DEVICE u32 turned(u32 kinds, int parts) { return kinds >> 3 | (kinds & 7) << (3 * parts - 3); }

DEVICE int part_of(u32 kinds, int parts) {
    int part = 0;
    for (; !(kinds & 4); kinds = turned(kinds, parts)) part = part ? part - 1 : parts - 1;
    return part;
}

// Where the entry for the window lies.
DEVICE u32 look_at(const Reader* reader) {
    u32 ac = (reader->kinds & 2) << (LOOK_BITS - 1);
    u32 dc = (2 << LOOK_BITS) + ((reader->kinds & 1) << DC_BITS);
    int first = reader->coefficient == 0;
    return (first ? dc : ac) + (reader->window.high >> (first ? 32 - DC_BITS : 32 - LOOK_BITS));
}

// The step of a code that is too long for the table; one that there is not ends the block, if it is
// not the block's first. No count depends on another one, so that nothing waits.
DEVICE u32 long_step(const Block* block, const Reader* reader, int* known) {
    int table = (int)(reader->coefficient ? 2 | (reader->kinds >> 1 & 1) : reader->kinds & 1);
    u32 code = reader->window.high >> 16;
    int length = DC_BITS + 1;
    for (int i = DC_BITS + 1; i <= 16; i++) length += code >= block->above[table][i];
    *known = length <= 16;
    if (length > 16) return 63 << 5 | 16;
    int index = block->values_at[table][length] + (int)(code >> (16 - length));
    return step_of(table, length, block->values[table][index & 255]);
}

// Get on to the next block if this one has ended.
DEVICE void follow(Reader* reader, int parts) {
    u32 kinds = turned(reader->kinds, parts);
    int ended = reader->coefficient > 63;
    reader->kinds = ended ? kinds : reader->kinds;
    reader->coefficient = ended ? 0 : reader->coefficient;
    reader->blocks += ended;
}

// The entry for the window of a reader that has `enough` bits, else one that does nothing.
DEVICE u32 entry_of(const Block* block, const Reader* reader, int enough) {
    return reader->window.count >= enough ? block->looks[look_at(reader)] : 0;
}

// The step of all the symbols of an entry, or of its first if the block ends before the last.
DEVICE u32 joined(const Reader* reader, u32 entry) {
    u32 most = ~((u32)reader->coefficient << BEFORE_SHIFT); // 63 - coefficient are before the last
    return entry > most ? entry : entry >> STEP_BITS;
}

// Skip what a step takes.
DEVICE void skip(Reader* reader, u32 step, int parts) {
    move_on(&reader->window, step);
    reader->coefficient += (int)(step >> 5 & 63);
    follow(reader, parts);
}

// Where the coefficients of a block go.
DEVICE i16* stored(const Block* block, const Work* work, const Writer* writer) {
    int luma = block->across * block->down, part = writer->part, blocks;
    if (part < luma) {
        int down = block->across == 2 ? part >> 1 : part;
        int across = block->across == 2 ? part & 1 : 0;
        blocks = writer->luma + down * block->across_mcus * block->across + across;
    } else {
        blocks = block->mcus * part + writer->mcu; // Cb and Cr come after all of luma
    }
    return work->coefficients + (i64)blocks * 64;
}

// Stand at a block, counted as the scan has them.
DEVICE Writer writer_at(const Block* block, const Work* work, int blocks) {
    Writer writer = {0, blocks % block->parts, 0, blocks / block->parts, 0, 0, 0, 0};
    int y = writer.mcu / block->across_mcus;
    writer.x = writer.mcu - y * block->across_mcus;
    writer.luma = (y * block->down * block->across_mcus + writer.x) * block->across;
    if (blocks < block->mcus * block->parts) writer.target = stored(block, work, &writer);
    return writer;
}

// Go to the block behind, which is the given one.
DEVICE void go_on(const Block* block, const Work* work, Writer* writer, int blocks) {
    if (++writer->part == block->parts) {
        writer->part = 0;
        writer->mcu++;
        writer->luma += block->across;
        if (++writer->x == block->across_mcus) {
            writer->x = 0;
            writer->luma += (block->down - 1) * block->across_mcus * block->across;
        }
    }
    int there = blocks < block->mcus * block->parts;
    writer->target = there ? stored(block, work, writer) : 0;
}

// Store the coefficient of a step, if it has one, and get on. A step of zero does nothing. Of DC it
// is the sum of the differences so far.
DEVICE void write(Block* block, const Work* work, Reader* reader, Writer* writer, u32 step) {
    int taken = (int)(step & 31), on = (int)(step >> 5 & 63), size = (int)(step >> 11 & 15);
    int luma = block->across * block->down, first = reader->coefficient == 0 && on;
    // The value's bits, and below half of their range it is negative.
    int value = (int)((reader->window.high << (taken - size)) >> 1 >> (31 - size));
    if (value < 1 << size >> 1) value -= (1 << size) - 1;
    int at = reader->coefficient + on - 1;
    if (first) {
        int component = writer->part < luma ? 0 : writer->part - luma + 1;
        writer->sum0 += component == 0 ? value : 0;
        writer->sum1 += component == 1 ? value : 0;
        writer->sum2 += component == 2 ? value : 0;
        value = component == 0 ? writer->sum0 : component == 1 ? writer->sum1 : writer->sum2;
    }
    if (first || size) {
        if (at > 63) block->status = DAMAGED;
        else if (writer->target) writer->target[block->natural[at]] = (i16)value;
    }
    move_on(&reader->window, step);
    reader->coefficient += on;
    if (reader->coefficient > 63) go_on(block, work, writer, reader->blocks + 1);
    follow(reader, block->parts);
}

// Read a share from a place on. With `store` the place is right, `blocks` says how many are before
// it, and the coefficients are stored, those of DC less what was before; `totals` gets the sums of
// DC. Returns then how many sums lack what was before. Without it, `totals` gets the blocks, and
// `place` is where the share ends.
DEVICE int read_share(
    Block* block, const Work* work, Place* place, u32 limit, Totals* totals, int blocks, int store
) {
    const u32* words = (const u32*)work->bits;
    const u32* starts = starts_of(block, work);
    int parts = block->parts, expected = block->mcus * parts, restarts = 0, lacking = -1;
    int begun = blocks + (place->coefficient > 0);
    u32 all_kinds = kinds_of(block), bit = place->bit;
    // The interval that the place is in.
    int segment = 0, beyond = block->segments;
    while (beyond - segment > 1) {
        int middle = (segment + beyond) / 2;
        if (starts[middle] * 8 <= bit) segment = middle;
        else beyond = middle;
    }
    u32 end = starts[segment + 1] * 8;
    if (store && segment && bit == starts[segment] * 8) { // the thread before stopped short of it
        restarts = 1;
        lacking = 0;
        if (blocks != segment * block->interval * parts) block->status = DAMAGED;
    }
    Reader reader = {window_at(words, bit), all_kinds, place->coefficient, blocks};
    for (int i = 0; i < place->part; i++) reader.kinds = turned(reader.kinds, parts);
    Writer writer = {0, 0, 0, 0, 0, 0, 0, 0};
    if (store) writer = writer_at(block, work, blocks);
    for (;;) {
        u32 stop = end < limit ? end : limit;
        while (bit_of(&reader.window) + SURE <= stop && (!store || writer.target)) {
            fill_up(&reader.window, words);
            // Where the share ends must not depend on how many symbols a look had.
            int enough = (int)(32 * reader.window.next + SURE - stop);
            if (enough < MOST_TAKEN) enough = MOST_TAKEN;
            u32 entry = entry_of(block, &reader, enough);
            int known = 1;
            if (entry == LONG_CODE) entry = long_step(block, &reader, &known);
            if (store) {
                if (!known) block->status = DAMAGED;
                write(block, work, &reader, &writer, entry & STEP_MASK);
            } else {
                skip(&reader, entry >> STEP_BITS ? joined(&reader, entry) : entry, parts);
            }
            for (int i = 1; i < STEPS; i++) {
                if (store) {
                    int there = writer.target ? enough : 1 << 30;
                    entry = entry_of(block, &reader, there) & STEP_MASK;
                    write(block, work, &reader, &writer, entry);
                } else {
                    skip(&reader, joined(&reader, entry_of(block, &reader, enough)), parts);
                }
            }
        }
        // One symbol, or what is between two intervals.
        bit = bit_of(&reader.window);
        if (bit >= limit) break;
        fill_up(&reader.window, words);
        u32 bits = reader.window.high;
        if (end < bit + 8) {
            // The padding of an interval's last byte is ones, which begin no code so short.
            u32 left = end > bit ? end - bit : 0;
            int whole = reader.kinds & 4 && reader.coefficient == 0 &&
                        bits >> 24 >> (8 - left) == (1u << left) - 1;
            if (whole || !left) {
                if (store && (!whole || bit > end)) block->status = DAMAGED;
                segment++;
                reader.kinds = all_kinds;
                reader.coefficient = 0;
                reader.window = window_at(words, end);
                bit = end;
                if (segment >= block->segments) break;
                end = starts[segment + 1] * 8;
                if (!store) continue;
                if (!restarts) lacking = reader.blocks - begun;
                restarts = 1;
                writer.sum0 = writer.sum1 = writer.sum2 = 0;
                if (reader.blocks != segment * block->interval * parts) {
                    block->status = DAMAGED;
                    break;
                }
                continue;
            }
        }
        u32 entry = block->looks[look_at(&reader)];
        int known = 1;
        if (entry == LONG_CODE) entry = long_step(block, &reader, &known);
        if (store) {
            if (!known) block->status = DAMAGED;
            write(block, work, &reader, &writer, entry & STEP_MASK);
            if (!writer.target && reader.coefficient) { // behind the last block must be the end
                block->status = DAMAGED;
                break;
            }
        } else {
            skip(&reader, entry, parts);
        }
    }
    if (!store) {
        totals->blocks = reader.blocks;
        place->bit = bit;
        place->part = part_of(reader.kinds, parts);
        place->coefficient = reader.coefficient;
        return 0;
    }
    if (bit > (u32)block->bytes * 8) block->status = DAMAGED;
    totals->restarts = (u16)restarts;
    totals->sums[0] = (u16)writer.sum0;
    totals->sums[1] = (u16)writer.sum1;
    totals->sums[2] = (u16)writer.sum2;
    if (lacking < 0) lacking = least(reader.blocks + (reader.coefficient > 0), expected) - begun;
    return lacking;
}

DEVICE u32 limit_of(const Block* block, int thread) {
    u64 limit = (u64)block->share * (u32)(thread + 1), bits = (u64)block->bytes * 8;
    return (u32)(limit < bits ? limit : bits);
}

// Each share is read from where it begins first, whatever that is the middle of. Returns whether
// there is one.
DEVICE int begin(Block* block, int thread) {
    block->begins[thread] = 0;
    return thread < block->readers;
}

DEVICE void read_on(Block* block, const Work* work, int thread) {
    u32 start = block->share * (u32)thread, limit = limit_of(block, thread);
    Place place = unpacked(block->begins[thread], start);
    read_share(block, work, &place, limit, &block->totals[thread], 0, 0);
    block->ends[thread] = packed(place, limit);
}

// Has the thread before ended elsewhere than this one began? Then it has to read again.
DEVICE int is_moved(Block* block, int thread) {
    if (thread == 0 || thread >= block->readers) return 0;
    if (block->begins[thread] == block->ends[thread - 1]) return 0;
    block->begins[thread] = block->ends[thread - 1];
    return 1;
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
}

// ...and both together.
DEVICE int blocks_before(const Block* block, int thread) {
    return block->groups[thread / (THREADS / GROUPS)].blocks + block->totals[thread].blocks;
}

// Returns for how many blocks of the share the sums of DC lack what was before it.
DEVICE int store(Block* block, const Work* work, int thread) {
    if (thread >= block->readers) return 0;
    Place place = unpacked(block->begins[thread], block->share * (u32)thread);
    int blocks = blocks_before(block, thread);
    return read_share(
        block, work, &place, limit_of(block, thread), &block->totals[thread], blocks, 1);
}

// Add the sums of a second share to those of the first.
DEVICE void append(Totals* first, const Totals* second) {
    for (int i = 0; i < 3; i++)
        first->sums[i] = (u16)(second->sums[i] + (second->restarts ? 0 : first->sums[i]));
    first->restarts |= second->restarts;
}

// Turn the sums of shares into what is before each one, as with blocks.
DEVICE void sum_groups(Block* block, int thread) {
    if (thread >= GROUPS) return;
    Totals before = {0, {0, 0, 0}, 0};
    for (int i = thread * THREADS / GROUPS; i < (thread + 1) * THREADS / GROUPS; i++) {
        if (i >= block->readers) break;
        Totals here = block->totals[i];
        before.blocks = here.blocks;
        block->totals[i] = before;
        append(&before, &here);
    }
    before.blocks = block->groups[thread].blocks;
    block->groups[thread] = before;
}

DEVICE void sum_up(Block* block) {
    Totals before = {0, {0, 0, 0}, 0};
    for (int i = 0; i < GROUPS; i++) {
        Totals here = block->groups[i];
        before.blocks = here.blocks;
        block->groups[i] = before;
        append(&before, &here);
    }
}

// Add what was before the share to the sums that lack it.
DEVICE void add_before(Block* block, const Work* work, int thread, int lacking) {
    if (thread >= block->readers || lacking <= 0) return;
    Totals before = block->groups[thread / (THREADS / GROUPS)];
    append(&before, &block->totals[thread]);
    Place place = unpacked(block->begins[thread], 0);
    int luma = block->across * block->down;
    int blocks = blocks_before(block, thread) + (place.coefficient > 0);
    Writer writer = writer_at(block, work, blocks);
    for (int i = 0; i < lacking; i++) {
        int component = writer.part < luma ? 0 : writer.part - luma + 1;
        u16 sum = component == 0 ? before.sums[0] : component == 1 ? before.sums[1] : before.sums[2];
        if (writer.target) *writer.target = (i16)(*writer.target + sum);
        go_on(block, work, &writer, ++blocks);
    }
}
