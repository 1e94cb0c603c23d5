// Phases that read the scan: first for where its blocks lie, then for their coefficients.

// A window onto the bits: the next one is its highest. At least 32 are there.
typedef struct {
    u64 bits;
    int count;
    u32 next;  // word
    u32 ahead; // that word, asked for long before it is needed
} Window;

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
    window.next = (bit >> 5) + 2;
    window.bits = (u64)big_endian(at[0]) << 32 | big_endian(at[1]);
    window.bits <<= bit & 31;
    window.count = 64 - (int)(bit & 31);
    window.ahead = words[window.next];
    return window;
}

DEVICE void move_on(Window* window, const u32* words, int bits) {
    window->bits <<= bits;
    window->count -= bits;
    if (window->count < 32) {
        window->bits |= (u64)big_endian(window->ahead) << (32 - window->count);
        window->count += 32;
        window->ahead = words[++window->next];
    }
}

// Where the coefficients of a block go.
DEVICE i16* stored(const Block* block, const Work* work, int x, int y, int part) {
    int luma = block->across * block->down, columns = block->across_mcus, blocks;
    if (part < luma) {
        int down = block->across == 2 ? part >> 1 : part;
        int across = block->across == 2 ? part & 1 : 0;
        blocks = (y * block->down + down) * columns * block->across + x * block->across + across;
    } else {
        blocks = block->mcus * part + y * columns + x; // Cb and Cr come after all of luma
    }
    return work->coefficients + (i64)blocks * 64;
}

// Look up a code that is too long for the table; 0 if there is none.
DEVICE u32 long_step(const Block* block, int table, u32 code) {
    int length = FAST_BITS + 1;
    while (length <= 16 && code >= block->above[table][length]) length++;
    if (length > 16) return 0;
    int index = block->values_at[table][length] + (int)(code >> (16 - length));
    return step_of(table, length, block->values[table][index & 255]);
}

// Read a share from a place on. With `store` the place is right, `totals` says what was before it,
// and the coefficients are stored; else `totals` gets what is in it.
DEVICE Place read_share(
    Block* block, const Work* work, Place place, u32 limit, Totals* totals, int store
) {
    const u32* words = (const u32*)work->bits;
    const u32* starts = starts_of(block, work);
    int luma = block->across * block->down, parts = block->parts, expected = block->mcus * parts;
    int blocks = store ? totals->blocks : 0, restarts = 0;
    int sum0 = store ? totals->sums[0] : 0, sum1 = store ? totals->sums[1] : 0;
    int sum2 = store ? totals->sums[2] : 0;
    u32 bit = place.bit;
    int part = place.block, k = place.coefficient;
    // The interval that the place is in.
    int segment = 0, beyond = block->segments;
    while (beyond - segment > 1) {
        int middle = (segment + beyond) / 2;
        if (starts[middle] * 8 <= bit) segment = middle;
        else beyond = middle;
    }
    u32 end = starts[segment + 1] * 8;
    if (segment && bit == starts[segment] * 8) { // the thread before stopped short of it
        sum0 = sum1 = sum2 = 0;
        restarts = 1;
        if (store && blocks != segment * block->interval * parts) block->status = DAMAGED;
    }
    // Two bits a table: of the first component DC's and AC's, and so on.
    u32 tables = 0;
    for (int i = 2; i >= 0; i--)
        tables = tables << 4 | (u32)(block->ac_of[i] << 2 | block->dc_of[i]);
    const u16* fast = block->fast[0];
    Window window = window_at(words, bit);
    int component = part < luma ? 0 : part - luma + 1;
    u32 pair = tables >> (4 * component);
    int x = store ? blocks / parts % block->across_mcus : 0;
    int y = store ? blocks / parts / block->across_mcus : 0;
    i16* target = 0;
    if (store && blocks < expected) target = stored(block, work, x, y, part);
    while (bit < limit) {
        u32 bits = (u32)(window.bits >> 32);
        if (end < bit + 8) {
            // The padding of an interval's last byte is ones, which begin no code so short.
            u32 left = end > bit ? end - bit : 0;
            int whole = part == 0 && k == 0 && bits >> 24 >> (8 - left) == (1u << left) - 1;
            if (whole || !left) {
                if (store && (!whole || bit > end)) block->status = DAMAGED;
                segment++;
                bit = end;
                part = k = 0;
                component = 0;
                pair = tables;
                if (segment >= block->segments) break;
                window = window_at(words, bit);
                end = starts[segment + 1] * 8;
                sum0 = sum1 = sum2 = 0;
                restarts = 1;
                if (store && blocks != segment * block->interval * parts) {
                    block->status = DAMAGED;
                    break;
                }
                continue;
            }
        }
        int table = (int)((k ? pair >> 2 : pair) & 3);
        u32 step = fast[table << FAST_BITS | (int)(bits >> (32 - FAST_BITS))];
        if (!step) {
            step = long_step(block, table, bits >> 16);
            if (!step) { // no such code
                if (store) block->status = DAMAGED;
                step = 64 << 9 | 16;
            }
        }
        int taken = (int)(step & 31), size = (int)(step >> 5 & 15), on = (int)(step >> 9);
        int value = 0;
        if (store || k == 0) {
            // The value's bits, and below half of their range it is negative.
            value = (int)((bits << (taken - size)) >> 1 >> (31 - size));
            if (value < 1 << size >> 1) value -= (1 << size) - 1;
        }
        if (k == 0) {
            sum0 += component == 0 ? value : 0;
            sum1 += component == 1 ? value : 0;
            sum2 += component == 2 ? value : 0;
            if (store) value = component == 0 ? sum0 : component == 1 ? sum1 : sum2;
        }
        if (store) {
            int at = k + on - 1;
            if (k ? size > 0 : 1) {
                if (at > 63) block->status = DAMAGED;
                else if (target) target[block->natural[at]] = (i16)value;
            }
        }
        bit += (u32)taken;
        move_on(&window, words, taken);
        k += on;
        if (k > 63) {
            blocks++;
            k = 0;
            part = part + 1 == parts ? 0 : part + 1;
            component = part < luma ? 0 : part - luma + 1;
            pair = tables >> (4 * component);
            if (store) {
                if (part == 0 && ++x == block->across_mcus) {
                    x = 0;
                    y++;
                }
                // Behind the last block must be the end.
                target = blocks < expected ? stored(block, work, x, y, part) : 0;
            }
        } else if (store && !target) {
            block->status = DAMAGED;
            break;
        }
    }
    if (store && bit > (u32)block->bytes * 8) block->status = DAMAGED;
    if (!store) {
        totals->blocks = blocks;
        totals->restarts = restarts;
        totals->sums[0] = sum0;
        totals->sums[1] = sum1;
        totals->sums[2] = sum2;
    }
    place.bit = bit;
    place.block = (u16)part;
    place.coefficient = (u16)k;
    return place;
}

DEVICE u32 limit_of(const Block* block, int thread) {
    u64 limit = (u64)block->share * (u32)(thread + 1), bits = (u64)block->bytes * 8;
    return (u32)(limit < bits ? limit : bits);
}

// Read a share from where it begins, whatever that is the middle of.
DEVICE void read_first(Block* block, const Work* work, int thread) {
    if (thread >= block->readers) return;
    Place place;
    place.bit = block->share * (u32)thread;
    place.block = place.coefficient = 0;
    block->begins[thread] = packed(place);
    place = read_share(block, work, place, limit_of(block, thread), &block->totals[thread], 0);
    block->ends[thread] = packed(place);
}

// Has the thread before ended elsewhere than this one began? Then it has to read again.
DEVICE int is_moved(Block* block, int thread) {
    if (thread == 0 || thread >= block->readers) return 0;
    if (block->begins[thread] == block->ends[thread - 1]) return 0;
    block->begins[thread] = block->ends[thread - 1];
    return 1;
}

DEVICE void read_again(Block* block, const Work* work, int thread) {
    Place place = unpacked(block->begins[thread]);
    place = read_share(block, work, place, limit_of(block, thread), &block->totals[thread], 0);
    block->ends[thread] = packed(place);
}

// What is in two shares one after the other.
DEVICE Totals both(Totals first, Totals second) {
    first.blocks += second.blocks;
    for (int i = 0; i < 3; i++)
        first.sums[i] = second.sums[i] + (second.restarts ? 0 : first.sums[i]);
    first.restarts |= second.restarts;
    return first;
}

// Turn totals into what is before each share, in two levels: first within groups...
DEVICE void sum_groups(Block* block, int thread) {
    if (thread >= GROUPS) return;
    Totals before = {0, 0, {0, 0, 0}};
    for (int i = thread * THREADS / GROUPS; i < (thread + 1) * THREADS / GROUPS; i++) {
        if (i >= block->readers) break;
        Totals here = block->totals[i];
        block->totals[i] = before;
        before = both(before, here);
    }
    block->groups[thread] = before;
}

// ...then of groups, by one thread...
DEVICE void sum_up(Block* block) {
    Totals before = {0, 0, {0, 0, 0}};
    for (int i = 0; i < GROUPS; i++) {
        Totals here = block->groups[i];
        block->groups[i] = before;
        before = both(before, here);
    }
    if (before.blocks != block->mcus * block->parts) block->status = DAMAGED;
}

// ...and both together when the share is stored.
DEVICE void store(Block* block, const Work* work, int thread) {
    if (thread >= block->readers) return;
    Place place = unpacked(block->begins[thread]);
    Totals before = both(block->groups[thread / (THREADS / GROUPS)], block->totals[thread]);
    read_share(block, work, place, limit_of(block, thread), &before, 1);
}
