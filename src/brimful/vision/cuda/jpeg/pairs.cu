// What a block has of AC on its way to the transform, as the scan has it: pairs of how many zeros
// come first, and a coefficient. Most coefficients are zero. Stored at their places one by one,
// they asked for a sector of memory each, and all others had to be cleared, which disturbed the
// network beside it more than all else that reading takes (benchmarks/NOTES.md).
//
// Each reader writes one pair behind the other, from where the coefficient that it begins with
// would be if all were stored, and one further for each reader before it. So there is always room,
// and no reader has to know what others found. Where one ends within a block it says so, and the
// block goes on where the next reader began.

#define PAIR_SIZE 10 // bits of a value, without its sign
#define CODE 31      // a pair's bits: the zeros, or one of the following; above them is the value
#define CODE_SIZE 5
#define ENDS 30      // the block ends: as steps count, `found`
#define GOES_ON 31   // the rest of the block is that reader's whose number is the value

// What a reader writes. Four pairs are written at once.
typedef struct {
    u16* pairs;
    u32 first, at; // where it began, and where the next one goes
    u32 low, high; // the last four pairs, the last one highest
} Pairs;

// Write so many of the last pairs, at most three, one by one, if they are this reader's.
DEVICE void write_some(const Pairs* pairs, u32 count) {
    u64 held = (u64)pairs->high << 32 | pairs->low;
    UNROLLED for (u32 i = 1; i < 4; i++)
        if (i <= count && pairs->at >= pairs->first + i)
            pairs->pairs[pairs->at - i] = (u16)(held >> (64 - 16 * i));
}

// The lowest bits of `code` count.
DEVICE void append(Pairs* pairs, u32 code, int value) {
    u32 pair = (u32)value << CODE_SIZE | (code & CODE);
    pairs->low = shifted(pairs->high, pairs->low, 16);
    pairs->high = shifted(pair, pairs->high, 16);
    if (++pairs->at % 4) return;
    if (pairs->at >= pairs->first + 4)
        *(u64*)(pairs->pairs + pairs->at - 4) = (u64)pairs->high << 32 | pairs->low;
    else
        write_some(pairs, 3);
}

// Write what is left.
DEVICE void finish(const Pairs* pairs) { write_some(pairs, pairs->at % 4); }

// Where a reader begins, in pairs.
DEVICE u32 beginning(u32 block, u32 coefficient, int reader) {
    return 64 * block + coefficient + (u32)reader;
}

// A reader has ended with so many coefficients of a block: say that the next one has the others.
DEVICE void hand_on(Pairs* pairs, const Work* work, u32 block, u32 coefficients, int reader) {
    if (coefficients > 1) append(pairs, GOES_ON, reader + 1);
    // Of this one there are none.
    if (coefficients == 1) work->records[block].pairs = beginning(block, 1, reader + 1);
}

// How far a block's pairs have been read, by eight threads that take some each.
typedef struct {
    u32 at;     // the next pair
    int filled; // coefficients before it: 64 or more behind the block's end
} Way;

#define TAKEN 2 // pairs that each of the eight threads takes at a time

// For how many coefficients a pair stands. What ends the block is longer than that.
DEVICE int length_of(u32 pair) { return (int)((pair & CODE) + (pair & 16) * 4) + 1; }

DEVICE int value_of(u32 pair) { return (i16)pair >> CODE_SIZE; }

// Put a thread's pairs in their places, the first of which is behind so many coefficients. One of
// sixteen zeros puts a zero where the last of them is.
DEVICE void put_pairs(const u32* pairs, int filled, const u8* places, i16* coefficients) {
    UNROLLED for (int i = 0; i < TAKEN; i++) {
        filled += length_of(pairs[i]);
        if (filled <= 64)
            *(i16*)((u8*)coefficients + places[filled - 1]) = (i16)value_of(pairs[i]);
    }
}

DEVICE int may_go_on(const u32* pairs) {
    int may = 0;
    UNROLLED for (int i = 0; i < TAKEN; i++) may |= (pairs[i] & CODE) == GOES_ON;
    return may;
}

// Where the block goes on, if one of the pairs says so: behind so many coefficients, and, times
// 256, in whose pairs. Else 0.
DEVICE u32 next_part(const u32* pairs, int filled) {
    u32 part = 0;
    UNROLLED for (int i = 0; i < TAKEN; i++) {
        if (filled < 64 && (pairs[i] & CODE) == GOES_ON)
            part = (u32)value_of(pairs[i]) << 8 | (u32)filled;
        filled += length_of(pairs[i]);
    }
    return part;
}

DEVICE Way way_on(u32 part, int block) {
    Way way = {beginning((u32)block, part & 255, (int)(part >> 8)), (int)(part & 255)};
    return way;
}
